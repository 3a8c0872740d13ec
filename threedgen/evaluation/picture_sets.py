"""Folders of pictures of one object or of several, and their comparison by the names of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.paths import entries, existing
from threedgen.datasets.given import is_capture, open_capture, read_pictures
from threedgen.datasets.multiview import pictures_in
from threedgen.datasets.named_files import SUFFIXES
from threedgen.datasets.picture import read_picture
from threedgen.evaluation.result import Evaluation, OnProgress, silent
from threedgen.evaluation.scorer import Scorer

_LARGEST = 4096  # pixels: larger sides are reduced to it
_FIRST = 3  # number of names that a message lists


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one object. names: without suffixes. load: their numbers -> pictures on white, of one size."""

    names: Sequence[str]
    load: Callable[[Sequence[int]], Float[Tensor, "B H W 3"]]


def picture_sets(path: str | Path) -> dict[str, PictureSet]:
    """The pictures of a folder, by the names of their objects.

    The folder holds either one object, named "", or a sub-folder for each object. An object is posed pictures
    (see `open_capture`) or plain picture files. Pictures are read when they are loaded from the set.
    Raises UserError if the folder is missing or holds no pictures, and for two pictures of one name.
    """
    folder = existing(path, "there are no pictures at '{path}'")
    if not folder.is_dir():
        raise UserError(f"'{folder}' is not a folder of pictures")
    try:
        one = _one_set(folder)
        if one is not None:
            return {"": one}
        found = {sub.name: _one_set(sub) for sub in entries(folder) if sub.is_dir()}
    except OSError as error:
        raise UserError(
            f"cannot read '{folder}': {error.strerror or error}; check its permissions"
        ) from error
    sets = {name: item for name, item in found.items() if item is not None}
    if not sets:
        raise UserError(
            f"'{folder}' holds no pictures: neither {', '.join(SUFFIXES)}, nor posed pictures, "
            "nor folders with them"
        )
    return sets


def compare_pictures(
    target: str | Path, truth: str | Path, scorer: Scorer, progress: OnProgress = silent
) -> Evaluation:
    """Compares each picture of `target` with the one of the same name in `truth`; see `picture_sets` for both.

    True pictures without a counterpart are left out, and the result reports their number. Raises UserError for a
    picture without a true one, for other sizes, and if one folder holds one object and the other several.
    """
    ours, true = picture_sets(target), picture_sets(truth)
    if len(ours) == len(true) == 1:  # the names of single objects need not agree
        true = dict(zip(ours, true.values(), strict=True))
    _require_known(list(ours), list(true), f"'{target}' holds objects", f"'{truth}'")
    left_out = sum(len(item.names) for name, item in true.items() if name not in ours)
    for done, (name, mine) in enumerate(ours.items()):
        progress(done, len(ours))
        where = f"'{target}'" if not name else f"'{target}' ({name})"
        _require_known(mine.names, true[name].names, f"{where} holds pictures", f"'{truth}'")
        left_out += len(true[name].names) - len(mine.names)
        place = {view: index for index, view in enumerate(true[name].names)}
        pictures = mine.load(range(len(mine.names)))
        wanted = true[name].load([place[view] for view in mine.names])
        if pictures.shape != wanted.shape:
            sizes = [f"{size[1]} x {size[0]}" for size in (pictures.shape[1:3], wanted.shape[1:3])]
            raise UserError(f"{where} has pictures of {sizes[0]} pixels, the true ones have {sizes[1]}")
        scorer.add(name or Path(target).absolute().name, mine.names, pictures, wanted)
    progress(len(ours), len(ours))
    warnings = [f"{left_out} true pictures have no counterpart, they are left out"] if left_out else []
    return scorer.result(Path(target).absolute().name, warnings)


def _require_known(names: Sequence[str], known: Sequence[str], what: str, where: str) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        more = f" and {len(unknown) - _FIRST} more" if len(unknown) > _FIRST else ""
        raise UserError(
            f"{what} that {where} lacks: {', '.join(unknown[:_FIRST])}{more}; names must be the same"
        )


def _one_set(folder: Path) -> PictureSet | None:
    """The pictures of one object, or None if the folder itself holds none."""
    if is_capture(folder):
        names = [shot.path.stem for shot in open_capture(folder).shots]
        return PictureSet(_distinct(folder, names), lambda places: read_pictures(folder).images[list(places)])
    files = pictures_in(folder)
    if not files:
        return None
    return PictureSet(_distinct(folder, [path.stem for path in files]), partial(_read, files))


def _distinct(folder: Path, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"'{folder}' has two pictures of the name {twice[0]}: rename one of them")
    return names


def _read(files: Sequence[Path], places: Sequence[int]) -> Float[Tensor, "B H W 3"]:
    pictures: Mapping[Path, Tensor] = {files[place]: _on_white(files[place]) for place in places}
    first = next(iter(pictures))
    for file, picture in pictures.items():
        if picture.shape != pictures[first].shape:
            sizes = [f"{size.shape[1]} x {size.shape[0]}" for size in (pictures[first], picture)]
            raise UserError(
                f"pictures of one object differ in size: '{first}' has {sizes[0]}, '{file}' has {sizes[1]} pixels"
            )
    return torch.stack(list(pictures.values()))


def _on_white(file: Path) -> Float[Tensor, "H W 3"]:
    picture = read_picture(file, _LARGEST)
    rgb = torch.from_numpy(picture.rgb.copy()).float() / 255.0
    if picture.alpha is None:
        return rgb
    alpha = torch.from_numpy(picture.alpha.copy()).float()[..., None] / 255.0
    return rgb * alpha + (1.0 - alpha)
