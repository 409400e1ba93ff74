"""The server as its clients see it: the model's own vectors, OpenAI's shapes, and an end that loses no request."""

from __future__ import annotations

import base64
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.serve.model import open_model
from components.training.encoder import open_encoder
from tests.conftest import Embedmill
from tests.fixtures.seaweed import S3Bucket
from tests.register.tiny_run import DIMS, write_model
from tests.serve.conftest import Server
from tests.training.test_dense import tiny_transformer

Serving = Callable[..., Server]
TEXTS = ("read a csv file", "Open a socket, close a socket", "nothing known", "sort json into a table " * 50)


def model_folder(folder: Path, **config: Any) -> Path:
    write_model(folder)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"matryoshka_dims": [DIMS, 4], **config}))
    return folder


def expected(folder: Path, texts: tuple[str, ...], dims: int | None = None) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", truncate_dim=dims)
    return np.asarray(model.encode(list(texts), normalize_embeddings=True))


def vectors(answer: dict[str, Any]) -> np.ndarray:
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return np.array([each["embedding"] for each in answer["data"]])


def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, serving: Serving) -> None:
    folder = model_folder(tmp_path / "mine")
    server = serving("--model", str(folder))
    answer = server.embed(*TEXTS)
    np.testing.assert_allclose(vectors(answer), expected(folder, TEXTS), atol=1e-5)
    assert answer["usage"] == {"prompt_tokens": 4 + 7 + 2 + 250, "total_tokens": 263}
    cut = vectors(server.embed(*TEXTS, dimensions=4))
    np.testing.assert_allclose(cut, expected(folder, TEXTS, 4), atol=1e-5)
    packed = server.embed(*TEXTS, dimensions=4, encoding_format="base64", model="mine")
    rows = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in packed["data"]]
    np.testing.assert_array_equal(np.array(rows), cut.astype(np.float32))
    one = server.ask("/v1/embeddings", {"input": TEXTS[0]})[1]
    np.testing.assert_array_equal(vectors(one), vectors(answer)[:1])


def test_a_transformer_goes_the_way_of_the_other_steps(tmp_path: Path) -> None:
    folder = tiny_transformer(tmp_path)
    model = open_model(folder, "tiny", "1")
    found, tokens = model.encode(list(TEXTS), model.dims[0])
    np.testing.assert_allclose(found, expected(folder, TEXTS), atol=1e-5)
    assert tokens > sum(len(text.split()) for text in TEXTS[:3])


def test_a_transformer_without_torch_names_the_image_that_serves_it(tmp_path: Path, serving: Serving) -> None:
    folder = tiny_transformer(tmp_path)
    with pytest.raises(AssertionError, match=r"embedmill: .*needs torch and sentence_transformers.*embedmill-train"):
        serving("--model", str(folder))


def test_prompts_go_by_the_side_that_a_text_stands_on(tmp_path: Path, serving: Serving) -> None:
    folder = model_folder(tmp_path / "mine", prompts={"query": "open ", "document": "close "})
    server = serving("--model", str(folder))
    for side, prompt in (("query", "open "), ("passage", "close ")):
        found = vectors(server.embed("a csv file", input_type=side))
        np.testing.assert_array_equal(found, vectors(server.embed(f"{prompt}a csv file")))


def test_figures_and_models_are_told(tmp_path: Path, serving: Serving) -> None:
    server = serving("--model", str(model_folder(tmp_path / "mine")))
    model = server.embed("read", "a csv")["model"]
    assert server.ask("/v1/embeddings", {"input": []})[0] == 400
    assert server.ask("/healthz") == (200, {"status": "ok"})
    status, ready = server.ask("/readyz")
    assert (status, ready["dimensions"]) == (200, [DIMS, 4])
    assert f"mine/{ready['version']}" == model
    assert [each["id"] for each in server.ask("/v1/models")[1]["data"]] == ["mine", model]
    figures = server.ask("/metrics")[1].splitlines()
    assert 'embedmill_requests_total{status="200"} 1' in figures
    assert 'embedmill_requests_total{status="400"} 1' in figures
    assert "embedmill_texts_total 2" in figures
    assert "embedmill_tokens_total 3" in figures
    assert 'embedmill_request_seconds_bucket{le="+Inf"} 1' in figures


