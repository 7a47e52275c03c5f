# Runs as root of the bare file system, without a network. Each step ends with a line "== STEP: SECONDS s".
set -eu
cd /srv
ip link set lo up 2>/dev/null || python3 -c '
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x49))  # SIOCSIFFLAGS: up, running
'
PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export PIP_NO_INDEX PIP_DISABLE_PIP_VERSION_CHECK PIP_ROOT_USER_ACTION

step() {
  name=$1
  shift
  before=$(date +%s)
  "$@"
  echo "== $name: $(($(date +%s) - before)) s"
}

answer_has_paris() {
  "$@" | tee /tmp/answer
  grep -q Paris /tmp/answer
}

serve() {
  qwen35 serve /srv/models --port 8099 >/tmp/serve.log 2>&1 &
  server=$!
  answer_has_paris python3 /srv/ask.py 8099 || { cat /tmp/serve.log; exit 1; }
  kill "$server"
  wait "$server" || true
}

if [ "$1" = wheel ]; then
  for program in cc gcc g++ clang cmake make git ninja; do
    if command -v "$program"; then echo "this root is not bare: it has $program"; exit 1; fi
  done
  rm -rf /opt/qwen35
  step 'make an environment' python3 -m venv /opt/qwen35
  PATH=/opt/qwen35/bin:$PATH
  step "pip install 'qwen35-gguf[server]'" pip install --quiet --find-links /srv/dist --find-links /srv/packages 'qwen35-gguf[server]'
  for part in /opt/qwen35 /opt/qwen35/lib/python3*/site-packages/qwen35_*; do du -sm "$part" | sed 's/^/MB: /'; done
  pip list 2>/dev/null | grep -i qwen35
  demo=/srv/demo
else
  PIP_FIND_LINKS=/srv/packages
  export PIP_FIND_LINKS
  mkdir -p /root/.cache/qwen35-gguf
  cp /srv/packages/llama_cpp_python-*.tar.gz /root/.cache/qwen35-gguf/
  cd /srv/clone
  rm -rf .venv
  step 'make runtime' make runtime
  PATH=/srv/clone/.venv/bin:$PATH
  du -sm .venv | sed 's/^/MB: /'
  demo=/srv/clone/examples/tiny-qwen3.5
fi
step 'qwen35 doctor' qwen35 doctor
step 'qwen35 convert of the demo' qwen35 convert "$demo" -q Q4_K_M -o /srv/models --quiet
file=$(ls /srv/models/*Q4_K_M.gguf | grep -v mmproj | head -n 1)
step 'qwen35 run' answer_has_paris qwen35 run "$file" 'What is the capital of France?'
step 'qwen35 serve, one answer' serve
echo "== all steps passed"
