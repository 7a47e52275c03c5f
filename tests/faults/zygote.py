"""Begin `qwen35` again and again without importing it anew: VERB... on the command line are imported once.

On stdin, a line of JSON, {"arguments": [...], "out": FILE, "err": FILE}, begins a command, whose process id is printed;
an empty line waits for it, and its exit code is printed.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

from qwen35_gguf.cli import main
from qwen35_gguf.commands import discover


def run(job: dict[str, object]) -> int:
    """Run a command in this process, to the end of the interpreter."""
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(str(job[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    print("begun", file=sys.stderr, flush=True)
    try:
        main(args=job["arguments"])  # type: ignore[arg-type]
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve() -> int:
    """Begin commands until stdin ends; return the exit code of one in its own process."""
    for verb in sys.argv[1:]:
        discover.load(verb)
    import jinja2.sandbox  # noqa: F401
    import uvicorn  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return run(json.loads(line))
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(serve())