REFUSALS = [
    (b"{", 400, None, "not JSON"),
    (b'{"input": "\\ud800"}', 400, None, "not JSON"),
    (b"[]", 400, None, "expected a JSON object with the key input"),
    ({}, 400, "input", "expected a string that is not empty, or a list"),
    ({"input": ""}, 400, "input", "expected a string that is not empty"),
    ({"input": []}, 400, "input", "an empty list"),
    ({"input": ["a", ""]}, 400, "input", r"input\[1\]: expected a string that is not empty$"),
    ({"input": [[1, 2]]}, 400, "input", r"input\[0\]: .*LangChain: check_embedding_ctx_length=False"),
    ({"input": ["a"] * 2049}, 400, "input", "2049 texts; at most 2048"),
    ({"input": "a" * (9 << 20)}, 413, None, "more than 8,388,608 bytes"),
    ({"input": "a", "dimensions": 5}, 400, "dimensions", "allowed: 8, 4"),
    ({"input": "a", "dimensions": "4"}, 400, "dimensions", "valid integer"),
    ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format", "'float' or 'base64'"),
    ({"input": "a", "input_type": "question"}, 400, "input_type", "'query' or 'passage'"),
    ({"input": "a", "dimension": 4}, 400, "dimension", "unknown; allowed are input, model, dimensions"),
    ({"input": "a", "model": "ada"}, 404, "model", "model 'ada' is not served here; mine or mine/"),
]


def test_what_cannot_be_answered_is_refused_in_openais_shape(tmp_path: Path, serving: Serving) -> None:
    server = serving("--model", str(model_folder(tmp_path / "mine")))
    for body, status, param, message in REFUSALS:
        found, answer = server.ask("/v1/embeddings", body)
        assert found == status, answer
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert (answer["error"]["type"], answer["error"]["param"]) == ("invalid_request_error", param), answer
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(answer["error"]["message"])
    assert server.ask("/v1/embeddings", {"input": "a"}, {"Content-Type": "text/plain"})[0] == 415
    assert server.ask("/v1/embeddings")[0] == 405
    status, answer = server.ask("/v1/completions", {})
    assert (status, answer["error"]["message"]) == (404, "POST /v1/completions: Not Found")


def test_beyond_this_machine_a_key_is_asked_for(tmp_path: Path, serving: Serving, embedmill: Embedmill) -> None:
    folder = str(model_folder(tmp_path / "mine"))
    refused = embedmill("serve", "--model", folder, "--host", "0.0.0.0", "--port", 0)
    assert refused.returncode == 2
    assert "set EMBEDMILL_API_KEY, or EMBEDMILL_API_KEY_FILE to a file with the key" in refused.stderr
    key = tmp_path / "key"
    key.write_text("\n")
    empty = embedmill("serve", "--model", folder, "--port", 0, env={"EMBEDMILL_API_KEY_FILE": str(key)})
    assert (empty.returncode, "is empty" in empty.stderr) == (2, True)
    key.write_text("geheim-ü\n")
    server = serving("--model", folder, "--host", "0.0.0.0", env={"EMBEDMILL_API_KEY_FILE": str(key)})
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/v1/models", None), ("/metrics", None)):
        for header in ({}, {"Authorization": "Bearer geheim"}, {"Authorization": "geheim-ü".encode()}):
            status, answer = server.ask(path, body, header)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert server.ask(path, body, {"Authorization": "Bearer geheim-ü".encode()})[0] == 200
    assert (server.ask("/healthz")[0], server.ask("/readyz")[0]) == (200, 200)
    assert "geheim" not in server.log


