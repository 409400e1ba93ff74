"""The HTTP API: embeddings and the list of models as OpenAI has them, health, figures.

FastAPI is imported where it is needed and reads annotations, so here they are evaluated where they stand.
"""

import asyncio
import time
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import orjson

from components.serve.access import bears
from components.serve.figures import CONTENT_TYPE, Figures
from components.serve.model import ServedModel
from components.serve.request import MAX_BODY_BYTES, Refused, answer, parse
from components.serve.shelf import Shelf

if TYPE_CHECKING:
    from fastapi import FastAPI

# Requests under way at once: bounds their memory, and tells a client to go elsewhere before it has waited for long.
MAX_WAITING = 128
BODY_SECONDS = 30.0
JSON = "application/json"


def make_app(shelf: Shelf, key: str | None, executor: Executor) -> "FastAPI":
    """The application; `executor` does the encoding. With a key, only /healthz and /readyz are open to all."""
    from fastapi import APIRouter, Depends, FastAPI, Request, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    figures = Figures()

    def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        return Response(orjson.dumps(value), status, headers, JSON)

    async def check_key(request: Request) -> None:
        if key is not None and not bears(request.headers.get("authorization"), key):
            raise Refused(401, "wrong or missing key: send Authorization: Bearer KEY", code="invalid_api_key")

    def ready() -> ServedModel:
        if shelf.model is None:
            raise Refused(503, "no model is loaded yet", code="model_not_ready")
        return shelf.model

    async def read_body(request: Request) -> bytes:
        if not request.headers.get("content-type", "").startswith(JSON):
            raise Refused(415, f"expected Content-Type: {JSON}")
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise Refused(413, f"the body has more than {MAX_BODY_BYTES:,} bytes; send fewer texts at once")
        except TimeoutError:
            raise Refused(408, f"the body took more than {BODY_SECONDS:g} seconds") from None
        except ClientDisconnect:
            raise Refused(400, "the body ended early") from None
        return bytes(body)

    async def embed(request: Request) -> Response:
        started = time.perf_counter()
        if figures.waiting >= MAX_WAITING:
            raise Refused(503, f"{MAX_WAITING} requests are under way; try again", code="overloaded")
        figures.waiting += 1
        try:
            model, asked = ready(), parse(await read_body(request))
            loop = asyncio.get_running_loop()
            content, tokens = await loop.run_in_executor(executor, answer, model, asked)
        finally:
            figures.waiting -= 1
        figures.answered(len(asked.texts), tokens, time.perf_counter() - started)
        return Response(content, media_type=JSON)

    async def models() -> Response:
        owner = {"object": "model", "created": 0, "owned_by": "embedmill"}
        return reply({"object": "list", "data": [{"id": name, **owner} for name in ready().names]})

    async def metrics() -> Response:
        return Response(figures.text(shelf.model), media_type=CONTENT_TYPE)

    async def healthz() -> Response:
        return reply({"status": "ok"})

    async def readyz() -> Response:
        model = ready()
        return reply({"status": "ready", "model": model.name, "version": model.version, "dimensions": model.dims})

    async def refuse(request: Request, refusal: Any) -> Response:
        if request.url.path == "/v1/embeddings":
            figures.requests[refusal.status] += 1
        headers = {"Retry-After": "1"} if refusal.status == 503 else {}
        headers |= {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
        return reply(refusal.body(), refusal.status, headers)

    async def no_such_place(request: Request, error: Any) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return reply(Refused(error.status_code, message).body(), error.status_code, error.headers)

    async def failed(request: Request, _: Exception) -> Response:
        if request.url.path == "/v1/embeddings":
            figures.requests[500] += 1
        return reply(Refused(500, "an error of the server, which its log tells").body(), 500)

    app = FastAPI(title="Embedmill", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_exception_handler(Refused, refuse)
    app.add_exception_handler(HTTPException, no_such_place)
    app.add_exception_handler(Exception, failed)
    closed = APIRouter(dependencies=[Depends(check_key)])
    closed.add_api_route("/v1/embeddings", embed, methods=["POST"])
    closed.add_api_route("/v1/models", models, methods=["GET"])
    closed.add_api_route("/metrics", metrics, methods=["GET"])
    app.include_router(closed)
    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", readyz, methods=["GET"])
    return app
