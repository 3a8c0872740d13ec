"""`threedgen sample` and `threedgen reconstruct`: what a trained SSDNeRF makes, as files."""

from __future__ import annotations

import itertools
import json
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
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras, RadianceField
from threedgen.datasets.multiview import PosedPictures, read_srn_pose
from threedgen.datasets.picture import read_picture
from threedgen.export.mesh import NoSurface
from threedgen.export.video import to_uint8, write_contact_sheet
from threedgen.jobs.listeners.previews import write_rows
from threedgen.ssdnerf.model import LatentModel, Viewpoint
from threedgen.ssdnerf.reconstruction import Reconstruction, reconstruct
from threedgen.ssdnerf.views import VIEWS, around, scene_of, shown
from threedgen.ssdnerf.watch import reduced, reduced_pictures

REPORT = "report.json"
RECONSTRUCTIONS = "reconstructions"  # of a run
# What `threedgen sample` calls its assets: seed0-0007, and between two of them seed0-0001-to-0002-0007.
_SAMPLE = re.compile(r"seed-?\d+-(-?\d+-to--?\d+-)?\d+\.glb")
_WHITE = 0.97  # mean brightness of the border from which on a picture has a white background


def write_scenes(
    model: LatentModel,
    codes: Float[Tensor, "B K R R"],
    names: Sequence[str],
    folder: Path,
    note: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Path], list[str]]:
    """NAME.glb of each code, contact_sheet.png with a row a code, and codes.safetensors.

    The folder then holds the samples of this call alone: GLBs that `threedgen sample` left there before are
    removed, files of other names stay. Returns the files, and the names of codes that have no surface and therefore
    no GLB. Raises UserError where the folder cannot be written.
    """
    cameras = reduced(around(model.viewpoint)).to(model.device)
    written, empty, frames = [], [], []
    for number, (name, code) in enumerate(zip(names, codes, strict=True)):
        progress(number, len(names))
        scene = scene_of(model, code)
        frames += [to_uint8(picture) for picture in shown(model, scene, cameras).rgb.clamp(0.0, 1.0)]
        if _write_mesh(scene, folder / f"{name}.glb", {**note, "name": name}):
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


def _write_mesh(scene: RadianceField, path: Path, note: dict[str, Any]) -> bool:
    """Whether there was a surface to write; where there is none, an earlier asset of that name is removed."""
    try:
        export.write(scene, path, note=note)
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
    """The pictures that VIEW.png[@CAMERA] name, on white.

    CAMERA is AZIMUTH[,ELEVATION[,DISTANCE]] in degrees and world units, or a file with the 16 numbers of an SRN
    pose; what is not said is as the training pictures have it on average, and the azimuth 0, the front. Their
    field of view is that of the training pictures. Raises UserError: another form, pictures of different sizes,
    files that cannot be read.
    """
    pictures, cameras = [], []
    for text in texts:
        path, said = _parted(text)
        picture = _on_white(path)
        pictures.append(picture)
        cameras.append(_camera(said, text, viewpoint, picture.shape[0], picture.shape[1]))
        if picture.shape != pictures[0].shape:
            raise UserError(f"'{path}' has another size than '{texts[0]}': the views must be of one size")
    images = torch.stack(pictures)
    return PosedPictures(images, torch.ones_like(images[..., :1]), joined(cameras))


def _parted(text: str) -> tuple[str, str]:
    """The picture and the CAMERA of VIEW.png[@CAMERA], "" where none is said."""
    path, at, said = text.rpartition("@")
    if not at or Path(text).is_file():  # a name may have an @ in it
        return text, ""
    return path, said


