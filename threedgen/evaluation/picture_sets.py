"""Pictures by name, of one object or of many: what a folder of somebody's results and the truth have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.datasets.given import read_pictures
from threedgen.datasets.picture import read_picture
from threedgen.evaluation.result import Evaluation
from threedgen.evaluation.scorer import Scorer

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_LARGEST = 4096  # pixels a side: larger pictures are reduced to it
_FIRST = 3  # names that a message lists

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PictureSet:
    """names: of the pictures, without suffixes. load: pictures by their places in it, on white, of one size."""

    names: Sequence[str]
    load: Callable[[Sequence[int]], Float[Tensor, "B H W 3"]]


def picture_sets(path: str | Path) -> dict[str, PictureSet]:
    """The pictures of a folder, by object: posed pictures (transforms.json, SRN) or plain ones, directly in it
    (one object, named ""), or a sub-folder of such an object each. Pictures are read when they are asked for.

    Raises UserError: nothing there, no pictures, two of one name.
    """
    folder = existing(path, "there are no pictures at '{path}'")
    if not folder.is_dir():
        raise UserError(f"'{folder}' is not a folder of pictures")
    try:
        one = _one_set(folder)
        if one is not None:
            return {"": one}
        found = {sub.name: _one_set(sub) for sub in sorted(folder.iterdir()) if sub.is_dir()}
    except OSError as error:
        raise UserError(f"cannot look into '{folder}': {error.strerror or error}") from error
    sets = {name: item for name, item in found.items() if item is not None}
    if not sets:
        raise UserError(
            f"'{folder}' holds no pictures: neither {', '.join(_SUFFIXES)}, nor posed ones, nor folders"
        )
    return sets


def compare_pictures(
    target: str | Path, truth: str | Path, scorer: Scorer, progress: Progress = lambda done, total: None
) -> Evaluation:
    """Each picture of `target` against the one of its name in `truth`, both as `picture_sets` reads them.

    Truth that nothing was made for is left out, and the result says how much. Raises UserError for a picture
    without its true one, for other sizes, and where the one folder holds one object and the other several.
    """
    ours, true = picture_sets(target), picture_sets(truth)
    if len(ours) == len(true) == 1:  # one object each: whatever it is called
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
    """The pictures of one object, or None where the folder itself holds none."""
    if (folder / "transforms.json").is_file():
        return _posed(folder, _frame_names(folder / "transforms.json"))
    if (folder / "intrinsics.txt").is_file():
        return _posed(folder, [path.stem for path in sorted((folder / "rgb").glob("*.png"))])
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not files:
        return None
    return PictureSet(_distinct(folder, [path.stem for path in files]), partial(_read, files))


def _posed(folder: Path, names: list[str]) -> PictureSet:
    return PictureSet(_distinct(folder, names), lambda places: read_pictures(folder).images[list(places)])


def _frame_names(file: Path) -> list[str]:
    """Of the frames, in their order. Anything wrong with the file is said in full when it is read."""
    try:
        frames = json.loads(file.read_text(encoding="utf-8-sig"))["frames"]
        return [Path(str(frame["file_path"])).stem for frame in frames]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is not a transforms.json ({error})") from error


def _distinct(folder: Path, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"'{folder}' has two pictures of the name {twice[0]}: which is which?")
    return names


def _read(files: Sequence[Path], places: Sequence[int]) -> Float[Tensor, "B H W 3"]:
    pictures: Mapping[Path, Tensor] = {files[place]: _on_white(files[place]) for place in places}
    first = next(iter(pictures))
    for file, picture in pictures.items():
        if picture.shape != pictures[first].shape:
            sizes = [f"{size.shape[1]} x {size.shape[0]}" for size in (pictures[first], picture)]
            raise UserError(
                f"pictures of one object differ in size: '{first}' {sizes[0]}, '{file}' {sizes[1]}"
            )
    return torch.stack(list(pictures.values()))


def _on_white(file: Path) -> Float[Tensor, "H W 3"]:
    picture = read_picture(file, _LARGEST)
    rgb = torch.from_numpy(picture.rgb.copy()).float() / 255.0
    if picture.alpha is None:
        return rgb
    alpha = torch.from_numpy(picture.alpha.copy()).float()[..., None] / 255.0
    return rgb * alpha + (1.0 - alpha)
