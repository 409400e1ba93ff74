"""Training signal from where objects stand: pairs graded by how near they are, and texts labelled with their package.

Every graded pair is a summary and a passage, whatever its grade, so that only content tells the grades apart. All
choices follow the hash of names: they depend neither on order nor on a random state.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import xxhash

from components.ingest.syntax import DocObject

STDLIB_LABEL = "Python standard library"
# How many objects further a partner is looked for, where neighbours are too near.
REACH = 8


class Relation(NamedTuple):
    """Two objects with equal `shared` and different `apart`; the grade is the label of the pair."""

    name: str
    grade: float
    shared: Callable[[DocObject], str | None]
    apart: Callable[[DocObject], str]


def package_of(each: DocObject) -> str:
    """The package as a label: its import name, or one label for the whole standard library."""
    top = each.module.partition(".")[0]
    return STDLIB_LABEL if top in sys.stdlib_module_names else top


def _class_or_name(each: DocObject) -> str:
    return each.owner or each.name


RELATIONS = (
    Relation("same class", 0.75, lambda each: each.owner, lambda each: each.name),
    Relation("same module", 0.5, lambda each: each.module, _class_or_name),
    Relation("same package", 0.25, package_of, lambda each: each.module),
    Relation("different package", 0.0, lambda each: "", package_of),
)
GRADES = 1 + len(RELATIONS)


def graded_rows(objects: Sequence[DocObject], limit: int, source: str, passage_chars: int) -> list[dict[str, Any]]:
    """At most `limit` cosent rows, as many of each grade where there are enough.

    Grades: 1 for the same object, 0.75 the same class, 0.5 the same module, 0.25 the same package, 0 another package.
    """
    ordered = sorted(objects, key=lambda each: (_hash(each.name), each))
    pairs = [(_hash(each.name, "pair"), "same object", 1.0, each, each) for each in ordered]
    rows = sorted(pairs)[: limit // GRADES]
    for relation in RELATIONS:
        found = [
            (_hash(left.name, right.name), relation.name, relation.grade, left, right)
            for left, right in _partners(ordered, relation)
        ]
        rows += sorted(found)[: limit // GRADES]
    return [
        {
            "task": "cosent",
            "text": left.summary,
            "text_pair": right.passage(passage_chars),
            "label": grade,
            "source": f"{source}.structure",
            "url": left.url,
            "meta": {"group": left.module, "object": left.name, "pair": right.name, "form": name},
        }
        for _, name, grade, left, right in rows
    ]


def class_rows(objects: Sequence[DocObject], limit: int, source: str, passage_chars: int) -> list[dict[str, Any]]:
    """At most `limit` cls_contrast rows, passage → package, spread evenly over the packages while these last."""
    ranked = []
    for members in _groups(sorted(objects, key=lambda each: (_hash(each.name, "class"), each)), package_of).values():
        ranked += [(rank, _hash(each.name), each) for rank, each in enumerate(members)]
    return [
        {
            "task": "cls_contrast",
            "text": each.passage(passage_chars),
            "text_pos": package_of(each),
            "source": f"{source}.package",
            "url": each.url,
            "meta": {"group": each.module, "object": each.name},
        }
        for _, _, each in sorted(ranked)[:limit]
    ]


def _partners(ordered: Sequence[DocObject], relation: Relation) -> Iterator[tuple[DocObject, DocObject]]:
    """For each object the next one of its group, in the order of hashes, that is apart from it."""
    for members in _groups(ordered, relation.shared).values():
        keys = [relation.apart(each) for each in members]
        for index, left in enumerate(members):
            for step in range(1, min(REACH, len(members) - 1) + 1):
                other = (index + step) % len(members)
                if keys[other] != keys[index]:
                    yield left, members[other]
                    break


def _groups(objects: Sequence[DocObject], key: Callable[[DocObject], str | None]) -> dict[str, list[DocObject]]:
    groups: dict[str, list[DocObject]] = {}
    for each in objects:
        group = key(each)
        if group is not None:
            groups.setdefault(group, []).append(each)
    return groups


def _hash(*names: str) -> int:
    return xxhash.xxh3_64_intdigest("\x1f".join(names).encode())
