"""A stream of Zstandard data that notices where it was cut off, which the package's own stream reader does not."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import zstandard

READ_BYTES = 1 << 17


class ZstdReader(io.RawIOBase):
    """Reads one or more frames. Raises EOFError if the last is incomplete, OSError if the data are no Zstandard."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._inside = False  # whether a frame has begun and not ended
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._refill():
            pass
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _refill(self) -> bool:
        """Decompress some more; False at the end of the data."""
        self._packed = self._packed or self._file.read(READ_BYTES)
        if not self._packed:
            if self._inside:
                raise EOFError("a Zstandard frame is incomplete")
            return False
        try:
            self._ready = memoryview(self._frame.decompress(self._packed))
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from None
        self._inside, self._packed = not self._frame.eof, self._frame.unused_data
        if self._frame.eof:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        return True
