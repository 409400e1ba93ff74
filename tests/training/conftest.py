"""A small corpus of pairs in which the words decide, for tests that train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.training.tokens import TokenStore, build_store
from components.training.vocabulary import learn_tokenizer

NOUNS = ("table", "file", "socket", "thread", "matrix", "string", "image", "queue", "token", "shard")
VERBS = ("read", "write", "open", "close", "merge", "split", "parse", "draw")


@pytest.fixture(scope="session")
def pair_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenStore, np.ndarray, np.ndarray, int]:
    """Store, query rows [80], passage rows [80], vocabulary size: every verb and noun with a passage about them."""
    pairs = [(verb, noun) for verb in VERBS for noun in NOUNS]
    queries = [f"{verb} a {noun}" for verb, noun in pairs]
    passages = [
        f"this function will {verb} the given {noun} and return {len(verb + noun)} of them" for verb, noun in pairs
    ]
    tokenizer = learn_tokenizer(queries + passages, 300, 1)
    folder: Path = tmp_path_factory.mktemp("store") / "tokens"
    store = build_store(folder, tokenizer, queries + passages, "pairs")
    return store, store.rows_of(queries), store.rows_of(passages), tokenizer.get_vocab_size()
