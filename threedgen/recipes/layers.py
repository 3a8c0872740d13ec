"""The layers of a recipe before anything is checked: files that extend each other, and `key=value` settings.

A later layer is merged over an earlier one section by section. A section whose `name` changes is replaced as a
whole (the keys of another component would be wrong in it), and so are lists and schedules. `representation:
triplane` is short for `representation: {name: triplane}`.

`with_prior` is laid over its own layer, below those that extend it, if a real prior replaces the embedded one.
`with_video_prior` is merged like any section, and laid over the last stage if a real video prior replaces the
embedded one (see threedgen.pipelines.text_to_4d). `refined` is merged like any section, and laid over the rest if a
recipe that makes its asset in one pass shall refine it afterwards. `from_text` is the prior that draws a picture of
a text for a recipe that begins with a picture; `threedgen text-to-3d` reads it.

Paths that begin with "run:" are relative to the run's folder, so that a run can be moved together with its files.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from threedgen.core.documents import check_values, check_yaml, read_yaml_text
from threedgen.core.errors import UserError
from threedgen.core.plugins import did_you_mean

WITH_PRIOR = "with_prior"
WITH_VIDEO_PRIOR = "with_video_prior"
REFINED = "refined"
FROM_TEXT = "from_text"
OVERLAYS = (WITH_VIDEO_PRIOR, REFINED, FROM_TEXT)
"""Keys of a recipe that are no part of what is resolved."""
LARGEST_RESOLVED = 2**26  # letters that the references in a recipe may stand for
_LONGEST = 200  # letters of a text that a message repeats
BUILTIN_FOLDER = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Card:
    """A recipe's description of itself: one line, its paper, the priors it needs, and its memory."""

    name: str
    description: str
    paper: str
    needs: str
    memory: str


def recipe_cards(builtin: Path = BUILTIN_FOLDER) -> list[Card]:
    """The built-in recipes of a folder by name; what a recipe does not say is empty."""
    return [
        recipe_card(path.stem, builtin) for path in sorted(builtin.glob("*.yaml"), key=lambda path: path.stem)
    ]


def recipe_card(source: str | Path, builtin: Path = BUILTIN_FOLDER) -> Card:
    """What a recipe says about itself. Raises UserError as `recipe_layers` does."""
    path = _locate(str(source), Path.cwd(), builtin)
    values = _read_yaml(path)
    texts = {item.name: str(values.get(item.name, "")) for item in fields(Card)}
    return Card(**{**texts, "name": path.stem})


def recipe_layers(source: str | Path, builtin: Path = BUILTIN_FOLDER) -> list[dict[str, Any]]:
    """The YAML layers of a recipe, the most basic first. builtin: the folder of the recipes that have names.

    Raises UserError for a file that is missing or not YAML, and for recipes that extend each other in a circle.
    """
    return [values for _, values in reversed(list(_layers(source, builtin)))]


def extends_one_of(source: str | Path, builtin: Path) -> bool:
    """Whether a recipe is one of the built-in ones in a folder, or extends one of them, over any number of
    files."""
    known = {path.resolve() for path in builtin.glob("*.yaml")}
    try:
        return any(path in known for path, _ in _layers(source, builtin))
    except UserError:  # it extends a recipe that is not in the folder
        return False


