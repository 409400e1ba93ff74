"""The data half measured: `python benchmarks/data.py [PART…]` prints tables and keeps them in results/ and README.md.

Without a part it runs all of them in order; `peers` must have run once before those that compare.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.NAME

# part → module, in the order in which they run
PARTS = {
    "peers": "peers",
    "minhash": "signatures",
    "dedup": "deduplication",
    "filters": "filters",
    "score": "scoring",
    "extraction": "extraction",
    "dirty": "dirty",
    "growth": "growth",
}


def main(arguments: list[str]) -> None:
    unknown = [name for name in arguments if name not in PARTS]
    if unknown:
        raise SystemExit(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    from components.core import environment

    environment.quiet()
    environment.fix_threads(1)
    for name in arguments or PARTS:
        result = importlib.import_module(f"benchmarks.{PARTS[name]}").run()
        result.save()
        print(result.markdown(), end="\n\n", flush=True)
    importlib.import_module("benchmarks.summary").write()


if __name__ == "__main__":
    main(sys.argv[1:])
