"""The rules of the house, read from the imports: rooms, arrows that point down, no circles, short files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import threedgen

ROOT = Path(threedgen.__file__).parent
LONGEST = 400  # lines of a file

# A package imports only packages of lower lines, the last line being the lowest.
FLOORS = (
    ("commands",),
    ("batch",),
    ("composition",),
    ("pipelines",),
    ("evaluation", "ssdnerf"),
    ("jobs",),
    ("dfm", "nerfdiff", "reconstruction"),
    ("export", "metrics", "training", "testing"),
    ("representations", "guidance"),
    ("datasets",),
    ("renderers", "cameras", "recipes", "loop"),
    ("core", "kernels"),
)
FLOOR = {package: floor for floor, line in enumerate(FLOORS) for package in line}


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the package in `root`."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: set[str]) -> Iterator[tuple[str, int]]:
    """Every module of the package that a file imports, also inside functions and for type checking, and the
    line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known or node.module in known:
                    yield inner if inner in known else node.module, node.lineno


def complaints(root: Path) -> list[str]:
    """Every breach of the rules in the package in `root`, as sentences."""
    files = modules(root)
    arrows = {name: list(imports(path, set(files))) for name, path in files.items()}
    found = [*_strays(root), *_long(files)]
    for name, targets in arrows.items():
        for target, line in targets:
            here, there = _package(name), _package(target)
            if here and there and here != there and FLOOR[there] <= FLOOR[here]:
                found.append(
                    f"{files[name].relative_to(root)}:{line} imports {target}, which is not below it"
                )
            if here and not there and target != root.name:
                found.append(
                    f"{files[name].relative_to(root)}:{line} imports {target}, which is above all rooms"
                )
    found += [f"imports in a circle: {' -> '.join(circle)}" for circle in _circles(arrows)]
    found += _runs_in_representations(files, arrows, root)
    return found


def _package(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else ""


def _strays(root: Path) -> Iterator[str]:
    for path in root.glob("*.py"):
        if path.name not in ("__init__.py", "__main__.py"):
            yield f"{path.name} lies in the root of the package: it belongs into a room"
    for path in root.iterdir():
        if path.is_dir() and (path / "__init__.py").is_file() and path.name not in FLOOR:
            yield f"{path.name} is a room without a floor: add it to FLOORS"


def _long(files: dict[str, Path]) -> Iterator[str]:
    for path in files.values():
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > LONGEST:
            yield f"{path.name} has {count} lines, more than {LONGEST}"


def _runs_in_representations(
    files: dict[str, Path], arrows: dict[str, list[tuple[str, int]]], root: Path
) -> Iterator[str]:
    """A representation reads files, never runs."""
    for name in files:
        if _package(name) == "representations":
            for target, line in arrows[name]:
                if _package(target) in ("jobs", "pipelines", "recipes"):
                    yield f"{files[name].relative_to(root)}:{line} imports {target}: a representation reads no runs"


def _circles(arrows: dict[str, list[tuple[str, int]]]) -> list[list[str]]:
    """Strongly connected groups of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target, _ in arrows.get(name, ()):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in order:
            visit(name)
    return found


def test_the_rules_hold():
    assert complaints(ROOT) == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("stray.py", "", "stray.py lies in the root"),
        ("attic/__init__.py", "", "attic is a room without a floor"),
        ("core/up.py", "from house.loop.optim import x\n", "imports house.loop.optim, which is not below it"),
        (
            "core/late.py",
            "def f():\n    import house.jobs.run\n",
            "imports house.jobs.run, which is not below it",
        ),
        (
            "cameras/side.py",
            "from house.loop import optim\n",
            "imports house.loop.optim, which is not below it",
        ),
        ("core/a.py", "from house.core import b\n", "in a circle: house.core.a -> house.core.b"),
        ("core/long.py", "x = 1\n" * (LONGEST + 1), f"has {LONGEST + 1} lines"),
        ("representations/reader.py", "from house.recipes.load import x\n", "a representation reads no runs"),
    ],
)
def test_a_broken_rule_is_reported(file, text, complaint, tmp_path):
    house = tmp_path / "house"
    for name, content in (
        ("__init__.py", ""),
        ("core/__init__.py", ""),
        ("core/b.py", "from house.core import a\n"),
        ("cameras/__init__.py", ""),
        ("loop/__init__.py", ""),
        ("loop/optim.py", "from house.core import b\n"),
        ("jobs/__init__.py", ""),
        ("jobs/run.py", "from house.loop import optim\n"),
        ("recipes/__init__.py", ""),
        ("recipes/load.py", ""),
        ("representations/__init__.py", ""),
    ):
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(content)
    assert complaints(house) == []
    (house / file).parent.mkdir(parents=True, exist_ok=True)
    (house / file).write_text(text)
    found = complaints(house)
    assert len(found) == 1
    assert complaint in found[0]


def test_tests_benchmarks_and_examples_are_short_files_too():
    root = ROOT.parent
    files = {
        str(path): path
        for folder in ("tests", "benchmarks", "examples")
        for path in (root / folder).rglob("*.py")
    }
    assert list(_long(files)) == []


def test_argparse_lives_in_commands_only():
    using = [
        name
        for name, path in modules(ROOT).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(alias.name == "argparse" for alias in node.names)
    ]
    assert all(name.startswith("threedgen.commands.") for name in using)
    assert using
