"""Samples and reconstructions of a trained SSDNeRF as files, for `threedgen sample` and `threedgen reconstruct`."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen import export
from threedgen.cameras.orbit import joined, orbit
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.png import to_uint8
from threedgen.core.types import Cameras, RadianceField
from threedgen.datasets.multiview import PosedPictures, read_srn_pose
from threedgen.datasets.picture import read_picture
from threedgen.export.mesh import NoSurface
from threedgen.export.video import write_contact_sheet
from threedgen.jobs.listeners.previews import write_rows
from threedgen.ssdnerf.model import LatentModel, Viewpoint
from threedgen.ssdnerf.reconstruction import Reconstruction, reconstruct
from threedgen.ssdnerf.views import VIEWS, field_of, render_field, turntable
from threedgen.ssdnerf.watch import reduced, reduced_pictures

REPORT = "report.json"
RECONSTRUCTIONS = "reconstructions"  # folder in a run
# The names that `threedgen sample` gives to its assets: seed0-0007, and between two of them
# seed0-0001-to-0002-0007.
_SAMPLE = re.compile(r"seed-?\d+-(-?\d+-to--?\d+-)?\d+\.glb")
_WHITE = 0.97  # mean brightness of the border above which the background of a picture is white


def write_objects(
    model: LatentModel,
    codes: Float[Tensor, "B K R R"],
    names: Sequence[str],
    folder: Path,
    note: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Path], list[str]]:
    """Writes NAME.glb of each code, contact_sheet.png with a row for each code, and codes.safetensors.

    The folder then holds the samples of this call only: GLBs that `threedgen sample` wrote there before are
    removed, and files of other names stay. note: what each GLB says of its origin. Returns the files, and the names
    of codes that have no surface and therefore no GLB. Raises UserError if the folder cannot be written.
    """
    cameras = reduced(turntable(model.viewpoint)).to(model.device)
    written, empty, frames = [], [], []
    for number, (name, code) in enumerate(zip(names, codes, strict=True)):
        progress(number, len(names))
        field = field_of(model, code)
        frames += [to_uint8(picture) for picture in render_field(model, field, cameras).rgb.clamp(0.0, 1.0)]
        if _write_mesh(field, folder / f"{name}.glb", {**note, "name": name}):
            written.append(folder / f"{name}.glb")
        else:
            empty.append(name)
    for path in folder.glob("seed*.glb"):
        if path not in written and _SAMPLE.fullmatch(path.name):
            path.unlink()
    sheet = write_contact_sheet(folder / "contact_sheet.png", frames, VIEWS)
    kept = _write_codes(folder, dict(zip(names, codes, strict=True)))
    progress(len(names), len(names))
    return [*written, sheet, kept], empty


def _write_mesh(field: RadianceField, path: Path, note: dict[str, Any]) -> bool:
    """Writes the surface, and returns whether there is one. If not, an earlier asset of that name is removed."""
    try:
        export.write(field, path, note=note)
    except NoSurface:
        path.unlink(missing_ok=True)
        return False
    return True


def _write_codes(folder: Path, codes: dict[str, Tensor]) -> Path:
    from safetensors.torch import save_file

    from threedgen.core.atomic import replacing

    with replacing(folder / "codes.safetensors") as path:
        save_file({name: code.cpu().contiguous() for name, code in codes.items()}, path)
    return folder / "codes.safetensors"


def given_views(texts: Sequence[str], viewpoint: Viewpoint) -> PosedPictures:
    """The pictures that texts of the form VIEW.png[@CAMERA] name, on white.

    CAMERA is AZIMUTH[,ELEVATION[,DISTANCE]] in degrees and world units, or a file with the 16 numbers of an SRN
    pose. The default azimuth is 0, the front; elevation and distance default to the means of the training pictures,
    and the field of view is theirs too. Raises UserError for a text of another form, for pictures of different
    sizes, and for files that cannot be read.
    """
    pictures, cameras = [], []
    for text in texts:
        path, given = _split(text)
        picture = _on_white(path)
        pictures.append(picture)
        cameras.append(_camera(given, text, viewpoint, picture.shape[0], picture.shape[1]))
        if picture.shape != pictures[0].shape:
            raise UserError(f"'{path}' has another size than '{texts[0]}': all views must have the same size")
    images = torch.stack(pictures)
    return PosedPictures(images, torch.ones_like(images[..., :1]), joined(cameras))


def _split(text: str) -> tuple[str, str]:
    """The picture and the CAMERA of VIEW.png[@CAMERA]; the CAMERA is "" if there is none."""
    path, at, given = text.rpartition("@")
    if not at or Path(text).is_file():  # a file name may contain an @
        return text, ""
    return path, given


def _on_white(path: str) -> Float[Tensor, "H W 3"]:
    """The picture on white, like a training picture: it is not cropped and not scaled."""
    from threedgen.datasets.background_removal import remove_background

    picture = read_picture(path)
    rgb = torch.from_numpy(picture.rgb.astype(np.float32) / 255.0)
    alpha = picture.alpha
    if alpha is None:
        border = torch.cat([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
        if float(border.mean()) >= _WHITE:
            return rgb
        alpha, _ = remove_background(picture.rgb)
    share = torch.from_numpy(np.asarray(alpha, dtype=np.float32) / 255.0)[..., None]
    return rgb * share + (1.0 - share)


def _camera(given: str, text: str, viewpoint: Viewpoint, height: int, width: int) -> Cameras:
    """The camera of a view. given: its CAMERA. text: the whole text, for messages. Raises UserError."""
    full = torch.ones(1)
    # The field of view of a viewpoint is along the longer side, and that of an orbit along the height.
    tangent = math.tan(math.radians(0.5 * viewpoint.fov)) * height / max(height, width)
    fov_y = 2.0 * math.degrees(math.atan(tangent))
    if given and Path(given).is_file():
        anywhere = orbit(0.0 * full, 0.0 * full, full, fov_y, height, width)
        return replace(anywhere, world_from_camera=read_srn_pose(Path(given))[None])
    try:
        numbers = [float(word) for word in given.split(",")] if given else []
        if len(numbers) > 3 or not all(map(np.isfinite, numbers)):
            raise ValueError
    except ValueError as error:
        raise UserError(
            f"'{text}': after the @ comes AZIMUTH[,ELEVATION[,DISTANCE]], or a file with an SRN pose, for example "
            "front.png@0,20"
        ) from error
    azimuth, elevation, distance = [*numbers, *(0.0, viewpoint.elevation, viewpoint.distance)[len(numbers) :]]
    if not -90.0 < elevation < 90.0 or not distance > 0.0:
        raise UserError(
            f"'{text}': the elevation must be between -90 and 90 degrees, and the distance positive"
        )
    return orbit(azimuth * full, elevation * full, distance * full, fov_y, height, width)


def reconstruction_folder(run: str | Path, texts: Sequence[str]) -> Path:
    """The folder for the reconstruction of the pictures of VIEW.png[@CAMERA] texts, if the user names none.

    It is RUN/reconstructions/NAME if the first picture is NAME.png. If a reconstruction of other pictures has that
    folder, by their paths, it is the first free one of NAME-2, NAME-3 and so on. The same pictures get their old
    folder again, also with other cameras.
    """
    name = Path(_split(texts[0])[0]).stem
    folder = Path(run) / RECONSTRUCTIONS / name
    for number in itertools.count(2):
        if not folder.exists() or _reconstructed(folder) == _paths(texts):
            break
        folder = folder.with_name(f"{name}-{number}")
    return folder


def _paths(texts: Sequence[str]) -> list[str]:
    """The absolute paths of the pictures of VIEW.png[@CAMERA] texts."""
    return [str(Path(_split(text)[0]).absolute()) for text in texts]


def _reconstructed(folder: Path) -> list[str] | None:
    """The paths of the pictures that a folder is the reconstruction of; None if there is no such report."""
    try:
        report = parse_json((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report.get("pictures") if isinstance(report, dict) else None


def write_reconstruction(
    model: LatentModel,
    views: PosedPictures,
    how: Reconstruction,
    seed: int,
    folder: Path,
    names: Sequence[str],
) -> tuple[list[Path], list[str]]:
    """Reconstructs the object that views show, and writes the result, which replaces an earlier one in the folder.

    The files are asset.glb, contact_sheet.png (the given views, the same views of the asset, and the asset on a
    turntable), codes.safetensors, and report.json with PSNR and SSIM of the given views. names: the views as they
    were given, VIEW.png[@CAMERA]. Returns the files, and the names of assets without a surface. Raises UserError.
    """
    from threedgen.core.pictures import psnr, ssim
    from threedgen.export.report import write_report

    start = time.perf_counter()
    code = reconstruct(model, views, how, seed)
    seconds = time.perf_counter() - start
    field, asset, sheet = field_of(model, code), folder / "asset.glb", folder / "contact_sheet.png"
    found = _write_mesh(field, asset, {"seed": seed, "views": list(names), "name": "asset"})
    renders = render_field(model, field, views.cameras).rgb.clamp(0.0, 1.0).cpu()
    others = render_field(model, field, reduced(turntable(model.viewpoint))).rgb.cpu()
    rows = (reduced_pictures(views.images), reduced_pictures(renders), others)
    write_rows(sheet, [torch.cat(list(pictures), dim=1) for pictures in rows])
    written = [*([asset] if found else []), sheet, _write_codes(folder, {"asset": code})]
    guiding, finetuning = how.of(model)
    report = {
        "views": list(names),
        "pictures": _paths(names),
        "seed": seed,
        "guiding": asdict(guiding),
        "finetuning": asdict(finetuning),
        "psnr": psnr(renders, views.images).tolist(),
        "ssim": ssim(renders, views.images).tolist(),
        "seconds": round(seconds, 2),
    }
    return [*written, write_report(folder / REPORT, report)], [] if found else ["asset"]