def _on_white(path: str) -> Float[Tensor, "H W 3"]:
    """The picture as a training picture would be: not cut, not scaled, on white."""
    from threedgen.datasets.background_removal import remove_background

    picture = read_picture(path)
    rgb = torch.from_numpy(picture.rgb.astype(np.float32) / 255.0)
    alpha = picture.alpha
    if alpha is None:
        border = torch.cat([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
        if float(border.mean()) >= _WHITE:
            return rgb
        alpha = remove_background(picture.rgb)
    share = torch.from_numpy(np.asarray(alpha, dtype=np.float32) / 255.0)[..., None]
    return rgb * share + (1.0 - share)


def _camera(said: str, text: str, viewpoint: Viewpoint, height: int, width: int) -> Cameras:
    full = torch.ones(1)
    # A viewpoint's field of view is that of the longer side, an orbit's that of the height.
    tangent = math.tan(math.radians(0.5 * viewpoint.fov)) * height / max(height, width)
    fov_y = 2.0 * math.degrees(math.atan(tangent))
    if said and Path(said).is_file():
        anywhere = orbit(0.0 * full, 0.0 * full, full, fov_y, height, width)
        return replace(anywhere, world_from_camera=read_srn_pose(Path(said))[None])
    try:
        numbers = [float(word) for word in said.split(",")] if said else []
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
            f"'{text}': the elevation must lie between -90 and 90 degrees, the distance be positive"
        )
    return orbit(azimuth * full, elevation * full, distance * full, fov_y, height, width)


def reconstruction_folder(run: str | Path, texts: Sequence[str]) -> Path:
    """Where the reconstruction of the pictures that VIEW.png[@CAMERA] name goes, if no folder is named.

    RUN/reconstructions/NAME, where the first picture is NAME.png. A folder of that name that other pictures have,
    by their places, is left to them: then NAME-2 or NAME-3 and so on, the first that is free. The same pictures
    again have the folder they had, whatever cameras they are now said to have.
    """
    name = Path(_parted(texts[0])[0]).stem
    folder = Path(run) / RECONSTRUCTIONS / name
    for number in itertools.count(2):
        if not folder.exists() or _reconstructed(folder) == _places(texts):
            break
        folder = folder.with_name(f"{name}-{number}")
    return folder


def _places(texts: Sequence[str]) -> list[str]:
    """Where the pictures of VIEW.png[@CAMERA] lie, from the root on."""
    return [str(Path(_parted(text)[0]).absolute()) for text in texts]


def _reconstructed(folder: Path) -> list[str] | None:
    """`_places` of what a folder is the reconstruction of, None where nothing says it."""
    try:
        return json.loads((folder / REPORT).read_text(encoding="utf-8"))["pictures"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_reconstruction(
    model: LatentModel,
    views: PosedPictures,
    how: Reconstruction,
    seed: int,
    folder: Path,
    names: Sequence[str],
) -> tuple[list[Path], list[str]]:
    """Reconstructs, and writes asset.glb, contact_sheet.png (the given views, the same views of the asset, the
    asset from around), codes.safetensors and report.json with PSNR and SSIM of the given views; what an earlier
    one left in the folder is replaced. names: the views as they were given, VIEW.png[@CAMERA]. As
    `write_scenes`."""
    from threedgen.core.pictures import psnr, ssim
    from threedgen.export.report import write_report

    begun = time.perf_counter()
    code = reconstruct(model, views, how, seed)
    seconds = time.perf_counter() - begun
    scene, asset, sheet = scene_of(model, code), folder / "asset.glb", folder / "contact_sheet.png"
    found = _write_mesh(scene, asset, {"seed": seed, "views": list(names), "name": "asset"})
    seen = shown(model, scene, views.cameras).rgb.clamp(0.0, 1.0).cpu()
    beside = shown(model, scene, reduced(around(model.viewpoint))).rgb.cpu()
    rows = (reduced_pictures(views.images), reduced_pictures(seen), beside)
    write_rows(sheet, [torch.cat(list(pictures), dim=1) for pictures in rows])
    written = [*([asset] if found else []), sheet, _write_codes(folder, {"asset": code})]
    guiding, finetuning = how.of(model)
    report = {
        "views": list(names),
        "pictures": _places(names),
        "seed": seed,
        "guiding": asdict(guiding),
        "finetuning": asdict(finetuning),
        "psnr": psnr(seen, views.images).tolist(),
        "ssim": ssim(seen, views.images).tolist(),
        "seconds": round(seconds, 2),
    }
    return [*written, write_report(folder / REPORT, report)], [] if found else ["asset"]
