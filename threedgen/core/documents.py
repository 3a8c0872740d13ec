"""JSON and YAML of somebody else, as plain values: bounded in size and nesting, and with numbers that fit a float.

The parsers of Python's library and of PyYAML take a text that nests so deep that the process ends, one of a few
lines whose aliases stand for billions of values, and whole numbers that no float holds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from threedgen.core import inside

LARGEST = 2**20  # bytes of a YAML text
DEEPEST = 100  # lists and sections inside each other
MOST = 100_000  # values of a YAML text, those that aliases repeat included
_MAX = sys.float_info.max
_TAGS = ("!", "tag:yaml.org,2002:str")
_TOO_DEEP = f"more than {DEEPEST} lists and sections lie inside each other"


def parse_json(text: str | bytes) -> Any:
    """The values of a JSON text. Raises ValueError, with the reason, for anything that is not one."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    check_values(values)
    return values


def read_yaml(path: Path) -> Any:
    """The values of a YAML file. Raises OSError, and ValueError with the reason on one line."""
    return parse_yaml(read_yaml_text(path))


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file within the limits of `check_yaml`. Raises OSError, ValueError, and UserError for what
    is no file."""
    with inside.opened(path) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST // 2**20} MB")
    text = data.decode("utf-8")
    check_yaml(text)
    return text


def parse_yaml(text: str) -> Any:
    """The values of a YAML text. Raises ValueError with the reason on one line."""
    import yaml

    check_yaml(text)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    check_values(values)
    return values


def check_yaml(text: str) -> None:
    """Raises ValueError unless a text is YAML within the limits. Its values are not made."""
    import yaml

    sizes: dict[str, int] = {}  # anchor -> number of values in it, 0 while it is not complete
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_nodes.pop()
                if anchor is not None:
                    sizes[anchor] = count - before
                continue
            if not isinstance(event, yaml.NodeEvent):
                continue
            tag = getattr(event, "tag", None)
            # PyYAML's constructors break on values that do not fit theirs.
            if tag is not None and tag not in _TAGS:
                raise ValueError(f"it has the tag {tag}: leave tags out")
            if isinstance(event, yaml.AliasEvent):
                if sizes.get(event.anchor) == 0:
                    raise ValueError(f"the alias *{event.anchor} stands inside itself")
                count += sizes.get(event.anchor, 1)
            else:
                count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, count - 1))
                if event.anchor is not None:
                    sizes[event.anchor] = 0
            elif not isinstance(event, yaml.AliasEvent) and event.anchor is not None:
                sizes[event.anchor] = 1
            if len(open_nodes) > DEEPEST:
                raise ValueError(_TOO_DEEP)
            if count > MOST:
                raise ValueError(f"it stands for more than {MOST} values")
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def check_values(values: Any) -> None:
    """Raises ValueError for plain values that nest too deep, and for whole numbers that no float holds."""
    level = [values]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
                below += value.keys()
            elif isinstance(value, list | tuple | set):
                below += value
            elif isinstance(value, int) and not -_MAX <= value <= _MAX:
                raise ValueError(f"it holds a number of {len(str(value))} digits, which is too large")
        if not below:
            return
        level = below
    raise ValueError(_TOO_DEEP)
