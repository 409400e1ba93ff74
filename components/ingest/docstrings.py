"""A docstring cut into its summary and its body, both freed of markup."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

SUMMARY_CHARS = 240
SUMMARY_WORDS = 2
BODY_WORDS = 4

# What starts a section, list, field or example: it ends a summary that no blank line ends.
_SECTION = re.compile(
    r"(?:Args?|Arguments?|Parameters?|Params?|Returns?|Raises?|Yields?|Examples?|Usage|Notes?|Attributes?|References?|"
    r"See Also|Warnings?|Inputs?|Outputs?|Shape|Methods?|Keyword Arguments?)\s*:?\s*$"
    r"|(?:Args?|Returns?|Raises|Examples?|Note|Usage)\s*:"
    r"|:(?:param|parameter|arg|argument|type|returns?|rtype|raises?|keyword|[ci]?var|vartype|yields?)\b[^`]*?:"
    r"|@\w+|\.\. |>>> |```|[*+-]\s|\d+[.)]\s"
)
# An entry of a parameter list (`labels (torch.Tensor, *optional*):`), where a summary should be.
_PARAMETER = re.compile(r"`{0,2}\*{0,2}\w+`{0,2}\s*(?:\(.*\)+\s*:|:$)|:\w+")
_UNDERLINE = re.compile(r"^[^\S\n]*([-=~^\"*+#_.'`])\1{2,}(?:[^\S\n]+\1{2,})*[^\S\n]*$", re.MULTILINE)
_ROLE = re.compile(r":(?:[a-zA-Z][\w+-]*:)+`[~!.]*([^`<]*?)\s*(?:<[^`]*>)?`")
_LITERAL = re.compile(r"(`{1,2})[~!]?([^`\n]+?)\s*(?:<[^`\n]*>)?\1(?!`)_{0,2}")
_RELEASE = re.compile(
    r"^\s*\.\. (?:versionadded|versionchanged|deprecated|code|code-block|sourcecode|testcode|testsetup|plot|index|"
    r"module|currentmodule|moduleauthor|sectionauthor)::.*$",
    re.MULTILINE,
)
_DIRECTIVE = re.compile(r"^\s*\.\. (?:_[^:\n]*:\s*|\[(\w+)\]\s*|([\w-]+)::\s*)", re.MULTILINE)
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(?=\S)([^*\n]+?)(?<=\S)\*{1,2}(?![\w*])")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z`\"'(:])")
_WORD = re.compile(r"[^\W\d_]{2,}")
_END = (".", "!", "?", ":")


class Docstring(NamedTuple):
    """`summary` is one line; `body` has a line break where the source has one, and no empty line."""

    summary: str
    body: str


def split_docstring(raw: str, name: str) -> Docstring | None:
    """Cut the docstring of the object `name` after its summary; None if summary or body is missing.

    The summary ends at the first blank line, section, field list or line that ends a sentence (PEP 257 wants one line,
    many have more). A line that only repeats the signature, as compiled functions have it, belongs to neither part.
    """
    lines = inspect.cleandoc(raw).split("\n")
    start = 0
    while start < len(lines) and (not lines[start].strip() or lines[start].startswith(f"{name}(")):
        start += 1
    if start == len(lines) or _PARAMETER.match(lines[start]) or _SECTION.match(lines[start]):
        return None
    stop = start + 1
    while stop < len(lines) and lines[stop].strip() and not lines[stop - 1].rstrip().endswith(_END):
        if _SECTION.match(lines[stop].strip()) or _UNDERLINE.match(lines[stop]):
            break
        stop += 1
    summary = plain_text(" ".join(lines[start:stop]))
    rest = "\n".join(lines[stop:])
    if len(summary) > SUMMARY_CHARS:
        end = _SENTENCE_END.search(summary, 0, SUMMARY_CHARS)
        if end is None:
            return None
        summary, rest = summary[: end.end()], f"{summary[end.end() :]}\n{rest}"
    body = plain_text(rest)
    if len(_WORD.findall(summary)) < SUMMARY_WORDS or len(_WORD.findall(body)) < BODY_WORDS:
        return None
    return Docstring(summary, body)


def plain_text(text: str) -> str:
    """Text without reStructuredText's roles, literals, underlines and release notes; spaces and lines collapsed."""
    if "`" in text:
        text = _LITERAL.sub(r"\2", _ROLE.sub(r"\1", text))
    if ".. " in text:
        text = _RELEASE.sub("", text)
        text = _DIRECTIVE.sub(lambda match: f"{match[1] or match[2]}: " if match[1] or match[2] else "", text)
    if "*" in text:
        text = _EMPHASIS.sub(r"\1", text)
    lines = (" ".join(line.split()) for line in _UNDERLINE.sub("", text).replace("\b", "").split("\n"))
    return "\n".join(line for line in lines if line)
