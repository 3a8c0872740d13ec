"""What a page shows of a run, read from its folder."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedgen.core import inside
from threedgen.core.documents import parse_json, parse_yaml
from threedgen.core.errors import UserError
from threedgen.jobs.listeners import metrics
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.typed import leaves

_MOST_PREVIEWS = 12
_LARGEST = 24 << 20  # bytes of a film or a picture inside a page
_KINDS = {".png": "image/png", ".mp4": "video/mp4"}
_SHOWN: dict[str, Any] = {
    **dict.fromkeys(("scores", "seconds", "versions", "gpu"), dict),
    **dict.fromkeys(("seed", "steps", "stopped_after", "peak_memory_bytes"), int),
    "prompt": str,
    "warnings": list,
}
_FILMS = ("anim.mp4", "turntable.mp4")


@dataclass(frozen=True)
class Picture:
    """A picture or a film. data: as a data URI, "" if the file is too large for a page."""

    name: str
    data: str


@dataclass(frozen=True)
class Gathered:
    """A run as a page shows it.

    report: what a page shows of report.json. finished: whether the run is. rows: of metrics.jsonl. settings: path
    of a setting -> value. origin: see `Recipe`. Pictures that the run does not have are left out.
    """

    name: str
    report: Mapping[str, Any]
    finished: bool
    rows: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    origin: Mapping[str, Any]
    films: Sequence[Picture]
    sheet: Picture | None
    previews: Sequence[Picture]


def gathered(run: RunDirectory, report: Mapping[str, Any] | None = None) -> Gathered:
    """Everything of a run that a page shows. report: the one to be shown; None reads the one in the folder, which
    an unfinished run lacks. Raises UserError for a file that cannot be read."""
    return Gathered(
        name=run.path.resolve().name,
        report=_sane(_document(run.report, parse_json) if report is None else report),
        finished=run.finished,
        rows=metrics.read(run.metrics),
        settings=dict(leaves(_document(run.recipe, parse_yaml))),
        origin=_origin(run.origin),
        films=list(_pictures(run.path / name for name in _FILMS)),
        sheet=next(_pictures([run.path / "contact_sheet.png"]), None),
        previews=list(_pictures(_some(sorted(run.previews.glob("*.png"))))),
    )


def _document(path: Path, parse: Any) -> dict[str, Any]:
    """A file with keys and values; {} if there is none."""
    try:
        document = parse(inside.read_text(path, inside.DOCUMENT))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore the file") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} has no keys and values: restore the file")
    return document


def _sane(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a report a page shows, without what another version or another program wrote in another form."""
    kept = {name: value for name, value in report.items() if isinstance(value, _SHOWN.get(name, ()))}
    seconds = kept.get("seconds", {})
    kept["seconds"] = {name: spent for name, spent in seconds.items() if isinstance(spent, int | float)}
    return kept


def _origin(path: Path) -> dict[str, Any]:
    """What was changed in the recipe; {} if the file is damaged, because a run is whole without it."""
    try:
        origin = _document(path, parse_json)
    except UserError:
        return {}
    changed = origin.get("changed", {})
    pairs = changed.values() if isinstance(changed, dict) else [None]
    return origin if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs) else {}


def _some(paths: Sequence[Path]) -> list[Path]:
    """At most _MOST_PREVIEWS of them, evenly spaced, with the last."""
    count = min(len(paths), _MOST_PREVIEWS)
    return [paths[(index + 1) * len(paths) // count - 1] for index in range(count)]


def _pictures(paths: Any) -> Iterator[Picture]:
    """Those of the files that exist."""
    for path in paths:
        try:
            data = base64.b64encode(inside.read_bytes(path, _LARGEST)).decode()
        except FileNotFoundError:
            continue
        except (UserError, OSError):  # too large, or not to be read: the page says that it is not there
            yield Picture(path.name, "")
            continue
        yield Picture(path.name, f"data:{_KINDS[path.suffix]};base64,{data}")
