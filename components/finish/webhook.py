"""Telling a webhook: one JSON object by POST, tried a few times."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from components.core.errors import InputError

TOKEN_KEY = "WEBHOOK_TOKEN"
ATTEMPTS = 3
PAUSE_SECONDS = 1.0  # before the second attempt, doubled for each further one
TIMEOUT_SECONDS = 10.0
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for the host that was named."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


def tell(url: str, message: Mapping[str, Any]) -> None:
    """POST `message` as JSON, with WEBHOOK_TOKEN as bearer token if it is set.

    Raises InputError naming the host alone, since the path of a webhook is often its secret.
    """
    host = _host(url)
    headers = {"Content-Type": "application/json", "User-Agent": "embedmill"}
    if token := os.environ.get(TOKEN_KEY, "").strip():
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(message, ensure_ascii=False).encode(), headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirect)
    for number in range(1, ATTEMPTS + 1):
        try:
            opener.open(request, timeout=TIMEOUT_SECONDS).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            reason, last = f"HTTP {error.code}", error.code not in TRANSIENT_STATUS
        except (OSError, http.client.HTTPException) as error:  # no connection, or one that was cut
            reason, last = str(getattr(error, "reason", None) or error or type(error).__name__), False
        if last or number == ATTEMPTS:
            tried = f"after {number} attempts" if number > 1 else "not tried again"
            raise InputError(f"webhook at {host}: {reason} ({tried})")
        time.sleep(PAUSE_SECONDS * 2 ** (number - 1))


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts.hostname
    except ValueError:  # a port that is no number
        pass
    raise InputError("webhook: expected an address that begins with https:// or http://")
