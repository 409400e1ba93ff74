"""The training engine measured: `python benchmarks/training.py [PART…]` prints tables and keeps them as data.py does.

Without a part it runs all of them in order, twenty-odd minutes on two idle cores. The peer, sentence-transformers, runs
in the same process, with the same loss on the same texts, in turns with ours.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.NAME

# part → module, in the order in which they run
PARTS = {
    "parity": "parity",
    "static": "static",
    "encode": "encoding",
    "encoder": "packing",
    "mining": "mining",
    "plan": "plan",
    "memory": "memory",
    "overhead": "overhead",
    "ablation": "ablation",
}


def main(arguments: list[str]) -> None:
    unknown = [name for name in arguments if name not in PARTS]
    if unknown:
        raise SystemExit(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    from components.core import environment

    environment.quiet()
    from components.training.lanes import use_threads

    for name in arguments or PARTS:
        use_threads(1)  # PyTorch's own too; parts that compare threads set them
        start = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        result = importlib.import_module(f"benchmarks.{PARTS[name]}").run()
        result.part, result.script = name, "training.py"
        result.save()
        print(f"\r\033[K{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        print(result.markdown(), end="\n\n", flush=True)
    importlib.import_module("benchmarks.summary").write()


if __name__ == "__main__":
    main(sys.argv[1:])
