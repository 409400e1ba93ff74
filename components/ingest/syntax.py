"""Documented objects of a Python source file, found in its syntax tree: nothing is imported or run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from components.core.installed import Module, read_source
from components.ingest.docstrings import split_docstring

# Borders between words: dots and underscores; a capital after a small letter or digit; the last capital of an
# abbreviation that a word follows.
_BORDER = re.compile(r"[._]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")


class DocObject(NamedTuple):
    """A module, class, function or method with a summary and a body.

    `name` is the public qualified name, `module` the file's own, `owner` the class that it is or belongs to.
    """

    name: str
    module: str
    owner: str | None
    signature: str
    summary: str
    body: str

    @property
    def url(self) -> str:
        """An address that is the same on every machine: `pydoc:numpy.linalg.norm`."""
        return f"pydoc:{self.name}"

    def passage(self, limit: int) -> str:
        """Signature and body, cut between words to at most `limit` characters."""
        text = f"{self.signature}\n{self.body}"
        return text if len(text) <= limit else text[: limit + 1].rpartition(" ")[0][:limit].rstrip() or text[:limit]


def humanise(qualified_name: str) -> str:
    """Words instead of a dotted name: `sklearn.svm.LinearSVC.fit_path` gives `sklearn svm Linear SVC fit path`."""
    return _BORDER.sub(" ", qualified_name).strip()


def documented_objects(module: Module) -> list[DocObject]:
    """Public objects of a source file, in its order. Raises SyntaxError or ValueError if it is no valid Python.

    What is defined below a private name (`scipy.signal._ltisys`) counts if the package above that name imports it,
    and is called by that package's name.
    """
    parts = module.name.split(".")
    depth = next((i for i, part in enumerate(parts) if part.startswith("_")), len(parts))
    public = ".".join(parts[:depth])
    shared = _imported_names(module, public) if depth < len(parts) else frozenset("*")
    source = module.read()
    if not shared or (b'"""' not in source and b"'''" not in source):
        return []  # a docstring with a body has several lines
    tree = parse(source)
    if depth == len(parts):
        return [*_module(tree, module.name), *_members(tree.body, public, module.name, "", None)]
    if "*" in shared:
        shared |= _listed_in_all(tree)
    found = _members(tree.body, public, module.name, "", None)
    return [each for each in found if each.name[len(public) + 1 :].split(".")[0] in shared]


def parse(source: bytes) -> ast.Module:
    """The syntax tree, without the warnings that old source files give."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _module(tree: ast.Module, name: str) -> Iterator[DocObject]:
    raw = ast.get_docstring(tree, clean=False)
    if raw and (doc := split_docstring(raw, name)):
        yield DocObject(name, name, None, f"module {name}", doc.summary, doc.body)


def _members(body: Sequence[ast.stmt], owner: str, module: str, inside: str, class_: str | None) -> Iterator[DocObject]:
    """`owner` is the public name of what the statements are in, `inside` its part below the module, with a dot."""
    seen: set[str] = set()
    for node in _statements(body):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        name = f"{owner}.{node.name}"
        own_class = name if isinstance(node, ast.ClassDef) else class_
        raw = ast.get_docstring(node, clean=False)
        if raw and name not in seen and (doc := split_docstring(raw, node.name)):
            seen.add(name)  # the setter of a property and other definitions of the name add nothing
            yield DocObject(name, module, own_class, _signature(node, inside), doc.summary, doc.body)
        if isinstance(node, ast.ClassDef):
            yield from _members(node.body, name, module, f"{inside}{node.name}.", own_class)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, and those inside of `if` and `try`, where definitions for some platforms stand."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _statements([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            yield from _statements(
                [*statement.body, *(each for handler in statement.handlers for each in handler.body)]
            )
        else:
            yield statement


def _signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, inside: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {inside}{node.name}({bases})" if bases else f"class {inside}{node.name}"
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{keyword} {inside}{node.name}({ast.unparse(node.args)}){returns}"


def _listed_in_all(tree: ast.Module) -> frozenset[str]:
    """The strings that are assigned or added to `__all__`."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets: Sequence[ast.expr] = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if node.value is not None and any(isinstance(each, ast.Name) and each.id == "__all__" for each in targets):
            constants = (each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant))
            names.update(value for value in constants if isinstance(value, str))
    return frozenset(names)


def _imported_names(module: Module, package: str) -> frozenset[str]:
    """What `package` imports from `module` or from a package between them; `*` for all that the module lists."""
    names: set[str] = set()
    for origin, imported in _imports(module.root, package):
        if f"{module.name}.".startswith(f"{origin}."):
            names |= imported
    return frozenset(names)


@lru_cache(maxsize=512)
def _imports(root: str, package: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """The `from origin import names` of a package's `__init__.py`; none if there is no such file that parses."""
    try:
        tree = parse(read_source(root, f"{package.replace('.', '/')}/__init__.py"))
    except (OSError, SyntaxError, ValueError):
        return ()
    found = []
    for node in _statements(tree.body):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            if len(origin) > len(package):
                found.append((origin, frozenset(alias.name for alias in node.names)))
    return tuple(found)
