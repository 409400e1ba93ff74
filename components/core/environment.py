"""The process environment: no telemetry, a fixed number of threads, the processes that torchrun starts together."""

from __future__ import annotations

import os

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}
THREAD_KEYS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def quiet() -> None:
    """Turn telemetry off before any library is imported; what the user set stays as it is."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)


def fix_threads(threads: int) -> None:
    """Fix the thread count of the numerical libraries, which read it at import: sums depend on how work is split."""
    for key in THREAD_KEYS:
        os.environ[key] = str(threads)
    # A thread that waits by spinning keeps a shared core from the very thread it waits for: measured 13 times the time
    # of encoding on a loaded machine, and no gain on an idle one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def processes() -> int:
    """How many processes torchrun started together to run this step; 1 without it."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdecimal() else 1


def rank() -> int:
    """This process's number among them, from 0. The first one writes outputs, holds locks and speaks; others do not."""
    number = os.environ.get("RANK", "0")
    return int(number) if number.isdecimal() and processes() > 1 else 0
