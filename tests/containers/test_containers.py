"""The Dockerfile and the compose file as far as they can be checked without building: nothing that they name is absent.

Every source of COPY exists and is not ignored, command lines are accepted by our own parser, ports, paths and variables
are those of the server, and the server runs without rights.
"""

from __future__ import annotations

import fnmatch
import http.server
import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import click
import pytest
import yaml

from oracles.paths import ROOT
from qwen35_gguf.commands import discover

pytestmark = pytest.mark.unit

FILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "examples" / "container" / "compose.yaml"


class Instruction(NamedTuple):
    """A line of a Dockerfile, with those that continue it."""

    name: str
    text: str


def instructions() -> Iterator[Instruction]:
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, text = line.partition(" ")
            yield Instruction(name, text.strip())


def named(name: str) -> list[str]:
    return [one.text for one in instructions() if one.name == name]


def words(name: str) -> list[str]:
    """The words of the last instruction of a name, in its JSON form, without options."""
    text = named(name)[-1]
    found: list[str] = json.loads(text[text.index("[") :])
    return found


def test_only_known_instructions() -> None:
    known = "ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK RUN USER VOLUME WORKDIR"
    assert {one.name for one in instructions()} == set(known.split())


def test_base_images_have_versions() -> None:
    bases = [text.split()[0] for text in named("FROM")]
    assert bases == ["${BUILD_BASE}", "${BASE}"]
    defaults = dict(text.split("=") for text in named("ARG") if text.split("=")[1])
    comments = [
        word for line in FILE.read_text(encoding="utf-8").splitlines() for word in line.split() if "/cuda:" in word
    ]
    for image in [*defaults.values(), *(word.split("=")[1] for word in comments)]:
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", image), image
    assert {word.split("=")[0] for word in comments} == {"BUILD_BASE", "BASE"}


def test_every_source_of_a_copy_exists_and_is_sent_to_the_builder() -> None:
    ignored = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in ("#", "")
    ]
    stages = [text.rpartition(" AS ")[2] for text in named("FROM") if " AS " in text]
    sources = []
    for text in named("COPY"):
        *given, _ = shlex.split(text)
        if given[0].startswith("--from="):
            assert given[0].removeprefix("--from=") in stages
            continue
        sources += given
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(sources)
    assert ignored[0] == "*"
    # What the build reads: the links in qwen35_gguf lead to folders that are copied as well.
    for link in (ROOT / "qwen35_gguf").iterdir():
        if link.is_symlink():
            assert link.resolve().relative_to(ROOT).as_posix() in sources
    for name in ("LICENSE", "NOTICE", "README.md"):
        assert any(fnmatch.fnmatch(name, source) for source in sources)


def test_packages_are_installed_without_leftovers() -> None:
    for text in named("RUN"):
        if "apt-get install" in text:
            assert "--no-install-recommends" in text
            assert "rm -rf /var/lib/apt/lists/*" in text
        assert "sudo" not in text
        assert "curl" not in text


def test_extras_and_options_exist() -> None:
    text = "\n".join(named("RUN"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extras in re.findall(r"extras=([\w,-]+)", text):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    for script, options in (("build.py", ["--cuda", "--python"]), ("wheels.py", ["--only", "--dist"])):
        done = subprocess.run(
            [sys.executable, str(ROOT / "patches" / script), "--help"], capture_output=True, text=True, check=True
        )
        assert f"patches/{script}" in text
        assert [option for option in options if option not in done.stdout or option not in text] == []
    wheels = re.search(r"^wheels = \[(.*)\]", project, re.MULTILINE)
    assert wheels
    assert set(re.findall(r'"([^"]+)"', wheels[1])) == set(re.findall(r"'(\w+>=[\d.]+)'", text))


def test_it_runs_as_a_user_without_rights() -> None:
    assert named("USER") == ["qwen35"]
    names = [one.name for one in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "RUN" not in names[names.index("USER") :]


def parsed(command: list[str]) -> dict[str, Any]:
    """Parse a command line of ours; the values of its parameters."""
    serve = discover.load(command[0])
    assert isinstance(serve, click.Command)
    return serve.make_context(command[0], command[1:]).params


def test_the_command_line_is_accepted() -> None:
    assert words("ENTRYPOINT") == ["qwen35"]
    given = parsed(words("CMD"))
    assert [str(file) for file in given["files"]] == named("VOLUME")
    assert (str(given["port"]), given["host"], given["without_key"]) == (named("EXPOSE")[0], "0.0.0.0", False)


def test_the_health_check_asks_what_the_server_answers_without_a_key() -> None:
    code = words("HEALTHCHECK")[-1]
    operations = (ROOT / "qwen35_gguf" / "server" / "api" / "operations.py").read_text(encoding="utf-8")
    assert f"127.0.0.1:{named('EXPOSE')[0]}/health" in code
    assert '"/health"' in operations
    for status, healthy in ((200, True), (503, False)):

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self, status: int = status) -> None:
                self.send_response(status if self.path == "/health" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                other = code.replace(":8080/", f":{server.server_port}/")
                done = subprocess.run([sys.executable, "-c", other], capture_output=True, check=False)
            finally:
                server.shutdown()
                thread.join()
        assert (done.returncode == 0) == healthy


def test_the_compose_file_fits_the_image() -> None:
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    ours, page = services["qwen35"], services["open-webui"]
    context = (COMPOSE.parent / ours["build"]["context"]).resolve()
    assert (context, (context / ours["build"]["dockerfile"]).is_file()) == (ROOT, True)
    given = parsed(ours["command"])
    assert given["hosts"] == ("qwen35",)
    assert given["host"] == "0.0.0.0"
    assert ours["ports"] == [f"127.0.0.1:8080:{named('EXPOSE')[0]}"]
    assert [volume.rpartition(":")[2] for volume in ours["volumes"]] == named("VOLUME")
    assert "QWEN35_API_KEY" in ours["environment"]
    assert page["environment"]["OPENAI_API_BASE_URL"] == f"http://qwen35:{given['port']}/v1"
    assert page["environment"]["OPENAI_API_KEY"] == ours["environment"]["QWEN35_API_KEY"]
    assert page["depends_on"]["qwen35"]["condition"] == "service_healthy"
    assert ours["cap_drop"] == ["ALL"]
    assert not page["image"].endswith((":latest", ":main"))
