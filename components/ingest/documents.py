"""Plain documents: the first line as title, the rest as its text."""

from __future__ import annotations

# A first line beyond this, in characters, is a paragraph and no title.
TITLE_CHARACTERS = 200


def split_title(document: str) -> tuple[str, str]:
    """Title and text of a document; a side that it has not is empty.

    The title is the first line that is not blank, without Markdown's `#`, if it is at most TITLE_CHARACTERS long and
    anything follows it.
    """
    first, _, rest = document.strip().partition("\n")
    title, text = first.strip().lstrip("#").strip(), rest.strip()
    if not text or len(title) > TITLE_CHARACTERS:
        return "", document.strip()
    return title, text
