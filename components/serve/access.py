"""Who may ask: anyone on this machine, elsewhere only who knows the key."""

from __future__ import annotations

import hmac
import ipaddress
import os
from pathlib import Path

from components.core.errors import UsageError

KEY, KEY_FILE = "EMBEDMILL_API_KEY", "EMBEDMILL_API_KEY_FILE"
BEARER = "Bearer "


def read_key() -> str | None:
    """The key that requests must bear: from EMBEDMILL_API_KEY, or the file that EMBEDMILL_API_KEY_FILE names.

    Raises UsageError if that file cannot be read or the key is empty.
    """
    if KEY in os.environ:
        key, origin = os.environ[KEY], KEY
    elif KEY_FILE in os.environ:
        origin = f"{KEY_FILE}: {os.environ[KEY_FILE]}"
        try:
            key = Path(os.environ[KEY_FILE]).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"{origin}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    else:
        return None
    if not key.strip():
        raise UsageError(f"{origin}: is empty; expected the key that requests bear")
    return key.strip()


def check_bound(host: str, key: str | None) -> None:
    """Raise UsageError if anyone in the network could ask: an address beyond this machine needs a key."""
    if key is None and not is_loopback(host):
        raise UsageError(
            f"--host {host}: other machines may ask there, so set {KEY}, or {KEY_FILE} to a file with the key"
        )


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bears(header: str | None, key: str) -> bool:
    """Whether an Authorization header bears the key; takes the same time wherever they differ."""
    given = (header or "").encode("latin-1")  # as servers decode the bytes of a header
    return hmac.compare_digest(given, f"{BEARER}{key}".encode())
