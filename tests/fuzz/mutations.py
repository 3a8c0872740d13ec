"""What damages inputs: bytes, numbers and values in documents, and whole files.

Everything follows from a generator. A mutation takes the content of a file and returns another, or None if it does
not apply to that content. Those of documents know JSON, YAML, JSON lines, and the headers of safetensors and GLB
files.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes | None]

FOREIGN = "fuzz_foreign"
"""The module that no input may make the product touch."""

_DEEP = 3000  # levels: more than Python's parsers recurse
_MOST = 200_000  # bytes of a file whose content is parsed
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_ABSURD = (
    "1e30",
    "-1e30",
    "1e-30",
    "0",
    "-1",
    "nan",
    "inf",
    "1000000",
    "99999999999999999999",
    "1e400",
    "",
    "0x",
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**63, 10**30, 0.5, -0.5, 1e-30, 1e30),
    *(float("nan"), float("inf"), "", "a", "é", "../../../etc/passwd", "\0", "x" * 5000, "1", "2001-99-99"),
    *([], [[]], [1, 2, 3], [None], ["a", 1], {}, {"a": 1}, {"a": {"b": []}}, "null", "no", "~nobody/x"),
)


def flip_bits(random: Random, data: bytes) -> bytes | None:
    """Up to eight bits anywhere, or all of them in the first 64 bytes."""
    if not data:
        return None
    changed, reach = bytearray(data), len(data) if random.random() < 0.5 else min(64, len(data))
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(reach)] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(random: Random, data: bytes) -> bytes | None:
    return data[: random.randrange(len(data))] if data else None


def empty(random: Random, data: bytes) -> bytes | None:
    return b"" if data else None


def not_utf8(random: Random, data: bytes) -> bytes:
    where = random.randrange(len(data) + 1)
    return data[:where] + random.choice([b"\xff", b"\xfe\xff", b"\xc3\x28", b"caf\xe9", b"\0"]) + data[where:]


def noise(random: Random, data: bytes) -> bytes:
    return random.randbytes(random.randint(1, 300))


def repeat(random: Random, data: bytes) -> bytes | None:
    """A part of it a second time."""
    if len(data) < 2:
        return None
    first, last = sorted(random.sample(range(len(data)), 2))
    return data[:last] + data[first : min(last, first + 4096)] + data[last:]


def absurd_number(random: Random, data: bytes) -> bytes | None:
    """One of the numbers that stand in a text."""
    if len(data) > _MOST or b"\0" in data[:1000]:
        return None
    places = [found.span() for found in _NUMBER.finditer(data)]
    if not places:
        return None
    first, last = random.choice(places)
    return data[:first] + random.choice(_ABSURD).encode() + data[last:]


def shuffle_lines(random: Random, data: bytes) -> bytes | None:
    """A line is lost, doubled, or changes its place."""
    lines = data.split(b"\n")
    if len(lines) < 3 or len(data) > _MOST:
        return None
    line = lines.pop(random.randrange(len(lines)))
    for _ in range(random.randrange(3)):
        lines.insert(random.randrange(len(lines)), line)
    return b"\n".join(lines)


def deep(random: Random, data: bytes) -> bytes:
    """A document of so many levels that a parser may give up."""
    opening, closing = random.choice([("[", "]"), ('{"a":', "}")])
    return (opening * _DEEP + "1" + closing * _DEEP).encode()


def foreign(random: Random, data: bytes) -> bytes:
    """A file that would run code if it were unpickled, or read as YAML with tags."""
    return random.choice([f"c{FOREIGN}\nrun\n(tR.", f"!!python/object/apply:{FOREIGN}.run [1]\n"]).encode()


def document(random: Random, data: bytes) -> bytes | None:
    """A value of another type, an absurd one, a key that is missing or too many, or deep nesting."""
    if len(data) < 12:
        return None
    if data[:4] == b"glTF":
        length = int.from_bytes(data[12:16], "little")
        inner = document(random, data[20 : 20 + length]) if length <= _MOST else None
        if inner is None:
            return None
        inner += b" " * (-len(inner) % 4)
        whole = len(data) - length + len(inner)
        header = data[:8] + whole.to_bytes(4, "little") + len(inner).to_bytes(4, "little") + data[16:20]
        return header + inner + data[20 + length :]
    length = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and length <= min(_MOST, len(data) - 8):
        inner = document(random, data[8 : 8 + length])
        if inner is None:
            return None
        inner += b" " * (-len(inner) % 8)
        return len(inner).to_bytes(8, "little") + inner + data[8 + length :]
    if len(data) > _MOST:
        return None
    return _lines(random, data) or _json(random, data) or _yaml(random, data)


def _json(random: Random, data: bytes) -> bytes | None:
    try:
        values = json.loads(data)
        return json.dumps(changed(random, values)).encode() if isinstance(values, dict | list) else None
    except (ValueError, RecursionError):
        return None


def _lines(random: Random, data: bytes) -> bytes | None:
    lines = data.splitlines()
    if len(lines) < 2 or not all(line.startswith(b"{") and line.endswith(b"}") for line in lines):
        return None
    number = random.randrange(len(lines))
    lines[number] = _json(random, lines[number]) or b"{"
    return b"\n".join(lines) + b"\n"


def _yaml(random: Random, data: bytes) -> bytes | None:
    import yaml

    try:
        values = yaml.safe_load(data)
        return yaml.safe_dump(changed(random, values)).encode() if isinstance(values, dict | list) else None
    except (ValueError, RecursionError, yaml.YAMLError):  # what is read may still be too deep to be written
        return None


def changed(random: Random, values: Any) -> Any:
    """A JSON document with one change at a random place; `values` itself is changed."""
    places = list(_places(values))
    if not places:
        return random.choice(_VALUES)
    container, key = random.choice(places)
    deed = random.randrange(8)
    if deed == 0:
        del container[key]
    elif deed == 1 and isinstance(container, dict):
        container[random.choice(["extra", "é", "", "__class__", key + "x"])] = random.choice(_VALUES)
    elif deed == 2:
        nested: Any = container[key]
        for _ in range(random.choice([1, 2, 200])):
            nested = [nested] if random.random() < 0.5 else {"a": nested}
        container[key] = nested
    elif deed == 3:
        other, name = random.choice(places)
        container[key] = json.loads(json.dumps(other[name], default=str))
    elif isinstance(container[key], int | float) and deed < 6:
        container[key] = random.choice(
            [-container[key], container[key] * 1000, container[key] + 1, 10**6, 1e30]
        )
    else:
        container[key] = random.choice(_VALUES)
    return values


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        yield values, key
        yield from _places(value)


_BYTES: tuple[Mutation, ...] = (flip_bits, truncate, empty, not_utf8, noise, repeat, foreign)
_TEXTS: tuple[Mutation, ...] = (absurd_number, shuffle_lines, deep)


def damage(random: Random, root: Path) -> str:
    """Damages one file of a folder, or a few; returns what was done in words."""
    deeds = [_damage_once(random, root) for _ in range(random.choice([1, 1, 1, 2, 3]))]
    return "; ".join(deeds)


def _damage_once(random: Random, root: Path) -> str:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if not files:
        return "nothing is left"
    file = random.choice(files)
    name = file.relative_to(root)
    chance = random.random()
    if chance < 0.12:
        return _misplace(random, root, files, file)
    data = file.read_bytes()
    kinds = (document,) if chance < 0.6 else _TEXTS if chance < 0.8 else _BYTES
    for mutation in (*random.sample(kinds, len(kinds)), *random.sample(_BYTES, len(_BYTES))):
        made = mutation(random, data)
        if made is not None and made != data:
            _put(file, made)
            return f"{mutation.__name__} of {name}"
    return f"nothing happens to {name}"


def _misplace(random: Random, root: Path, files: list[Path], file: Path) -> str:
    """A file is missing, takes the place of another, or is a folder or a link to nothing."""
    name, other = file.relative_to(root), random.choice(files)
    content = other.read_bytes()
    file.unlink()
    deed = random.randrange(5)
    if deed == 0:
        file.mkdir()
        return f"{name} is a folder"
    if deed == 1:
        file.symlink_to("nowhere")
        return f"{name} is a link to nothing"
    if deed == 2 and file.parent != root:
        shutil.rmtree(file.parent)
        return f"{name.parent} is missing"
    if deed < 4 and other != file:
        file.write_bytes(content)
        return f"{name} is {other.relative_to(root)}"
    return f"{name} is missing"


def _put(file: Path, content: bytes) -> None:
    """Another file in its place: it may be a link to one that other tries use."""
    file.unlink()
    file.write_bytes(content)
