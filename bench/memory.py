"""Convert a shape-true checkpoint in a process of its own; print wall time, CPU time, peak memory and bytes.

.venv/bin/python bench/memory.py --size 0.8b --quant Q4_K_M
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Make the checkpoint, convert it, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="0.8b", choices=["tiny", "0.8b", "2b", "4b", "9b"])
    parser.add_argument("--quant", default="Q4_K_M")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "checkpoint"), Path(scratch, "out")
        make = [sys.executable, str(ROOT / "examples" / "make_checkpoint.py"), str(source), "--size", options.size]
        subprocess.run(make, check=True)
        start = time.perf_counter()
        script = str(ROOT / "convert" / "hf_to_gguf.py")
        child = subprocess.Popen([sys.executable, script, str(source), "-q", options.quant, "-o", str(out)])
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        if status:
            raise SystemExit("the conversion failed")
        read = sum(file.stat().st_size for file in source.glob("*.safetensors"))
        written = sum(file.stat().st_size for file in out.iterdir())
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    print(f"size {options.size}, {options.quant}: wall {wall:.1f} s, CPU {usage.ru_utime + usage.ru_stime:.1f} s,")
    print(
        f"peak memory {usage.ru_maxrss * unit / 1e6:.0f} MB, read {read / 1e6:.0f} MB, written {written / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
