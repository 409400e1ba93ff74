"""HTML to title and main text.

The main text is resiliparse's (Bevendorff et al. 2018), narrowed twice: elements that their name or class calls
something else than the article are left out, and where the paragraphs of one element make up most of the text, that
element alone is taken (the paragraph scoring of Arc90's Readability), without its lists and paragraphs of links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from resiliparse.parse.html import ElementNode, HTMLTree

COMMENTS = ("[class*=comment]", "[id*=comment]", "[id*=disqus]")
_NAMED = ("caption", "byline", "newsletter", "copyright", "related", "share", "credit", "promo", "sidebar")
ASIDE = (
    *("figcaption", "footer", "h1", "nav", "aside", "form", "button"),
    *(f"[class*={name}]" for name in _NAMED),
)
# A paragraph below this many characters is a caption, a link or a button; a text below SHORT may have lost its article
# to a selector that meant something else.
PARAGRAPH = 40
SHORT = 500
# Share of the text that the chosen element must hold; measured as best from 0.5 to 0.8 on 181 news pages.
ELEMENT_SHARE = 0.6
LINK_SHARE = 0.7
_OUTER = ("html", "body")
_BLOCKS = ("p", "ul", "ol")
_SEPARATORS = re.compile(r"\s+[|\-–—·•:»«/]+\s+|\s*[|_｜]\s*")
_SPACE = re.compile(r"\s+")
_BLANK_LINES = re.compile(r"\n\s*\n+")
_NO_WORD = re.compile(r"[\W_]+")


def decode(data: bytes) -> str:
    """A page as text: by its byte order mark, the encoding that it declares, or the one that its bytes look like.

    A declared encoding in which the bytes are not valid is taken to be wrong.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    declared = detect_encoding(data, from_html_meta=True)
    detected = detect_encoding(data)
    return bytes_to_str(data, declared or "utf-8", "replace", (detected or "utf-8", "utf-8", "windows-1252"))


class Block(NamedTuple):
    """A paragraph or list: its element, how deep that stands, and the characters of the links in it."""

    element: ElementNode
    depth: int
    links: list[int]

    @property
    def characters(self) -> int:
        """Length of its text."""
        return len((self.element.text or "").strip())


class Outline(NamedTuple):
    """How deep the elements of a page stand inside one another, and its blocks in their order."""

    depth: int
    blocks: list[Block]


def outline(tree: HTMLTree) -> Outline:
    """Walk a page once. (The parser's own collections take quadratic time, which a long page makes into hours.)"""
    from resiliparse.parse.html import traverse_dom

    root = tree.document.first_element_child if tree.document is not None else None
    blocks: list[Block] = []
    around: list[Block] = []
    deepest = 0

    def visit(context: Any) -> None:
        nonlocal deepest
        depth = context.depth
        deepest = max(deepest, depth)
        while around and around[-1].depth >= depth:
            around.pop()
        tag = context.node.tag
        if tag in _BLOCKS:
            around.append(Block(context.node, depth, []))
            blocks.append(around[-1])
        elif tag == "a" and around:
            length = len(context.node.text or "")
            for block in around:
                block.links.append(length)

    if root is not None:
        traverse_dom(root, visit, elements_only=True)
    return Outline(deepest + 1, blocks)


def title(tree: HTMLTree, url: str | None) -> str:
    """The headline, without the site's name; empty if there is none.

    og:title if the page has one, else its h1 if <title> holds that too or is missing, else <title>.
    """
    if tree.document is None:
        return ""
    whole = _clean(tree.title or "")
    headings = [_clean(node.text or "") for node in tree.document.query_selector_all("h1")]
    headings = [text for text in headings if text]
    heading = next((text for text in headings if not whole or text in whole), "")
    named = _meta(tree, "og:title") or heading or whole
    return _without_site(named, headings, {_plain(_meta(tree, "og:site_name")), *_hosts(url)} - {""})


