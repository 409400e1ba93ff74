"""An encoder behind OpenAI's HTTP API, against a strict fake: batches, refusals, retries, last words."""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from components.core import remote
from components.core.errors import InputError, UsageError
from components.training import endpoint
from components.training.encoder import open_encoder
from components.training.vectors import encode_cached
from tests.fixtures.embedding_server import DIMS, KEY, MAX_INPUTS, MODEL, EmbeddingServer, embedding_server, vector_of

TEXTS = [f"text number {index}" for index in range(3 * MAX_INPUTS)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)
    with embedding_server() as running:
        yield running


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    return slept


def expected(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([vector_of(text) for text in texts], np.float32)


def test_vectors_come_in_the_order_of_the_texts_whatever_order_the_answer_has(server: EmbeddingServer) -> None:
    encoder = open_encoder(server.spec)
    assert (encoder.dims, encoder.name) == (DIMS, server.spec)
    np.testing.assert_allclose(encoder.encode([*TEXTS, TEXTS[0]]), expected([*TEXTS, TEXTS[0]]), atol=1e-6)


def test_a_batch_that_is_too_large_goes_in_halves(server: EmbeddingServer) -> None:
    open_encoder(server.spec).encode(TEXTS)
    assert sorted(server.embedded) == sorted([endpoint.PROBE, *TEXTS])


def test_a_text_that_is_refused_or_answered_with_nothing_has_no_vector(server: EmbeddingServer) -> None:
    broken: dict[str, Any] = {"null": None, "empty list": [], "not a number": [math.nan] * DIMS, "words": ["a"] * DIMS}
    server.alter = lambda text, vector: broken.get(text, vector)
    texts = ["fine", "", "x" * 501, "null", "empty list", "not a number", "words", "fine too"]
    vectors = open_encoder(server.spec).encode(texts)
    assert np.isfinite(vectors).all(axis=1).tolist() == [text.startswith("fine") for text in texts]
    np.testing.assert_allclose(vectors[[0, -1]], expected(["fine", "fine too"]), atol=1e-6)


def test_busy_servers_are_asked_again_after_the_pause_they_name(server: EmbeddingServer, pauses: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    server.answers = [(429, {"Retry-After": "7"}, None), (503, {"Retry-After": date}, None), (500, {}, None)]
    server.answers += [(200, {}, b'{"data": ['), (200, {}, b'{"data": []}'), (529, {"Retry-After": "9999"}, None)]
    assert open_encoder(server.spec).dims == DIMS
    assert pauses[0] == 7
    assert 15 < pauses[1] <= 20
    assert all(0.0005 * 2**power <= pause <= 0.001 * 2**power for power, pause in enumerate(pauses[2:5], 2))
    assert pauses[5] == remote.WAIT_LIMIT_SECONDS


def test_a_server_that_never_recovers_ends_in_one_line(server: EmbeddingServer, pauses: list[float]) -> None:
    encoder = open_encoder(server.spec)
    server.always = (500, {}, None)
    with pytest.raises(
        InputError, match=rf"^{MODEL} at {server.url}: 500 .*: scripted answer 500 .given up after 8 attempts.$"
    ):
        encoder.encode(["a"])
    assert len(pauses) == remote.ATTEMPTS - 1


def test_no_server_ends_in_one_line(server: EmbeddingServer, pauses: list[float]) -> None:
    nowhere = server.spec.replace(server.url, "http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match=r"at http://127\.0\.0\.1:9/v1: .*refused .given up after 8 attempts.$"):
        open_encoder(nowhere)


def test_a_wrong_key_or_model_is_said_at_once_and_the_key_is_not(
    server: EmbeddingServer, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="The model `other` does not exist"):
        open_encoder(server.spec.replace(MODEL, "other"))
    monkeypatch.setenv("OTHER_KEY", "sk-secret-key")
    with pytest.raises(UsageError, match="is the key in OTHER_KEY right") as caught:
        open_encoder(f"{server.spec}#OTHER_KEY")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("OTHER_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert open_encoder(f"{server.spec}#OTHER_KEY").dims == DIMS
    with pytest.raises(UsageError, match="the environment variable NO_SUCH_KEY is not set"):
        open_encoder(f"{server.spec}#NO_SUCH_KEY")
    assert pauses == []


def test_a_redirection_is_not_followed(server: EmbeddingServer) -> None:
    with embedding_server() as other:
        server.always = (307, {"Location": f"{other.url}/embeddings"}, None)
        with pytest.raises(InputError, match="307"):
            open_encoder(server.spec)
        assert other.requests == 0


def test_a_vector_of_another_length_is_an_error(server: EmbeddingServer) -> None:
    encoder = open_encoder(server.spec)
    server.alter = lambda text, vector: vector[:8]
    with pytest.raises(InputError, match=f"a vector of 8 numbers, where {DIMS} were expected"):
        encoder.encode(["a"])


def test_answers_that_are_something_else_end_in_one_line(server: EmbeddingServer, pauses: list[float]) -> None:
    for body, said in ((b"<html>", "Expecting value"), (json.dumps({"object": "list"}).encode(), "not an answer of")):
        server.always = (200, {}, body)
        with pytest.raises(InputError, match=said):
            open_encoder(server.spec)


@pytest.mark.parametrize("spec", ["openai:", "openai:model", "openai:model@host/v1", "openai:m@http://u:p@host/v1"])
def test_a_spec_that_names_no_endpoint_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="expected openai:MODEL@https://host/v1"):
        open_encoder(spec)


def test_no_text_is_paid_for_twice(server: EmbeddingServer, tmp_path: Any) -> None:
    encoder = open_encoder(server.spec)
    first = encode_cached(encoder, [*TEXTS, *TEXTS], tmp_path, workers=2)
    asked = server.requests
    np.testing.assert_array_equal(encode_cached(encoder, [*TEXTS, *TEXTS], tmp_path), first)
    assert server.requests == asked
    assert len(server.embedded) == len(TEXTS) + 1
