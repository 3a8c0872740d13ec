"""Finds settings that nothing reads: a recipe that sets one would change nothing, silently.

A key counts as read when its component read it by the end of the first step, or when the code that the
component can reach mentions an attribute of that name (it may be read later, or only in some cases).
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType

from threedgen.core.errors import UserError
from threedgen.loop.events import Event, StepDone
from threedgen.recipes.recipe import Choice, Recipe, never_read


class ReadCheck:
    """A listener: after the first step, a UserError names the first key that nothing can ever read."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._done = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone) and not self._done:
            self._done = True
            unused = unreadable(self.recipe)
            if unused:
                raise UserError(
                    f"nothing reads '{unused[0]}': the component knows the key but never uses it, so setting "
                    "it has no effect; take it out of the recipe"
                )


def unreadable(recipe: Recipe) -> list[str]:
    """Paths that the recipe sets, that nothing read so far and that no reachable code mentions."""
    mentioned: dict[str, set[str]] = {}
    unused = []
    for path in never_read(recipe):
        choice = max(
            (choice for choice in recipe.choices() if path.startswith(choice.path + ".")),
            key=lambda choice: len(choice.path),
        )
        if choice.path not in mentioned:
            mentioned[choice.path] = _mentions(choice)
        if path.rsplit(".", 1)[-1] not in mentioned[choice.path]:
            unused.append(path)
    return unused


def _mentions(choice: Choice) -> set[str]:
    """Every attribute name that the component's module, or one it imports from its own package, reads."""
    names: set[str] = set()
    for module in _reachable(sys.modules[choice.cls.__module__]):
        try:
            tree = ast.parse(inspect.getsource(module))
        except (OSError, TypeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                names.update(
                    a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
                )
    return names


def _reachable(start: ModuleType) -> Iterator[ModuleType]:
    package = start.__name__.partition(".")[0]
    waiting, seen = [start], {start.__name__}
    while waiting:
        module = waiting.pop()
        yield module
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            inside = isinstance(name, str) and name.partition(".")[0] == package
            if inside and name not in seen and name in sys.modules:
                seen.add(name)
                waiting.append(sys.modules[name])
