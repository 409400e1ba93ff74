"""Arrays in files of their own, as .npy."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import storage


def write_array(uri: str, array: NDArray[Any]) -> None:
    """Write an array of numbers."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    storage.write_bytes(uri, buffer.getvalue())


def read_array(uri: str) -> NDArray[Any]:
    """The array that `write_array` wrote."""
    array: NDArray[Any] = np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)
    return array
