"""`embedmill serve`: a model as a server."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from components.core import environment
from components.core.command import Seconds
from components.core.errors import UsageError
from components.serve.access import check_bound, read_key

# A server that is told to stop answers what it has taken on, at most for so long; Kubernetes kills after 30 seconds.
FINISH_SECONDS = 25
BACKLOG = 1024
IDLE_SECONDS = 30  # an open connection without a request


def _serve(model: str, host: str, port: int, poll: float) -> None:
    """Serve a model behind OpenAI's embeddings API."""
    key = read_key()
    check_bound(host, key)
    environment.quiet()
    from components.serve.app import make_app
    from components.serve.shelf import Shelf
    from components.serve.source import moves_on

    shelf = Shelf(model, _log)
    followed = moves_on(model)
    if not followed:
        shelf.load()
    listener = _listen(host, port)
    import uvicorn

    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as executor:
        config = uvicorn.Config(
            make_app(shelf, key, executor),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=FINISH_SECONDS,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        place = f"[{host}]" if ":" in host else host
        _log(f"http://{place}:{listener.getsockname()[1]}/v1/embeddings")
        if followed:  # a daemon, since a download must not hold up the end
            threading.Thread(target=shelf.watch, args=(poll, stop), name="watch", daemon=True).start()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            stop.set()


def _leave(*_: Any) -> None:
    """uvicorn finishes on the first signal and then raises it again: being told to stop is no failure."""
    raise click.exceptions.Exit(0)


def _listen(host: str, port: int) -> socket.socket:
    # asyncio turns delays off (TCP_NODELAY) only on sockets that say they are TCP: otherwise every answer takes 40 ms
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: cannot listen there ({error.strerror or error})") from None
    return listener


def _log(message: str) -> None:
    click.echo(f"serve: {message}", err=True)


serve = click.Command(
    "serve",
    params=[
        click.Option(
            ["--model"],
            default="champion",
            show_default=True,
            metavar="champion|FOLDER|s3://…|models:/NAME@ALIAS",
            help="The champion, a sentence-transformers folder, or another model of the registry.",
        ),
        click.Option(["--host"], default="127.0.0.1", show_default=True, help="Address; others than this need a key."),
        click.Option(["--port"], type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one."),
        click.Option(
            ["--poll"],
            type=Seconds(),
            default=60.0,
            show_default=True,
            help="Seconds between looks for a new champion.",
        ),
    ],
    callback=_serve,
    help=_serve.__doc__,
    short_help=_serve.__doc__,
)
