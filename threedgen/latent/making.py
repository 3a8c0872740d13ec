"""`threedgen sample` and `threedgen reconstruct`: what a trained SSDNeRF makes, as files."""

from __future__ import annotations

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
from threedgen.cameras import joined, orbit
from threedgen.datasets.multiview import PosedPictures, read_srn_pose
from threedgen.datasets.picture import read_picture
from threedgen.errors import UserError
from threedgen.export.mesh import NoSurface
from threedgen.export.video import to_uint8, write_contact_sheet
from threedgen.latent.model import LatentModel, Viewpoint
from threedgen.latent.reconstruction import Reconstruction, reconstruct
from threedgen.latent.views import VIEWS, around, scene_of, shown
from threedgen.listeners.previews import write_rows
from threedgen.types import Cameras, RadianceField

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

    Returns the files, and the names of codes that have no surface and therefore no GLB. Raises UserError where the
    folder cannot be written.
    """
    cameras = around(model.viewpoint).to(model.device)
    written, empty, frames = [], [], []
    for number, (name, code) in enumerate(zip(names, codes, strict=True)):
        progress(number, len(names))
        scene = scene_of(model, code)
        frames += [to_uint8(picture) for picture in shown(model, scene, cameras).rgb.clamp(0.0, 1.0)]
        if _write_mesh(scene, folder / f"{name}.glb", {**note, "name": name}):
            written.append(folder / f"{name}.glb")
        else:
            empty.append(name)
    sheet = write_contact_sheet(folder / "contact_sheet.png", frames, VIEWS)
    kept = _write_codes(folder, dict(zip(names, codes, strict=True)))
    progress(len(names), len(names))
    return [*written, sheet, kept], empty


def _write_mesh(scene: RadianceField, path: Path, note: dict[str, Any]) -> bool:
    """Whether there was a surface to write."""
    try:
        export.write(scene, path, note=note)
    except NoSurface:
        return False
    return True


def _write_codes(folder: Path, codes: dict[str, Tensor]) -> Path:
    from safetensors.torch import save_file

    from threedgen.export.atomic import replacing

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
        path, at, said = text.rpartition("@")
        if not at or Path(text).is_file():  # a name may have an @ in it
            path, said = text, ""
        picture = _on_white(path)
        pictures.append(picture)
        cameras.append(_camera(said, text, viewpoint, picture.shape[0], picture.shape[1]))
        if picture.shape != pictures[0].shape:
            raise UserError(f"'{path}' has another size than '{texts[0]}': the views must be of one size")
    images = torch.stack(pictures)
    return PosedPictures(images, torch.ones_like(images[..., :1]), joined(cameras))


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
    if said and Path(said).is_file():
        anywhere = orbit(0.0 * full, 0.0 * full, full, viewpoint.fov, height, width)
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
    return orbit(azimuth * full, elevation * full, distance * full, viewpoint.fov, height, width)


def write_reconstruction(
    model: LatentModel,
    views: PosedPictures,
    how: Reconstruction,
    seed: int,
    folder: Path,
    names: Sequence[str],
) -> tuple[list[Path], list[str]]:
    """Reconstructs, and writes asset.glb, contact_sheet.png (the given views, the same views of the asset, the
    asset from around), codes.safetensors and report.json with PSNR and SSIM of the given views. As
    `write_scenes`."""
    from threedgen.export.report import write_report
    from threedgen.metrics.images import psnr, ssim

    begun = time.perf_counter()
    code = reconstruct(model, views, how, seed)
    seconds = time.perf_counter() - begun
    scene, asset, sheet = scene_of(model, code), folder / "asset.glb", folder / "contact_sheet.png"
    found = _write_mesh(scene, asset, {"seed": seed, "views": list(names), "name": "asset"})
    seen = shown(model, scene, views.cameras).rgb.clamp(0.0, 1.0).cpu()
    beside = shown(model, scene, around(model.viewpoint)).rgb.cpu()
    write_rows(sheet, [torch.cat(list(pictures), dim=1) for pictures in (views.images, seen, beside)])
    written = [*([asset] if found else []), sheet, _write_codes(folder, {"asset": code})]
    guiding, finetuning = how.of(model)
    report = {
        "views": list(names),
        "seed": seed,
        "guiding": asdict(guiding),
        "finetuning": asdict(finetuning),
        "psnr": psnr(seen, views.images).tolist(),
        "ssim": ssim(seen, views.images).tolist(),
        "seconds": round(seconds, 2),
    }
    return [*written, write_report(folder / "report.json", report)], [] if found else ["asset"]
