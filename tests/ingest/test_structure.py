from __future__ import annotations

import random
from collections import Counter

from components.ingest.structure import GRADES, class_rows, graded_rows, package_of
from components.ingest.syntax import DocObject


def make_objects() -> list[DocObject]:
    objects = []
    for package in ("alpha", "beta", "gamma"):
        for module in ("io", "net", "math"):
            for kind in ("Reader", "Writer"):
                owner = f"{package}.{module}.{kind}"
                objects += [
                    DocObject(
                        f"{owner}.m{i}", f"{package}.{module}", owner, "def m()", f"{owner} {i}", f"body {owner} {i}"
                    )
                    for i in range(4)
                ]
    return objects


def test_grades_say_how_near_two_objects_stand() -> None:
    objects = make_objects()
    by_summary = {each.summary: each for each in objects}
    by_passage = {each.passage(2000): each for each in objects}
    rows = graded_rows(objects, 10 * GRADES, "pydoc", 2000)
    assert Counter(row["label"] for row in rows) == {1.0: 10, 0.75: 10, 0.5: 10, 0.25: 10, 0.0: 10}
    for row in rows:
        left, right = by_summary[row["text"]], by_passage[row["text_pair"]]
        expected = {
            1.0: left == right,
            0.75: left != right and left.owner == right.owner,
            0.5: left.owner != right.owner and left.module == right.module,
            0.25: left.module != right.module and package_of(left) == package_of(right),
            0.0: package_of(left) != package_of(right),
        }
        assert expected[row["label"]], row
        assert row["meta"]["group"] == left.module


def test_rows_depend_on_names_alone_not_on_order() -> None:
    objects = make_objects()
    shuffled = random.Random(3).sample(objects, len(objects))
    assert graded_rows(objects, 50, "s", 2000) == graded_rows(shuffled, 50, "s", 2000)
    assert class_rows(objects, 20, "s", 2000) == class_rows(shuffled, 20, "s", 2000)


def test_class_rows_are_even_over_packages_while_these_last() -> None:
    few = [each for each in make_objects() if package_of(each) != "beta" or each.owner == "beta.io.Reader"]
    rows = class_rows(few, 30, "pydoc", 2000)
    assert Counter(row["text_pos"] for row in rows) == {"alpha": 13, "gamma": 13, "beta": 4}


def test_the_standard_library_is_one_package() -> None:
    names = ("email.header", "json", "numpy.linalg")
    labels = [package_of(DocObject(f"{name}.f", name, None, "", "", "")) for name in names]
    assert labels == ["Python standard library", "Python standard library", "numpy"]


def test_nothing_to_pair_gives_no_rows() -> None:
    assert graded_rows([], 50, "s", 2000) == []
    lonely = [DocObject("m.f", "m", None, "def f()", "Summary.", "Body.")]
    assert [row["label"] for row in graded_rows(lonely, 50, "s", 2000)] == [1.0]
