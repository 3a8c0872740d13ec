"""Reading the sparse models of COLMAP through pycolmap: `pip install "threedgen[colmap]"`.

A folder has its pictures in images/ and its model in sparse/0, sparse or colmap/sparse/0; a model is cameras,
images and points3D, as .bin or .txt. Masks are in masks/, a picture of the same name, or with .png behind it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.paths import entries, in_order
from threedgen.datasets.decoding import reason
from threedgen.datasets.gauge import turn_upright
from threedgen.datasets.lenses import Lens
from threedgen.datasets.multiview import Capture, Origin, Shot, from_y_up, pictures_in
from threedgen.datasets.named_files import NamedFiles

_PLACES = ("sparse", "colmap/sparse", ".")
_PICTURES = ("images", "input", ".")
_STRAIGHT = 1e-7  # focal lengths: a smaller bend is rounding
_INSTALL = 'COLMAP models are read with pycolmap: pip install "threedgen[colmap]"'


def is_colmap(folder: Path) -> bool:
    """Whether a folder has a sparse model of COLMAP."""
    return _model(folder) is not None


def open_colmap(folder: Path, up: str | None = None) -> Capture:
    """The registered pictures of a COLMAP folder in the order of their numbers, and the points of its model.

    up: "y", "z", the axis of the model's world that points up; None is found from the cameras (`turn_upright`).
    Raises UserError without pycolmap, for a model that cannot be read or has no pictures, for a picture that is
    missing, and for a camera that shows all around.
    """
    model = _model(folder)
    assert model is not None, "is_colmap was asked before"
    reconstruction = _read(model)
    pictures = _folder_of_pictures(folder)
    files, masks = NamedFiles(pictures, model), NamedFiles(folder / "masks", model)
    images = {Path(image.name): image for image in reconstruction.images.values() if image.has_pose}
    if not images:
        raise UserError(f"the COLMAP model {model} has no registered pictures: no pose was found for any")
    found = [images[name] for name in in_order(images)]
    poses = torch.stack([_pose(image) for image in found])
    turn = turn_upright(poses) if up is None else from_y_up(up).T
    shots = []
    for image, pose in zip(found, turn @ poses, strict=True):
        camera = reconstruction.cameras[image.camera_id]
        if camera.is_spherical():
            raise UserError(
                f"{model}: pictures of {camera.model_name} show all around: cut pinhole pictures of them"
            )
        size = (camera.width, camera.height)
        mask = masks.find(f"{image.name}.png") or masks.find(str(Path(image.name).with_suffix("")))
        # COLMAP looks at pictures as they are stored, whatever their EXIF data say.
        shots.append(
            Shot(files.require(image.name), pose, _intrinsics(camera), size, False, mask, _lens(camera))
        )
    points, colors = _points(reconstruction)
    return Capture(tuple(shots), Origin((), points @ turn[:3, :3].T.float(), colors, turn.T))


def _model(folder: Path) -> Path | None:
    """The folder of the model with the most data: COLMAP writes 0, 1 and so on if pictures do not hang together."""
    if not folder.is_dir():
        return None
    found = []
    for place in _PLACES:
        if (folder / place).is_dir():
            found += [folder / place, *(path for path in entries(folder / place) if path.is_dir())]
    sizes = {path: _size(path) for path in found}
    return max(sizes, key=lambda path: sizes[path]) if any(sizes.values()) else None


def _size(model: Path) -> int:
    """Bytes of the list of images of a model, 0 for a folder that is none."""
    for ending in (".bin", ".txt"):
        cameras, images = model / f"cameras{ending}", model / f"images{ending}"
        if cameras.is_file() and images.is_file():
            return images.stat().st_size
    return 0


def _read(model: Path) -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise UserError(f"cannot read {model}: {_INSTALL}") from error
    try:
        return pycolmap.Reconstruction(model)
    except Exception as error:  # pycolmap raises whatever its readers meet
        raise UserError(f"{model} is not a COLMAP model that pycolmap reads ({reason(error)})") from error


def _folder_of_pictures(folder: Path) -> Path:
    for name in _PICTURES:
        place = folder / name
        if place.is_dir() and (pictures_in(place) or any(path.is_dir() for path in entries(place))):
            return place
    raise UserError(f"'{folder}' has a COLMAP model and no pictures: put them into {folder / _PICTURES[0]}")


def _pose(image: Any) -> Float[Tensor, "4 4"]:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = torch.from_numpy(np.array(image.cam_from_world().inverse().matrix()))
    return pose


def _intrinsics(camera: Any) -> Float[Tensor, "3 3"]:
    return torch.tensor(
        [
            [camera.focal_length_x, 0.0, camera.principal_point_x],
            [0.0, camera.focal_length_y, camera.principal_point_y],
            [0.0, 0.0, 1.0],
        ]
    )


def _lens(camera: Any) -> Lens | None:
    """The lens of a camera of any model of COLMAP, None if it shows what a pinhole does."""
    focal = np.array([camera.focal_length_x, camera.focal_length_y])
    center = np.array([camera.principal_point_x, camera.principal_point_y])

    def lens(points: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"]:
        rays = np.concatenate([points.double().numpy(), np.ones((len(points), 1))], axis=1)
        return torch.from_numpy((camera.img_from_cam(rays) - center) / focal).to(points)

    # A fisheye without distortion bends lines, too, so what the model says of its coefficients does not tell.
    probe = torch.tensor([[0.1, 0.05], [-0.2, 0.3], [0.5, -0.5]], dtype=torch.float64)
    return None if torch.allclose(lens(probe), probe, rtol=0.0, atol=_STRAIGHT) else lens


def _points(reconstruction: Any) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    points = list(reconstruction.points3D.values())
    places = np.array([point.xyz for point in points], dtype=np.float32).reshape(-1, 3)
    colors = np.array([point.color for point in points], dtype=np.float32).reshape(-1, 3) / 255.0
    good = np.isfinite(places).all(axis=1)
    return torch.from_numpy(places[good]), torch.from_numpy(colors[good])
