"""What the documentation names is there: links, anchors, files, modules, commands and Python names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import threedgen
from threedgen.commands.main import COMMANDS
from threedgen.core.plugins import BUILTIN, FAMILIES
from threedgen.recipes.load import load_recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "findings/README.md")),
    *sorted(DOCS.glob("*.md")),
]
CARDS = sorted((ROOT / "threedgen").rglob("README.md"))  # of the models that ship
SOURCES = sorted((ROOT / "threedgen").rglob("*.py"))
CODE = [
    path
    for folder in ("threedgen", "tests", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__)  # it names what is not there
]
OURS = re.compile(
    r"https://(?:raw\.githubusercontent|github)\.com/threedgen/threedgen/(?:blob/|tree/)?main/(.*)"
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)  # an indented block
PATH = re.compile(
    r"(?<![\w./~$%:-])((?:threedgen|tests|benchmarks|examples|docs|findings|\.github)/[\w./*-]*[\w*])"
)
MODULE = re.compile(r"(?<![\w./-])threedgen(?:\.[A-Za-z_]\w*)+")
GROUPS = {f"threedgen.{family}" for family in (*FAMILIES, "exporter")}  # of entry points
NUMBERED = re.compile(r"METHODS(?:\.md)?[\s#]+\d")
NUMBERS = {9: "nine", 10: "ten", 11: "eleven", 12: "twelve"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^ {4,}\S.*$", "", FENCE.sub("", text), flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", FENCE.sub("", text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


def anchors_of(path: Path) -> set[str]:
    return anchors(path.read_text(encoding="utf-8")) if path.suffix == ".md" else set()


def broken_links(page: Path) -> list[str]:
    """The links of a page to files or headings that do not exist; other web pages are not visited."""
    broken = []
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        own = OURS.fullmatch(link)
        if link.startswith(("http://", "https://")) and own is None:
            continue
        path, _, anchor = (own[1] if own else link).partition("#")
        target = (ROOT if own else page.parent) / path if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


def missing_paths(text: str) -> list[str]:
    """The files and folders of the repository that a text names and that do not exist. NAME and * are any name."""
    found = [path for path in PATH.findall(text) if "NAME" not in path]
    return [path for path in found if not (ROOT / re.sub(r"/[^/]*\*.*", "", path)).exists()]


def missing_modules(text: str) -> list[str]:
    """The dotted names below threedgen that a text uses and that are neither modules nor in one."""
    names = {match.rstrip(".") for match in MODULE.findall(text)} - GROUPS
    return sorted(name for name in names if not exists(name))


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            if importlib.util.find_spec(module) is None:
                continue
        except ModuleNotFoundError:
            continue
        rest = parts[count:]
        if not rest:
            return True
        found: object = importlib.import_module(module)
        for part in rest:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def commands(text: str) -> Iterator[str]:
    """Every command line of threedgen in the indented blocks of a page, on one line each."""
    for block in SHELL.findall(text):
        joined = re.sub(r"\\\n\s*", " ", block)
        yield from (line.strip() for line in joined.splitlines() if line.strip().startswith("threedgen "))


def split(line: str) -> tuple[str, list[str]]:
    """The name of a command and its arguments."""
    words = shlex.split(line, comments=True)[1:]
    count = 2 if words[0] == "train" else 1
    return " ".join(words[:count]), words[count:]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_resolve(page):
    assert broken_links(page) == []


@pytest.mark.parametrize(
    "page", [*PAGES, *CARDS, ROOT / "Makefile", *(ROOT / ".github").rglob("*.yml")], ids=named
)
def test_paths_exist(page):
    assert missing_paths(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=named)
def test_modules_exist(page):
    assert missing_modules(page.read_text(encoding="utf-8")) == []


def test_what_docstrings_and_comments_name_exists():
    broken = {}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        # A folder called threedgen/ may also be somewhere else, in a cache for example.
        missing = [*(path for path in missing_paths(text) if "." in path), *missing_modules(text)]
        if missing:
            broken[named(path)] = missing
    assert broken == {}


def test_pages_that_code_names_exist():
    broken = {}
    headings = anchors((DOCS / "methods.md").read_text(encoding="utf-8"))
    for path in [*CODE, ROOT / "CHANGELOG.md", ROOT / "CITATION.cff"]:
        text = path.read_text(encoding="utf-8")
        missing = [
            page for page in PATH.findall(text) if page.startswith("docs/") and page in missing_paths(page)
        ]
        flat = re.sub(r"\s*\n\s*#?\s*", " ", text)  # a citation may go over two lines of a comment
        for title in re.findall(r'docs/methods\.md, "([^"]+)"', flat):
            if not anchors(f"# {title}") <= headings:
                missing.append(f'docs/methods.md, "{title}"')
        if missing:
            broken[named(path)] = missing
    assert broken == {}


def test_no_code_cites_a_numbered_section():
    numbered = {named(path) for path in CODE if NUMBERED.search(path.read_text(encoding="utf-8"))}
    assert numbered == set()


def test_the_index_leads_to_every_page_once():
    index = Counter(LINK.findall((DOCS / "index.md").read_text(encoding="utf-8")))
    pages = {page.name for page in DOCS.glob("*.md")} - {"index.md"}
    assert {link: count for link, count in index.items() if not link.startswith("..")} == dict.fromkeys(
        pages, 1
    )


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_are_understood(page):
    for line in commands(page.read_text(encoding="utf-8")):
        name, arguments = split(line)
        if "--help" in arguments or not arguments:
            assert name in COMMANDS, line
            continue
        parsed = COMMANDS[name].parser().parse(arguments)
        if name == "text-to-3d" and not parsed.recipe.endswith(".yaml"):
            # The plug-in of examples/ is not installed here.
            settings = [
                text
                for text in parsed.settings
                if not re.match(r"representation(=voxels|\.resolution)", text)
            ]
            load_recipe(parsed.recipe, settings, prior=parsed.prior, prompt=parsed.prompt)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_blocks_use_what_exists(page):
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("threedgen"):
                missing = [alias.name for alias in node.names if not exists(f"{node.module}.{alias.name}")]
                assert missing == [], node.module


def test_the_python_page_has_every_public_name():
    headings = re.findall(
        r"^### (\w+)$", (DOCS / "python.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    public = {name for name in threedgen.__all__ if not name.startswith("_")}
    assert set(headings) == public


def test_every_objective_is_described():
    table = (DOCS / "objectives.md").read_text(encoding="utf-8").split("## Which one?")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `", table, flags=re.MULTILINE)
    assert set(rows) == set(BUILTIN["objective"])
    count = NUMBERS[len(BUILTIN["objective"])]
    assert f"its {count} objectives" in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_what_is_broken_is_found(tmp_path):
    (tmp_path / "good.md").write_text("# A `b`: c, d\n## Twice\n## Twice\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[1](good.md#a-b-c-d) [2](good.md#twice-1) [3](#here) [4](https://example.com/x)\n"
        "[5](bad.md) [6](good.md#no-heading) [7](#there) [8](good.md#twice-2)\n"
        "[9](https://github.com/threedgen/threedgen/blob/main/bad.md)\n\n    [10](code.md)\n"
    )
    assert broken_links(page) == [
        *("bad.md", "good.md#no-heading", "#there", "good.md#twice-2"),
        "https://github.com/threedgen/threedgen/blob/main/bad.md",
    ]
    text = "docs/index.md, docs/NAME.md, tests/*.py, tests/no/*.py, `threedgen/core/no.py`, docs/no.md; ~/docs/a."
    assert missing_paths(text) == ["tests/no/*.py", "threedgen/core/no.py", "docs/no.md"]
    text = "threedgen.core.types, threedgen.core.types.Cameras. threedgen.prior threedgen.nothing threedgen.core.no"
    assert missing_modules(text) == ["threedgen.core.no", "threedgen.nothing"]
    assert NUMBERED.search("(" + "METHODS" + "\n    # 1.2)")
    assert list(commands("x\n\n    threedgen fit a \\\n        b=1\n    $ threedgen\n")) == [
        "threedgen fit a  b=1"
    ]
    assert split("threedgen train prior --size 64   # twice") == ("train prior", ["--size", "64"])


def test_no_page_holds_what_a_merge_left():
    marks = tuple(sign * 7 for sign in "<>")
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        lines = page.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.startswith(marks)], page
