"""A request for embeddings as OpenAI's API has it, and what is said of one that cannot be answered."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from components.serve.model import ServedModel

# OpenAI's own limit of texts, and room for about 4,000 characters in each.
MAX_TEXTS = 2048
MAX_BODY_BYTES = 8 << 20

Text = Annotated[str, StringConstraints(strict=True, min_length=1)]
TOKEN_NUMBERS = "lists of token numbers are of OpenAI's tokenizer (LangChain: check_embedding_ctx_length=False)"


class Refused(Exception):
    """A request that is answered by an error in OpenAI's shape."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class EmbeddingRequest(BaseModel):
    """The body of `POST /v1/embeddings`; `input_type` is the one addition: the side that the texts stand on."""

    model_config = ConfigDict(extra="forbid")

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    model: str | None = None
    dimensions: Annotated[int, Field(strict=True, ge=1)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "passage"] | None = None
    user: str | None = None

    @property
    def texts(self) -> list[str]:
        """The texts [N]."""
        return [self.input] if isinstance(self.input, str) else self.input


def parse(body: bytes) -> EmbeddingRequest:
    """The request that a body holds. Raises Refused saying which key is wrong and what is allowed."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
    try:
        return EmbeddingRequest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = str(first["loc"][0]) if first["loc"] else None
        raise Refused(400, _problem(value, key, str(first["msg"])), key) from None


def _problem(value: Any, key: str | None, message: str) -> str:
    if key is None:
        return "expected a JSON object with the key input"
    if key == "input" and isinstance(value.get("input"), list):
        texts = value["input"]
        if len(texts) > MAX_TEXTS:
            return f"input: {len(texts)} texts; at most {MAX_TEXTS} in a request"
        wrong = next((place for place, text in enumerate(texts) if not isinstance(text, str) or not text), None)
        if wrong is None:
            return "input: an empty list; expected at least one text"
        hint = f"; {TOKEN_NUMBERS}" if isinstance(texts[wrong], int | list) else ""
        return f"input[{wrong}]: expected a string that is not empty{hint}"
    if key == "input":
        return "input: expected a string that is not empty, or a list of such strings"
    if key not in EmbeddingRequest.model_fields:
        return f"{key}: unknown; allowed are {', '.join(EmbeddingRequest.model_fields)}"
    return f"{key}: {message}"


def answer(model: ServedModel, request: EmbeddingRequest) -> tuple[bytes, int]:
    """The answer's JSON, and how many tokens were read. Raises Refused for what this model cannot do."""
    if request.model is not None and request.model not in model.names:
        served = " or ".join(model.names)
        raise Refused(404, f"model {request.model!r} is not served here; {served} is", "model", "model_not_found")
    dims = request.dimensions or model.dims[0]
    if dims not in model.dims:
        allowed = ", ".join(map(str, model.dims))
        raise Refused(
            400, f"dimensions: {dims} is none that {model.names[1]} can be cut to; allowed: {allowed}", "dimensions"
        )
    prompt = {"query": model.prompts.query, "passage": model.prompts.passage}.get(request.input_type or "", "")
    vectors_ND, tokens = model.encode(request.texts, dims, prompt)
    data = [
        {"object": "embedding", "index": index, "embedding": _embedding(vector, request.encoding_format)}
        for index, vector in enumerate(vectors_ND)
    ]
    value = {
        "object": "list",
        "data": data,
        "model": model.names[1],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), tokens


def _embedding(vector: NDArray[np.float32], encoding: str) -> Any:
    """Numbers, or the bytes of little-endian float32 in base64."""
    return vector if encoding == "float" else base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()
