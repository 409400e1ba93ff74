from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingest.docstrings import plain_text, split_docstring


@pytest.mark.parametrize(
    ("raw", "summary", "body"),
    [
        pytest.param(
            "Read a table from disk.\n\n    The file may be compressed or plain.\n    ",
            "Read a table from disk.",
            "The file may be compressed or plain.",
            id="summary, blank line, body",
        ),
        pytest.param(
            "\n    Read a table\n    from disk\n\n    The file may be compressed or plain.",
            "Read a table from disk",
            "The file may be compressed or plain.",
            id="summary of two lines that begins on the second",
        ),
        pytest.param(
            "Read a table from disk.\nThe file may be compressed\nor plain.",
            "Read a table from disk.",
            "The file may be compressed\nor plain.",
            id="a sentence ends the summary without a blank line",
        ),
        pytest.param(
            "Read a table from disk\nArgs:\n  path: where the file is",
            "Read a table from disk",
            "Args:\npath: where the file is",
            id="a section ends it",
        ),
        pytest.param(
            "Read a table from disk\n:param path: where the file is\n:returns: the whole table",
            "Read a table from disk",
            ":param path: where the file is\n:returns: the whole table",
            id="a field list ends it",
        ),
        pytest.param(
            "Use the same name as on a regular\n:class:`click.Group` here.\n\nIt wraps the callback of it.",
            "Use the same name as on a regular click.Group here.",
            "It wraps the callback of it.",
            id="a role does not",
        ),
        pytest.param(
            "load(path, mode=None) -> Table\n\nRead a table from disk.\n\nThe file may be compressed or plain.",
            "Read a table from disk.",
            "The file may be compressed or plain.",
            id="a repeated signature is skipped",
        ),
        pytest.param(
            "Reading tables\n==============\n\nThe file may be compressed or plain.",
            "Reading tables",
            "The file may be compressed or plain.",
            id="an underlined title",
        ),
        pytest.param(
            f"Read a table. {'It is long. ' * 30}\n\nThe rest of it all.",
            "Read a table.",
            f"{('It is long. ' * 30).strip()}\nThe rest of it all.",
            id="a long paragraph is cut after its first sentence",
        ),
    ],
)
def test_a_docstring_is_cut_after_its_summary(raw: str, summary: str, body: str) -> None:
    assert split_docstring(raw, "load") == (summary, body)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "Read a table from disk.",
        "Read.\n\nThe file may be compressed or plain.",
        "Read a table from disk.\n\nSee there.",
        "labels (`torch.Tensor`, *optional*):\n    The labels that the loss is computed from.",
        ">>> load('file')\nTable of three rows and two columns",
        f"Read a table {'and then another ' * 30}\n\nThe file may be compressed or plain.",
    ],
)
def test_without_a_summary_and_a_body_there_is_no_pair(raw: str) -> None:
    assert split_docstring(raw, "load") is None


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("See :func:`~torch.nn.relu` and :py:class:`a list <list>`.", "See torch.nn.relu and a list."),
        ("``x`` is `y` or **bold** or *slanted*, not a * b * c", "x is y or bold or slanted, not a * b * c"),
        ("Parameters\n----------\nx : int\n\n\n  The   number.\n", "Parameters\nx : int\nThe number."),
        (".. note:: Mind the gap.\n.. versionadded:: 1.2\n.. _anchor:\nText", "note: Mind the gap.\nText"),
        ("Name   Use\n=====  ===\nx      y", "Name Use\nx y"),
        ("\b\nkept as it is", "kept as it is"),
    ],
)
def test_markup_goes_and_words_stay(marked: str, plain: str) -> None:
    assert plain_text(marked) == plain


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab .:`*-=\n\t()_>中", max_size=120))
def test_any_text_gives_one_line_of_summary_and_no_empty_line(raw: str) -> None:
    doc = split_docstring(raw, "name")
    if doc is not None:
        assert "\n" not in doc.summary
        assert doc.summary == doc.summary.strip()
        assert all(line.strip() for line in doc.body.split("\n"))
