"""The check that every setting of a component is read: a setting that nothing reads silently has no effect."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from threedgen.recipes import typed
from threedgen.recipes.schema import schema_of
from threedgen.testing.common import law

_WHOLE = ("asdict", "astuple", "fields", "vars")  # functions that read all fields of a dataclass


def check_settings(component: type[Any]) -> None:
    """Checks that the code of a component reads every field of its Config, nested settings included.

    component: a class with a Config dataclass, or such a dataclass itself. The search covers the modules that
    define the component, the classes that it inherits a Config from and the nested dataclasses, and the modules
    that these import from their own packages, directly or through others. A field is read there if

    - an attribute of its name is loaded, but not as an attribute of `self` in another class than the dataclass;
    - its name is a string in one of the defining modules, as the names of loss terms are;
    - the section that it is in is read as a whole, by `dataclasses.asdict`, `fields` or `vars`.

    Code in `__post_init__` does not count, because it only checks a value. A component without source code,
    such as one that was typed into an interactive session, passes. Raises AssertionError naming the first field
    that nothing reads.
    """
    schema = schema_of(component, component.__name__)
    owners = (component, *(base for base in component.__mro__ if "Config" in vars(base)))
    called = f"{component.__module__}:{component.__qualname__}"
    for setting in _settings(schema, ""):
        found = [_names_from(cls.__module__) for cls in dict.fromkeys((*owners, *setting.owners))]
        names = [one for one in found if one is not None]
        if len(names) < len(found):
            return
        law(
            any(setting.is_read(one) for one in names),
            "settings",
            f"nothing reads '{setting.path}' of {called}, so setting it has no effect",
        )


def check_settings_of(made: Any) -> None:
    """`check_settings` for the class of an object, if it has a Config."""
    if dataclasses.is_dataclass(getattr(type(made), "Config", None)):
        check_settings(type(made))


@dataclass(frozen=True)
class _Names:
    """Names in some modules. attributes: that are loaded. own: those of `self`, each with the name of its class.
    wholes: of objects that are read as a whole. strings: in the first of the modules."""

    attributes: frozenset[str]
    own: frozenset[tuple[str, str]]
    wholes: frozenset[str]
    strings: frozenset[str]


@dataclass(frozen=True)
class _Setting:
    """A field. path: names from the Config on. owners: the dataclasses that it is nested in, its own last."""

    path: str
    owners: tuple[type[Any], ...]

    def is_read(self, names: _Names) -> bool:
        *sections, name = self.path.split(".")
        own = {(base.__name__, name) for base in self.owners[-1].__mro__}
        return (
            name in names.attributes
            or name in names.strings
            or bool(own & names.own)
            or bool(set(sections[-1:]) & names.wholes)
        )


def _settings(schema: type[Any], prefix: str, owners: tuple[type[Any], ...] = ()) -> Iterator[_Setting]:
    owners = (*owners, schema)
    for name, hint in typed.hints(schema).items():
        yield _Setting(f"{prefix}{name}", owners)
        for nested in _nested(hint):
            if nested not in owners:
                yield from _settings(nested, f"{prefix}{name}.", owners)


def _nested(hint: Any) -> Iterator[type[Any]]:
    """The dataclasses in a type hint. A marked hint is that of a schedule, which is a value and no section."""
    if any(isinstance(mark, str) for mark in getattr(hint, "__metadata__", ())):
        return
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for inner in typing.get_args(hint):
        yield from _nested(inner)


@cache
def _names_from(start: str) -> _Names | None:
    """The names in a module and in those that it imports from its own package; None without source code."""
    first = _read(start)
    if first is None:
        return None
    package, waiting, seen = start.partition(".")[0], [start], {start}
    readers = []
    while waiting:
        reader = _read(waiting.pop())
        if reader is not None:
            readers.append(reader)
            inside = {name for name in reader.imports if name.startswith(f"{package}.")} - seen
            seen |= inside
            waiting += inside
    wholes = set().union(*(reader.wholes for reader in readers))
    sources = {source for reader in readers for target, source in reader.renamed if target in wholes}
    return _Names(
        attributes=frozenset().union(*(reader.attributes for reader in readers)),
        own=frozenset().union(*(reader.own for reader in readers)),
        wholes=frozenset(wholes | sources),
        strings=frozenset(first.strings),
    )


class _Reader(ast.NodeVisitor):
    """Collects names of one module, see `_Names`. renamed: pairs of attributes, the first of which is set to the
    second. imports: modules, and names in modules that may be modules."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._classes: list[str] = []
        self.attributes: set[str] = set()
        self.own: set[tuple[str, str]] = set()
        self.wholes: set[str] = set()
        self.renamed: set[tuple[str, str]] = set()
        self.strings: set[str] = set()
        self.imports: set[str] = set()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._classes.append(node.name)
        self.generic_visit(node)
        self._classes.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name != "__post_init__":
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            if self._classes and isinstance(node.value, ast.Name) and node.value.id == "self":
                self.own.add((self._classes[-1], node.attr))
            else:
                self.attributes.add(node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _last_name(node.func) in _WHOLE and node.args:
            self.wholes |= {_last_name(node.args[0])} - {""}
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            self.renamed |= {(_last_name(one), _last_name(other)) for one, other in pairs}
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.strings.add(node.value)

    def visit_Import(self, node: ast.Import) -> None:
        self.imports |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        names = self._module.split(".")
        # A relative import counts from the package, which is the module itself if it is an __init__.
        for depth in {len(names) - node.level, len(names) - node.level + 1} if node.level else {0}:
            source = ".".join([*names[:depth], *([node.module] if node.module else [])])
            self.imports |= {source, *(f"{source}.{alias.name}" for alias in node.names)}


def _last_name(node: ast.expr) -> str:
    """The name of a variable or of an attribute; empty for other expressions."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@cache
def _read(module: str) -> _Reader | None:
    """The names of one module, which need not have been imported; None if there is no such module or no source."""
    source = _source(module)
    if source is None:
        return None
    reader = _Reader(module)
    reader.visit(ast.parse(source))
    return reader


def _source(module: str) -> str | None:
    try:
        return inspect.getsource(sys.modules[module])
    except KeyError:
        pass  # not imported yet: some imports are inside of functions
    except (OSError, TypeError):
        return None
    top, *rest = module.split(".")
    for folder in getattr(sys.modules.get(top), "__path__", ()):
        place = Path(folder).joinpath(*rest)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file.read_text(encoding="utf-8")
    return None