def begin(server: Server, body: bytes, sent: int) -> socket.socket:
    """A connection on which a request for embeddings has begun: its head and the first bytes of its body."""
    fields = ("Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
    head = "\r\n".join(["POST /v1/embeddings HTTP/1.1", *fields, "", ""])
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(head.encode() + body[:sent])
    return client


def test_too_many_requests_at_once_are_sent_away(tmp_path: Path, serving: Serving) -> None:
    server = serving("--model", str(model_folder(tmp_path / "mine")))
    body = json.dumps({"input": "read"}).encode()
    begun = [begin(server, body, 5) for _ in range(128)]
    server.wait_until(lambda: "embedmill_requests_waiting 128" in server.ask("/metrics")[1])
    status, answer = server.ask("/v1/embeddings", {"input": "read"})
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (503, "overloaded", "server_error")
    begun.pop().close()
    server.wait_until(lambda: server.ask("/v1/embeddings", {"input": "read"})[0] == 200)
    for client in begun:
        client.sendall(body[5:])
    assert all(client.makefile("rb").read().startswith(b"HTTP/1.1 200 ") for client in begun)
    assert 'embedmill_requests_total{status="400"} 1' in server.ask("/metrics")[1], "the one that went away"


def test_the_mill_itself_can_learn_from_it(tmp_path: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "mine")
    server = serving("--model", str(folder), env={"EMBEDMILL_API_KEY": "geheim"})
    monkeypatch.setenv("OPENAI_API_KEY", "geheim")
    teacher = open_encoder(f"openai:mine@http://127.0.0.1:{server.port}/v1")
    assert teacher.dims == DIMS
    np.testing.assert_allclose(teacher.encode(TEXTS), expected(folder, TEXTS), atol=1e-5)


def test_told_to_stop_it_answers_what_it_has_begun(tmp_path: Path, serving: Serving) -> None:
    server = serving("--model", str(model_folder(tmp_path / "mine")))
    body = json.dumps({"input": "read a csv file"}).encode()
    with begin(server, body, 5) as client:
        server.wait_until(lambda: "embedmill_requests_waiting 1" in server.ask("/metrics")[1])
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: refuses_connections(server.port))
        client.sendall(body[5:])
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(30) == 0


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_model_in_s3_is_served_from_a_copy(
    tmp_path: Path, embedmill: Embedmill, serving: Serving, s3: S3Bucket
) -> None:
    from components.core import storage

    folder = model_folder(tmp_path / "mine")
    for file in folder.rglob("*"):
        if file.is_file():
            storage.upload(file, f"{s3.uri}/runs/mine/{file.relative_to(folder)}")
    none = embedmill("serve", "--model", f"{s3.uri}/runs", "--port", 0)
    said = f"embedmill: --model {s3.uri}/runs: no modules.json; expected a sentence-transformers folder\n"
    assert (none.returncode, none.stderr) == (3, said)
    server = serving("--model", f"{s3.uri}/runs/mine/")
    np.testing.assert_allclose(vectors(server.embed(*TEXTS, model="mine")), expected(folder, TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--model", "nowhere"), 3, "--model nowhere: no modules.json; expected a sentence-transformers folder"),
        (("--model", "models:/a@b@c"), 2, "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        (("--model", "ftp://x"), 2, "--model ftp://x: expected champion, a folder, s3://bucket/prefix or models:/"),
        (("--model", "models:/embedmill/3"), 3, "has no models:/embedmill/3 yet"),
    ],
)
def test_a_model_that_is_none_is_named(
    embedmill: Embedmill, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = embedmill("serve", *arguments, "--port", 0, env={"MLFLOW_TRACKING_URI": ""})
    assert (result.returncode, message in result.stderr) == (code, True), result.stderr


def test_a_damaged_table_is_refused(tmp_path: Path, embedmill: Embedmill) -> None:
    folder = model_folder(tmp_path / "mine")
    weights = folder / "0_StaticEmbedding" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    result = embedmill("serve", "--model", folder, "--port", 0)
    assert (result.returncode, "not a readable model" in result.stderr) == (3, True), result.stderr
