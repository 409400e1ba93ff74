"""Markup that escapes by construction: a plain `str` is always text, only `Markup` is markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

VOID = frozenset({"meta", "link", "br", "line", "rect", "circle", "path", "polyline"})
# What neither XML 1.0 nor HTML may hold: C0 and C1 controls other than tab and newline, surrogates, non-characters.
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")

Attribute = str | int | float | bool | None


class Markup(str):
    """A string that is markup already; anything else is escaped when it is put into an element."""

    __slots__ = ()


Child = str | Markup | None


def clean(text: str) -> str:
    """The text with carriage returns as newlines and every character that markup forbids replaced by U+FFFD."""
    return FORBIDDEN.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def escape(text: str) -> Markup:
    """The text as markup; a `Markup` passes unchanged."""
    return text if isinstance(text, Markup) else Markup(html.escape(clean(text), quote=True))


def join(parts: Iterable[Child], separator: str = "") -> Markup:
    """One piece of markup from many; `None` is left out."""
    return Markup(separator.join(escape(part) for part in parts if part is not None))


def element(tag: str, *children: Child, **attributes: Attribute) -> Markup:
    """An element of HTML or SVG.

    Attribute names: a trailing underscore is dropped (`class_`), others become hyphens (`text_anchor`).
    `None` and `False` leave an attribute out, `True` writes it bare.
    """
    written = ""
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        # XML knows no bare attributes, so a true one gets the empty value, which HTML reads the same way.
        text = "" if value is True else escape(value) if isinstance(value, str) else trim(value)
        written += f' {name}="{text}"'
    if tag in VOID and not children:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def trim(value: float, decimals: int = 2) -> str:
    """A coordinate with at most `decimals` decimals and no trailing zeros, never `-0`."""
    text = f"{value:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
