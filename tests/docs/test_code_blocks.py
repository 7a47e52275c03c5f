"""The pages that show how to use the project: every block of code runs, on the tiny demo model."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from oracles.hub.uploads import TOKEN, serve
from oracles.paths import ROOT

RUNNER = Path(__file__).with_name("run_page.py")
PAGES = ("build-an-app.md", "publish-a-release.md", "structured-output.md")  # their blocks are all run
NOT_RUN = {"build-an-app.md": 1}  # blocks of a page that say why they are not


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_page", RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(page: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a page in a process of its own, without a login and without the network."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    clean |= {"QWEN35_CACHE": str(folder / ".cache"), "HF_HUB_DISABLE_XET": "1", "PYTHONUNBUFFERED": "1"} | environment
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(RUNNER), str(page), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=clean, timeout=600)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, tmp_path: Path) -> None:
    with serve() as hub:
        hub.exists = False
        home = str(tmp_path / "home")
        done = run(ROOT / "docs" / page, tmp_path / "page", HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN, HF_HOME=home)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_left_out_in_silence(runner: ModuleType, page: str) -> None:
    found = list(runner.blocks((ROOT / "docs" / page).read_text(encoding="utf-8")))
    assert len(found) >= 5
    assert sum(bool(block.not_run) for block in found) == NOT_RUN.get(page, 0)


# ---- the runner itself -------------------------------------------------------------------------------------------

PAGE = """\
# A page

```python
x = 20
```

*Not run by the tests: it never ends.*

```sh
sleep infinity
```

```python
print(x + 22, __name__)
```

```sh
test -f examples/tiny-qwen3.5/config.json
qwen35 --version
```

```text
42 __main__
```
"""


@pytest.mark.unit
def test_blocks_run_in_order_and_share_names(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(PAGE, encoding="utf-8")
    done = run(tmp_path / "a.md", tmp_path / "folder")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == ["--- a.md:4", "--- a.md:10: not run: it never ends", "--- a.md:14", "42 __main__"]
    assert lines[5].startswith("qwen35, version ")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("```python\n\nraise ZeroDivisionError\n```\n", 'a.md", line 5'),
        ("```python\nraise SystemExit(0)\n```\n", "SystemExit"),
        ("```sh\nfalse\necho after\n```\n", "a.md:4: failed"),
        ("```sh\nfalse | cat\n```\n", "a.md:4: failed"),
        ("```sh\necho $no_such_variable\n```\n", "no_such_variable"),
    ],
)
def test_a_block_that_fails_ends_the_page(tmp_path: Path, block: str, reason: str) -> None:
    (tmp_path / "a.md").write_text(f"Text.\n\n{block}\n```sh\necho next\n```\n", encoding="utf-8")
    done = run(tmp_path / "a.md", tmp_path / "folder")
    assert done.returncode == 1
    assert reason in done.stderr
    assert "after" not in done.stdout
    assert "next" not in done.stdout


@pytest.mark.unit
@pytest.mark.parametrize("fence", ["bash", "shell", "console", "py", "python3", "pycon", "", "python title=x"])
def test_no_block_escapes_by_its_language(runner: ModuleType, fence: str) -> None:
    with pytest.raises(ValueError, match="line 3: a block of"):
        list(runner.blocks(f"a\n\n```{fence}\nx\n```\n"))
    with pytest.raises(ValueError, match="line 1: a block of"):
        list(runner.blocks("  ```python\n  x\n  ```\n"))
    with pytest.raises(ValueError, match="not closed"):
        list(runner.blocks("```python\nx\n"))
