"""Layouts of rows: which columns each has, under which names, and which of them a row has come in.

A layout has one form for each kind of row it can hold. The names are those that the projects themselves use: Piccolo2
(github.com/OpenSenseNova/piccolo-embedding), FlagEmbedding's finetuning data, sentence-transformers' dataset formats,
BEIR, ShareGPT and OpenAI's chats.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from components.core.sources import Layout, SourceParams, Task

TASKS: tuple[Task, ...] = get_args(Task)
# FlagEmbedding's types of rows that must not take other rows' texts as negatives: equal classes would collide.
CLASS_TYPES = ("symmetric_class", "symmetric_clustering")
# `negative_1` … as sentence-transformers' hard-negative files number them.
_NUMBERED = tuple(f"negative_{number}" for number in range(1, 101))
NEGATIVES = ("text_neg", "neg", "negative", "negatives", "hard_negatives", *_NUMBERED)

Names = Mapping[str, tuple[str, ...]]
_MESSAGES = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class Form:
    """One kind of row: the roles it must and may have, each with the names of its column, best first.

    `alone`: no other column may stand beside them if the layout is to be told from the columns.
    """

    layout: Layout
    task: Task
    needed: Names
    optional: Names = field(default_factory=dict)
    alone: bool = False


# In order of detection: the first form whose columns are all there is taken.
FORMS = (
    Form("piccolo", "retri_contrast", {"text": ("text",), "text_pos": ("text_pos",)}, {"type": ("type",)}),
    Form(
        "piccolo",
        "cosent",
        {"text": ("text",), "text_pair": ("text_pair",), "label": ("label",)},
        {"type": ("type",)},
    ),
    Form("piccolo", "cls_contrast", {"text": ("text",), "text_pos": ("text_pos",)}, {"type": ("type",)}),
    *(
        Form(
            "flagembedding",
            task,
            {"text": ("query",), "text_pos": ("pos",)},
            {name: (name,) for name in ("pos_scores", "neg_scores", "prompt", "type")},
        )
        for task in TASKS
        if task != "cosent"
    ),
    Form("pages", "retri_contrast", {"html": ("html",)}),
    Form("chat", "retri_contrast", {"messages": _MESSAGES}),
    Form("beir", "retri_contrast", {"query": ("query-id",), "passage": ("corpus-id",), "grade": ("score",)}),
    Form(
        "sentence_transformers",
        "retri_contrast",
        {
            "text": ("anchor", "query", "question", "sentence1", "sentence_0"),
            "text_pos": ("positive", "answer", "passage", "sentence2", "sentence_1"),
            "text_neg": (*NEGATIVES, "sentence_2"),
        },
    ),
    Form(
        "sentence_transformers",
        "cosent",
        {
            "text": ("sentence1", "sentence_A", "text1", "anchor", "query", "question", "sentence_0", "text"),
            "text_pair": (
                *("sentence2", "sentence_B", "text2", "positive", "answer", "passage", "sentence_1", "text_pair"),
            ),
            "label": ("score", "label", "similarity_score", "relatedness_score", "similarity"),
        },
    ),
    Form(
        "chat",
        "retri_contrast",
        {"text": ("instruction", "prompt"), "text_pos": ("output", "response", "completion")},
        {"input": ("input",)},
    ),
    Form(
        "sentence_transformers",
        "retri_contrast",
        {
            "text": ("anchor", "query", "question", "text", "sentence1", "sentence_0"),
            "text_pos": ("positive", "pos", "text_pos", "answer", "passage", "sentence2", "sentence_1"),
        },
    ),
    Form(
        "classification",
        "cls_contrast",
        {"text": ("text", "sentence", "query"), "text_pos": ("label_text", "text_pos", "label", "category", "intent")},
    ),
    Form(
        "documents",
        "retri_contrast",
        {"text": ("title", "headline"), "text_pos": ("content", "text", "body", "abstract", "article", "document")},
    ),
    Form(
        "documents", "retri_contrast", {"text_pos": ("text", "content", "body", "article", "document")}, {}, alone=True
    ),
)
# Roles that a row of any form may have.
COMMON: Names = {"text_neg": NEGATIVES, "lang": ("lang",), "url": ("url",)}
# Columns that may stand beside the ones of a form that is `alone`, or of rows whose order says their roles.
BESIDE = ("id", "_id", "idx", "lang", "url")
_LABELS = ("label", "labels", "score", "scores")


@dataclass(frozen=True)
class Fit:
    """How the rows with certain columns are read: their form, and the columns of each role that they have."""

    form: Form
    columns: Mapping[str, tuple[str, ...]]


def fit(source: SourceParams, header: Sequence[str], task: Task | None = None) -> Fit | str:
    """The way to read rows that have these columns; what they lack, in words, if there is none.

    `task`: what the row itself says of its task; the source's own goes before it.
    """
    task = source.task or task
    forms = candidates(source, task)
    for form in forms:
        found = _columns(source, form, header)
        if all(role in found for role in form.needed) and _alone(source, form, found, header):
            return Fit(form, found)
    if source.layout == "sentence_transformers" and not source.columns:
        ordered = _by_order(header, task)
        if ordered is not None:
            return ordered
    return _lacking(source, forms, header)


def candidates(source: SourceParams, task: Task | None) -> list[Form]:
    """The forms that the rows of a source may have, in order of detection."""
    return [
        form
        for form in FORMS
        if form.layout == (source.layout or form.layout)
        and form.task == (task or form.task)
        and (form.layout != "beir" or source.layout == "beir")  # a folder, found by its files
        and all(role in form.needed or role in form.optional or role in COMMON for role in source.columns)
    ]


def names_of(source: SourceParams, form: Form) -> Names:
    """The columns that may play each role of a form: the source's own names, else the usual ones."""
    named = {str(role): (name,) for role, name in source.columns.items()}
    return {**COMMON, **form.optional, **form.needed, **named}