def _layers(source: str | Path, builtin: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files of a recipe and their values, from the recipe itself to the most basic one that it extends."""
    visited: list[Path] = []
    current: str | None = str(source)
    folder = Path.cwd()
    while current is not None:
        path = _locate(current, folder, builtin)
        if path in visited:
            chain = " -> ".join(p.name for p in [*visited, path])
            raise UserError(f"recipes extend each other in a circle: {chain}")
        visited.append(path)
        values = _read_yaml(path)
        current = values.pop("extends", None)
        if current is not None and not isinstance(current, str):
            raise UserError(f"{path}: 'extends' must be the name of a recipe or a file, got {current!r}")
        folder = path.parent
        yield path, values


def is_builtin(source: str | Path, builtin: Path = BUILTIN_FOLDER) -> bool:
    """Whether `source` is the name of a built-in recipe in the folder `builtin`."""
    name = str(source)
    return "/" not in name and "\\" not in name and (builtin / f"{name}.yaml").is_file()


def merge_layers(layers: Sequence[Mapping[str, Any]], real_prior: bool = False) -> dict[str, Any]:
    """One recipe of several layers. real_prior: lay each layer's `with_prior` over that layer.

    Raises UserError if a `with_prior` is not a section.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        over = layer.get(WITH_PRIOR) or {}
        if not isinstance(over, Mapping):
            raise UserError(f"'{WITH_PRIOR}' must be a section with keys, got {over!r}")
        merged = merge(merged, {key: value for key, value in layer.items() if key != WITH_PRIOR})
        if real_prior:
            merged = merge(merged, over)
    return merged


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, section by section (the module's docstring says what is replaced as a whole)."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, str):
            value = {"name": value}
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _replaces(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


RUN = "run:"
_TEXTS = ("prompt", "negative")  # "run:" at the start of these is text, not a path


def located(values: Any, base: Path | None) -> Any:
    """Plain values with every "run:..." replaced by the path in the folder `base`."""
    if isinstance(values, Mapping):
        return {key: value if key in _TEXTS else located(value, base) for key, value in values.items()}
    if isinstance(values, list):
        return [located(value, base) for value in values]
    if isinstance(values, str) and values.startswith(RUN) and base is not None:
        return str(base / values.removeprefix(RUN))
    return values


def relative(values: Any, base: Path | None) -> Any:
    """The inverse of `located`, for the recipe that is written into the run."""
    if isinstance(values, Mapping):
        return {key: value if key in _TEXTS else relative(value, base) for key, value in values.items()}
    if isinstance(values, list):
        return [relative(value, base) for value in values]
    if isinstance(values, str) and base is not None and values.startswith(f"{base}{os.sep}"):
        return RUN + values.removeprefix(f"{base}{os.sep}")
    return values


def _replaces(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    renamed = "name" in new and new["name"] != old.get("name")
    scheduled = any(is_schedule(section) for section in (old, new))
    return renamed or scheduled


def is_schedule(section: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a schedule (see threedgen.core.schedule) and not a section."""
    return "from" in section or (bool(section) and all(isinstance(key, int | float) for key in section))


def split_overrides(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Overrides as (key, raw value); names first, because a name replaces its whole section. Raises UserError."""
    pairs = []
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"'{text}' is not a setting: write key=value, for example steps=300")
        pairs.append((key.strip(), raw))
    return sorted(pairs, key=lambda pair: pair[0].rsplit(".", 1)[-1] != "name")


def nested(current: Any, keys: Sequence[str], value: Any, full: str) -> Any:
    """A layer that sets `value` at `keys` of `current`; lists on the way are copied with one item changed.

    full: the whole dotted key, for the message of the UserError about a wrong place in a list.
    """
    if not keys:
        return value
    if isinstance(current, Sequence) and not isinstance(current, str):
        if not keys[0].isdigit() or int(keys[0]) >= len(current):
            prefix = full.removesuffix(".".join(keys))
            good = " or ".join(f"{prefix}{index}" for index in range(len(current)))
            raise UserError(f"unknown key '{full}': '{prefix.rstrip('.')}' is a list, write {good}")
        items = list(current)
        old, new = items[int(keys[0])], nested(items[int(keys[0])], keys[1:], value, full)
        both = isinstance(old, Mapping) and isinstance(new, Mapping) and not _replaces(old, new)
        items[int(keys[0])] = merge(old, new) if both else new
        return items
    inner = current.get(keys[0]) if isinstance(current, Mapping) else None
    if len(keys) > 1 and isinstance(inner, Mapping) and is_schedule(inner):
        return {keys[0]: merge(inner, nested(inner, keys[1:], value, full))}
    return {keys[0]: nested(inner, keys[1:], value, full)}


def parse_value(key: str, raw: str) -> Any:
    """The value of `key=raw` on the command line, read as YAML. Raises UserError if it is not YAML."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        check_yaml(raw)
        parsed = OmegaConf.from_dotlist([f"value={raw}"])
        value = OmegaConf.to_container(parsed)["value"]  # type: ignore[index,call-overload]
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        shown = raw if len(raw) <= _LONGEST else f"{raw[:_LONGEST]}..."
        raise UserError(f"cannot read the value of '{key}': {shown!r} is not valid YAML") from error
    try:
        check_values(value)
    except ValueError as error:
        raise UserError(f"cannot read the value of '{key}': {error}") from error
    return value


def _locate(name: str, folder: Path, builtin: Path) -> Path:
    if is_builtin(name, builtin):
        return (builtin / f"{name}.yaml").resolve()
    path = (folder / name).expanduser().resolve()
    if path.is_file():
        return path
    known = sorted(file.stem for file in builtin.glob("*.yaml"))
    near = did_you_mean(name, known)
    if name.endswith((".yaml", ".yml")):
        raise UserError(f"there is no recipe file {path}")
    raise UserError(f"unknown recipe '{name}'{near}; known: {', '.join(known)}, or the path of a YAML file")


def _read_yaml(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        text = read_yaml_text(path)
        _check_references(text)
        loaded = OmegaConf.load(io.StringIO(text))
        values = OmegaConf.to_container(loaded, resolve=True)
        check_values(values)
    except (YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable recipe: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a recipe: expected keys and values")
    return values  # type: ignore[return-value]


def _check_references(text: str) -> None:
    """Raises ValueError if the references ${key} of a recipe could stand for more than LARGEST_RESOLVED letters.

    A value with k references is at most k times as long as the longest that they name, and the text. Of all ways to
    chain n references, values with three each grow most: to 3^(n/3) times the text.
    """
    count = text.count("${")
    most = int(3.0 * math.log(LARGEST_RESOLVED / max(1, len(text)), 3.0))
    if count > most:
        raise ValueError(
            f"it has {count} references ${{...}}, and may have {most}: write values in their place"
        )


def first_line(error: Exception) -> str:
    """The message of an error on one line of at most 200 characters."""
    return " ".join(str(error).split())[:_LONGEST]
