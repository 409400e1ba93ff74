from __future__ import annotations

from pathlib import Path

import pytest

from components.core.installed import Module
from components.ingest.syntax import DocObject, documented_objects, humanise

DOC = '"""Do the {0} thing.\n\n    It is described here at some length.\n    """'


def objects_of(root: Path, name: str, source: str, **others: str) -> list[DocObject]:
    for module, text in {name: source, **others}.items():
        path = root / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return documented_objects(Module(name, str(root), f"{name.replace('.', '/')}.py"))


def test_public_objects_are_found_with_signature_and_class(tmp_path: Path) -> None:
    source = f"""
{DOC.format("module")}
raise RuntimeError("source files are never run")
class Shape(Base, meta=M):
    {DOC.format("class")}
    def area(self, unit: str = "m", *rest, exact=False) -> float:
        {DOC.format("method")}
    def _hidden(self):
        {DOC.format("hidden")}
    class Corner:
        async def move(self):
            {DOC.format("inner")}
def plain(): "One line only."
def outer():
    def local():
        {DOC.format("local")}
"""
    found = {each.name: each for each in objects_of(tmp_path, "geo.shapes", source)}
    assert list(found) == ["geo.shapes", "geo.shapes.Shape", "geo.shapes.Shape.area", "geo.shapes.Shape.Corner.move"]
    assert found["geo.shapes"].signature == "module geo.shapes"
    assert found["geo.shapes.Shape"].signature == "class Shape(Base)"
    area = found["geo.shapes.Shape.area"]
    assert area.signature == "def Shape.area(self, unit: str='m', *rest, exact=False) -> float"
    assert (area.module, area.owner, area.summary) == ("geo.shapes", "geo.shapes.Shape", "Do the method thing.")
    assert area.body == "It is described here at some length."
    assert area.url == "pydoc:geo.shapes.Shape.area"
    assert found["geo.shapes.Shape.Corner.move"].signature == "async def Shape.Corner.move(self)"
    assert found["geo.shapes.Shape.Corner.move"].owner == "geo.shapes.Shape.Corner"


def test_definitions_for_some_platforms_count_once(tmp_path: Path) -> None:
    source = f"""
try:
    from fast import run
except ImportError:
    def run():
        {DOC.format("first")}
if True:
    def walk():
        {DOC.format("first")}
else:
    def walk():
        {DOC.format("second")}
"""
    assert [(each.name, each.summary) for each in objects_of(tmp_path, "m", source)] == [
        ("m.run", "Do the first thing."),
        ("m.walk", "Do the first thing."),
    ]


@pytest.mark.parametrize(
    ("init", "listed", "names"),
    [
        ("from ._impl import solve", "", ["lib.solve"]),
        ("from lib._impl import solve", "", ["lib.solve"]),
        ("from ._impl import *", "__all__ = ['trace']\n__all__ += ['solve']\n", ["lib.solve", "lib.trace"]),
        ("from ._other import solve", "__all__ = ['trace']\n", []),
        ("def broken(:", "__all__ = ['trace']\n", []),
    ],
)
def test_a_private_module_shares_what_its_package_imports(
    tmp_path: Path, init: str, listed: str, names: list[str]
) -> None:
    source = f"{listed}def solve():\n    {DOC.format('a')}\ndef trace():\n    {DOC.format('b')}\n"
    found = objects_of(tmp_path, "lib._impl", source, **{"lib.__init__": init})
    assert [each.name for each in found] == names
    assert all(each.module == "lib._impl" for each in found)


def test_what_is_not_python_is_an_error(tmp_path: Path) -> None:
    for source in ('def f(:\n    """x\n"""', '"""\0"""'):
        with pytest.raises((SyntaxError, ValueError)):
            objects_of(tmp_path, "m", source)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torch.nn.Conv2d.reset_parameters", "torch nn Conv2d reset parameters"),
        ("http.server.HTTPServer", "http server HTTP Server"),
        ("sklearn.svm.LinearSVC", "sklearn svm Linear SVC"),
        ("urllib.parse.parseURLs", "urllib parse parse URLs"),
    ],
)
def test_names_become_words(name: str, words: str) -> None:
    assert humanise(name) == words


def test_a_long_passage_is_cut_between_words() -> None:
    each = DocObject("m.f", "m", None, "def f()", "Summary here.", "word " * 100)
    assert each.passage(27) == "def f()\nword word word word"
    assert each.passage(28) == "def f()\nword word word word"
    assert each.passage(10_000).endswith("word ")
    assert len(DocObject("m.f", "m", None, "x" * 500, "s", "b").passage(100)) == 100
