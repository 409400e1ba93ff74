"""Vectors from an embedding endpoint with OpenAI's HTTP API (`POST …/embeddings`), as many servers have it.

The specification `openai:MODEL@URL` may end in `#VARIABLE`, the environment variable that holds the key (OPENAI_API_KEY
without it). The key itself stands in no parameter, message or file.
"""

from __future__ import annotations

import json
import math
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError, UsageError
from components.core.remote import READ_SECONDS, Transient, retried, retry_after
from components.core.teacher import ENDPOINT

Floats = NDArray[np.float32]

KEY_VARIABLE = "OPENAI_API_KEY"
# Of one request: OpenAI takes 2,048 texts and 300,000 tokens, other servers less; a refused batch is halved.
REQUEST_TEXTS = 128
REQUEST_CHARACTERS = 200_000
CONCURRENT_REQUESTS = 4
PROBE = "probe"
_SPEC = re.compile(rf"{ENDPOINT}(?P<model>[^#]+?)@(?P<url>https?://[^#@\s]+)(?:#(?P<variable>[A-Za-z_]\w*))?")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection is an error: following it would hand the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Refused(Exception):
    """The server will not take this input, whatever the number of attempts."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as a function from texts [N] to vectors [N, dims]: model and URL up to the version, such as …/v1."""

    model: str
    url: str
    variable: str | None
    dims: int

    @classmethod
    def open(cls, spec: str) -> Endpoint:
        """Open `openai:MODEL@URL[#VARIABLE]` and embed one word, which gives the dimensions.

        Raises UsageError for another form, a variable that is not set and a refusal, InputError if none answers.
        """
        found = _SPEC.fullmatch(spec)
        if not found:
            raise UsageError(
                f"encoder {spec!r}: expected openai:MODEL@https://host/v1, after which #VARIABLE may follow"
            )
        if found["variable"] and not os.environ.get(found["variable"]):
            raise UsageError(f"encoder {spec!r}: the environment variable {found['variable']} is not set")
        endpoint = cls(found["model"], found["url"].rstrip("/"), found["variable"], 0)
        try:
            (vector,) = endpoint._request([PROBE])
        except _Refused as refusal:
            raise UsageError(f"{endpoint._name}: {refusal}") from None
        if not vector:
            raise InputError(f"{endpoint._name}: gave no vector for the text {PROBE!r}")
        return replace(endpoint, dims=len(vector))

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Vectors [N, dims] of texts [N]; a text that the server refuses or has no vector for gives NaN."""
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
            rows = [row for batch in pool.map(self._embed, self._batches(texts)) for row in batch]
        wrong = next((len(row) for row in rows if row and len(row) != self.dims), None)
        if wrong is not None:
            raise InputError(f"{self._name}: a vector of {wrong} numbers, where {self.dims} were expected")
        return np.array([row or [math.nan] * self.dims for row in rows], np.float32)

    def _batches(self, texts: Sequence[str]) -> list[list[str]]:
        batches: list[list[str]] = []
        size = 0
        for text in texts:
            size += len(text)
            if not batches or len(batches[-1]) == REQUEST_TEXTS or size > REQUEST_CHARACTERS:
                batches.append([])
                size = len(text)
            batches[-1].append(text)
        return batches

    def _embed(self, texts: list[str]) -> list[list[float]]:
        """One vector a text; a batch that is refused goes in halves, down to the text that is the reason."""
        try:
            return self._request(texts)
        except _Refused:
            if len(texts) == 1:
                return [[]]
            middle = len(texts) // 2
            return self._embed(texts[:middle]) + self._embed(texts[middle:])

    def _request(self, texts: list[str]) -> list[list[float]]:
        def attempt() -> list[list[float]]:
            try:
                return self._vectors(self._post(texts), len(texts))
            except urllib.error.HTTPError as error:
                raise Transient(self._judge(error), retry_after(error.headers.get("Retry-After"))) from None
            except (OSError, HTTPException, ValueError) as error:
                reason = getattr(error, "reason", None) or error
                raise Transient(str(reason).strip() or type(error).__name__) from None

        return retried(self._name, attempt)

    def _post(self, texts: list[str]) -> Any:
        body = json.dumps({"model": self.model, "input": texts, "encoding_format": "float"}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "embedmill"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.url}/embeddings", body, headers)
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=READ_SECONDS) as response:
            return json.loads(response.read())

    def _judge(self, error: urllib.error.HTTPError) -> str:
        """What to say of an answer that may be another after a pause; raises for one that will stay."""
        with error:
            told = _message(error.read())
        if self._key:
            told = told.replace(self._key, "…")  # some servers repeat it
        problem = f"{error.code} {error.reason}{told}"
        if error.code in (401, 403):
            raise UsageError(f"{self._name}: {problem}; is the key in {self.variable or KEY_VARIABLE} right?")
        if error.code in (404, 405):
            raise UsageError(f"{self._name}: {problem}")
        if error.code in (400, 413, 422):
            raise _Refused(problem)
        if error.code not in (408, 409, 425, 429) and error.code < 500:
            raise InputError(f"{self._name}: {problem}")
        return problem

    def _vectors(self, answer: Any, count: int) -> list[list[float]]:
        """The vectors of an answer in the order of the texts; an empty one where null or a number that is none came."""
        vectors: list[list[float] | None] = [None] * count
        try:
            for item in answer["data"]:
                numbers = item["embedding"] or []
                usable = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
                vectors[int(item["index"])] = [float(number) for number in numbers] if usable else []
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"not an answer of OpenAI's embeddings API ({type(error).__name__}: {error})") from None
        missing = vectors.count(None)
        if missing:
            raise ValueError(f"an answer without {missing} of {count} vectors")
        return [vector or [] for vector in vectors]

    @property
    def _key(self) -> str | None:
        return os.environ.get(self.variable or KEY_VARIABLE)

    @property
    def _name(self) -> str:
        return f"{self.model} at {self.url}"


def _message(body: bytes) -> str:
    """The message of an error answer, as one short line behind a colon."""
    try:
        error = json.loads(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {' '.join(text.split())[:200]}"
