"""Compressed data as a stream that ends where it can no longer be read, and then says why: what came before counts."""

from __future__ import annotations

import bz2
import io
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

# Compressed bytes that are unpacked at a time. Zstandard packs repetitions by up to 1 : 30,000, so that this bounds
# the memory of a hostile file to some hundred megabytes.
PACKED_BYTES = 1 << 14


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


# A fresh decompressor of one gzip member, bzip2 stream or Zstandard frame.
_DECOMPRESSOR: Mapping[str, Callable[[], Any]] = {
    "gz": lambda: zlib.decompressobj(wbits=31),
    "bz2": bz2.BZ2Decompressor,
    "zst": _zstd,
}


class Unpacked(io.RawIOBase):
    """The content of one or more gzip members, bzip2 streams or Zstandard frames in a row.

    `damage` is None as long as all is well. At the end of the stream it is the reason why that is not the end of the
    data: `truncated`, if they end inside a frame, or `corrupt`; `detail` says it in words.
    """

    def __init__(self, file: BinaryIO, compression: str) -> None:
        self.damage: str | None = None
        self.detail = ""
        self._file, self._compression = file, compression
        self._frame = _DECOMPRESSOR[compression]()
        self._inside = False  # whether a frame has begun and not ended
        self._packed = b""
        self._ready = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self.damage is None and self._refill():
            pass
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        self._position += size
        return size

    def tell(self) -> int:
        return self._position

    def _refill(self) -> bool:
        """Unpack some more; False at the end of the data."""
        while not self._packed and (packed := self._file.read(PACKED_BYTES)):
            # zeros between and after gzip members are padding
            self._packed = packed.lstrip(b"\0") if self._compression == "gz" and not self._inside else packed
        if not self._packed:
            if self._inside:
                self.damage, self.detail = "truncated", f"the .{self._compression} data ends too early"
            return False
        try:
            self._ready = memoryview(self._frame.decompress(self._packed))
        except Exception as error:  # each library has an error class of its own
            self.damage, self.detail = "corrupt", f"not readable .{self._compression} data ({error})"
            return False
        self._inside, self._packed = not self._frame.eof, self._frame.unused_data
        if self._frame.eof:
            self._frame = _DECOMPRESSOR[self._compression]()
            if self._compression == "gz":
                self._packed = self._packed.lstrip(b"\0")
        return True