def main_text(tree: HTMLTree, blocks: Sequence[Block]) -> str:
    """The text of the article, its paragraphs on lines of their own; empty if there is none. Changes the tree."""
    if tree.body is None:
        return ""
    whole = _whole_text(tree)
    element = _article(blocks)
    if element is not None:
        _remove_links(element, blocks)
        part = _plain_text(element.html, (*ASIDE, *COMMENTS), main_content=False)
        if len(part) > ELEMENT_SHARE * len(whole):
            return part
    return whole


def trafilatura_text(html: str, url: str | None) -> str:
    """The main text as trafilatura finds it, without comments; empty if there is none."""
    import trafilatura

    return str(trafilatura.extract(html, url=url, include_comments=False, favor_precision=True) or "").strip()


def _whole_text(tree: HTMLTree) -> str:
    text = _plain_text(tree, (*ASIDE, *COMMENTS))
    if len(text) < SHORT:
        more = _plain_text(tree, COMMENTS)
        if len(more) < SHORT / 2:
            more = _plain_text(tree, ())
        if len(text) < len(more) * 0.3:
            return more
    return text


def _plain_text(html: Any, without: tuple[str, ...], main_content: bool = True) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(
        html,
        main_content=main_content,
        alt_texts=False,
        list_bullets=False,
        preserve_formatting=True,
        skip_elements=list(without),
    )
    return _BLANK_LINES.sub("\n", text).strip()


def _article(blocks: Iterable[Block]) -> ElementNode | None:
    """The element whose paragraphs hold the most text that is no link; those of its children's count half."""
    scores: dict[int, float] = {}
    elements: dict[int, ElementNode] = {}
    comments = ",".join(COMMENTS)
    for block in blocks:
        if block.element.tag != "p":
            continue
        length = block.characters
        weight = float(length - 2 * sum(block.links))
        if length < PARAGRAPH or weight <= 0:
            continue
        comment = block.element.closest(comments)
        if comment is not None and comment.tag not in (*_OUTER, "main", "article"):
            continue
        element = block.element.parent_element
        for _ in range(2):
            if element is None or element.tag in _OUTER:
                break
            key = hash(element)
            scores[key] = scores.get(key, 0.0) + weight
            elements[key] = element
            element, weight = element.parent_element, weight / 2
    if not scores:
        return None
    return elements[max(scores, key=lambda key: scores[key])]


def _remove_links(article: ElementNode, blocks: Iterable[Block]) -> None:
    """Take the blocks out of an article that are hardly more than links."""
    doomed = [block.element for block in blocks if sum(block.links) > LINK_SHARE * block.characters > 0]
    for element in doomed:
        if article.contains(element):  # and has not gone with one around it
            element.decompose()


def _meta(tree: HTMLTree, name: str) -> str:
    assert tree.document is not None
    node = tree.document.query_selector(f'meta[property="{name}"],meta[name="{name}"]')
    return _clean(node.getattr("content", "") or "") if node is not None else ""


def _without_site(text: str, headings: list[str], sites: set[str]) -> str:
    """A title without what stands beside a separator and names the site, or beside what is the page's heading."""
    parts = _SEPARATORS.split(text)
    if len(parts) == 1:
        return text
    ends = [match.end() for match in _SEPARATORS.finditer(text)]
    starts = [match.start() for match in _SEPARATORS.finditer(text)]
    for heading in headings:
        if heading != text and (text[: starts[0]] == heading or any(text[:start] == heading for start in starts)):
            return heading
    if _plain(parts[-1]) in sites:
        return _without_site(text[: starts[-1]], [], sites)
    if _plain(parts[0]) in sites:
        return _without_site(text[ends[0] :], [], sites)
    return text


def _hosts(url: str | None) -> set[str]:
    """The names that a site may go by in its titles: its host, and each label of it that is no ending."""
    host = re.sub(r"^[a-z]+://|[/:?#].*$", "", (url or "").lower())
    labels = host.split(".")
    return {_plain(host), _plain(host.removeprefix("www.")), *(_plain(each) for each in labels[:-1] if len(each) > 2)}


def _plain(text: str) -> str:
    return _NO_WORD.sub("", text).lower()


def _clean(text: str) -> str:
    return _SPACE.sub(" ", text).strip()