def _columns(source: SourceParams, form: Form, header: Collection[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for role, names in names_of(source, form).items():
        there = tuple(name for name in names if name in header)
        if there:
            found[role] = there if role == "text_neg" else there[:1]
    return found


def _alone(source: SourceParams, form: Form, found: Names, header: Sequence[str]) -> bool:
    if not form.alone or source.layout:
        return True
    used = {name for names in found.values() for name in names}
    return all(name in used or name in BESIDE or name in source.where for name in header)


def _by_order(header: Sequence[str], task: Task | None) -> Fit | None:
    """sentence-transformers takes inputs by their order, whatever their names, and a label by its name."""
    texts = [name for name in header if name not in BESIDE and name not in _LABELS]
    label = next((name for name in _LABELS if name in header), None)
    scored = len(texts) == 2 and label is not None
    if len(texts) < 2 or (task == "cosent") > scored:
        return None
    second = "text_pair" if scored and task != "retri_contrast" else "text_pos"
    columns: dict[str, tuple[str, ...]] = {"text": (texts[0],), second: (texts[1],)}
    if second == "text_pair":
        assert label is not None
        columns["label"] = (label,)
    elif texts[2:]:
        columns["text_neg"] = tuple(texts[2:])
    columns |= {role: (role,) for role in ("lang", "url") if role in header}
    form_task: Task = "cosent" if second == "text_pair" else "retri_contrast"
    return Fit(Form("sentence_transformers", form_task, columns), columns)


def _lacking(source: SourceParams, forms: Sequence[Form], header: Sequence[str]) -> str:
    """What rows with these columns lack of the form that comes nearest."""
    found = ", ".join(sorted(map(str, header))) or "none"
    if not forms:
        roles = ", ".join(source.columns)
        return f"no layout has all of the source's 'columns' ({roles}) for this task; columns found: {found}"

    def near(form: Form) -> float:
        return len(_columns(source, form, header).keys() & form.needed.keys()) / len(form.needed)

    nearest = max(forms, key=near)
    if not near(nearest) and source.task is None and source.layout is None:
        return (
            f"columns fit no layout; columns found: {found}; wanted those of a layout (text and text_pos; query and "
            "pos; anchor and positive; sentence1, sentence2 and score; text and label; messages; title and content; "
            "html), or 'columns' in the source"
        )
    there = _columns(source, nearest, header)
    role = next((role for role in nearest.needed if role not in there), None)
    if role is None:
        return (
            f"columns fit no layout; columns found: {found} (name 'layout: {nearest.layout}' to read them as such, or "
            "'columns')"
        )
    able = [
        form
        for form in forms
        if form.needed.keys() - _columns(source, form, header).keys() == {role} and (source.layout or not form.alone)
    ] or [nearest]
    names = dict.fromkeys(name for form in able for name in names_of(source, form)[role] if name not in _NUMBERED)
    wanted = " or ".join(map(repr, names))
    layout = f" of layout {source.layout}" if source.layout else ""
    return f"no column {wanted} for {role}{layout}; columns found: {found} (the source's 'columns' can name another)"
