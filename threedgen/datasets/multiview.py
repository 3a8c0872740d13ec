"""Reading and writing posed pictures in the two common layouts: folders of SRN and `transforms.json`.

SRN is Scene Representation Networks, Sitzmann et al. 2019; transforms.json is the layout of NeRF's synthetic data,
Mildenhall et al. 2020 (docs/methods.md, "Posed pictures on disk"). Pictures are composited over white when they are
read, and keep the alpha of the file if it has one. Every problem with a file is a UserError that names the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import convert
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.datasets.decoding import decoding, reason
from threedgen.datasets.picture import size_of

_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "perspective")
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_WORLDS = {"y": "opengl", "z": "blender"}  # the convention of a world by the axis that points up
_MOST_PIXELS = 1_000_000_000  # of all pictures of a set: 16 GB as RGBA in float32
_LEVEL = 0.05  # difference between components of unit vectors below which they count as equal


@dataclass(frozen=True)
class PosedPictures:
    """Pictures and cameras. images: [B, H, W, 3] in [0, 1], over white. alpha: [B, H, W, 1], 1 if a file has
    none. names: of their files, if they come from files."""

    images: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W 1"]
    cameras: Cameras
    names: tuple[str, ...] = ()


def write_srn(folder: Path, pictures: PosedPictures) -> None:
    """Writes one object: intrinsics.txt, rgb/000000.png (on white) and pose/000000.txt (camera-to-world) and so on.

    Raises UserError for cameras that the layout cannot store.
    """
    cameras = pictures.cameras
    first = cameras.intrinsics[0]
    if not torch.allclose(cameras.intrinsics, first.expand_as(cameras.intrinsics)):
        raise UserError("a folder in the layout of SRN has one set of intrinsics: these cameras have several")
    if not torch.isclose(first[0, 0], first[1, 1]):
        raise UserError(
            "a folder in the layout of SRN has one focal length: these cameras have two (fx and fy)"
        )
    for name in ("rgb", "pose"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    focal, cx, cy = first[0, 0].item(), first[0, 2].item(), first[1, 2].item()
    lines = [f"{focal!r} {cx!r} {cy!r} 0.", "0. 0. 0.", "1.", f"{cameras.height} {cameras.width}"]
    (folder / "intrinsics.txt").write_text("\n".join(lines) + "\n")
    poses = convert(cameras.world_from_camera, "opencv", "srn")
    for index, pose in enumerate(poses):
        numbers = " ".join(repr(float(value)) for value in pose.flatten())
        (folder / "pose" / f"{index:06d}.txt").write_text(numbers + "\n")
        _write_png(folder / "rgb" / f"{index:06d}.png", pictures.images[index])


def read_srn(folder: Path, up: str = "y") -> PosedPictures:
    """An object in the layout of SRN, pictures in the order of their names. The intrinsics are scaled to the size
    of the pictures.

    up: "y" or "z", the axis of its world that points up. Raises UserError for a missing or broken file.
    """
    lines = _read_text(folder / "intrinsics.txt").splitlines()
    try:
        focal, cx, cy = (float(word) for word in lines[0].split()[:3])
        height, width = (int(float(word)) for word in lines[3].split()[:2])
        if not (focal > 0.0 and height > 0 and width > 0):
            raise ValueError("focal length and size must be positive")
    except (IndexError, ValueError, OverflowError) as error:
        raise UserError(f"{folder / 'intrinsics.txt'} is not an SRN intrinsics file") from error
    paths = sorted((folder / "rgb").glob("*.png"))
    if not paths:
        raise UserError(f"{folder / 'rgb'} holds no PNG pictures")
    poses = torch.stack([_read_matrix(folder / "pose" / f"{path.stem}.txt") for path in paths])
    matrix = torch.tensor([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]]).expand(len(paths), 3, 3)
    return _assemble(paths, _from_srn(poses, up), matrix, height, width)


def read_srn_pose(path: Path, up: str = "y") -> Float[Tensor, "4 4"]:
    """The world_from_camera matrix of one pose file in the layout of SRN. up: as in `read_srn`. Raises UserError
    for a file that is missing or broken."""
    return _from_srn(_read_matrix(path)[None], up)[0]


def _from_srn(poses: Float[Tensor, "B 4 4"], up: str) -> Float[Tensor, "B 4 4"]:
    return convert(convert(poses, "srn", "opengl"), _WORLDS[up], "opencv")


def _read_matrix(path: Path) -> Float[Tensor, "4 4"]:
    words = _read_text(path).split()
    if len(words) != 16:
        raise UserError(f"{path} must hold 16 numbers (a 4x4 matrix), it holds {len(words)}")
    try:
        numbers = [float(word) for word in words]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("it holds NaN or infinite numbers")
    except ValueError as error:
        raise UserError(f"{path} must hold 16 numbers (a 4x4 matrix): {error}") from error
    return torch.tensor(numbers).reshape(4, 4)


def write_transforms(folder: Path, pictures: PosedPictures) -> None:
    """Writes transforms.json with fl_x, fl_y, cx, cy, w, h and up, and images/ with RGBA (straight alpha)."""
    cameras = pictures.cameras
    (folder / "images").mkdir(parents=True, exist_ok=True)
    poses = convert(cameras.world_from_camera, "opencv", "opengl")
    first = cameras.intrinsics[0]
    frames = []
    for index, pose in enumerate(poses):
        name = f"images/{index:06d}.png"
        alpha = pictures.alpha[index]
        straight = (pictures.images[index] - (1.0 - alpha)) / alpha.clamp_min(1e-6)
        _write_png(
            folder / name, torch.cat([straight.where(alpha > 0, straight.new_zeros(())), alpha], dim=-1)
        )
        k = cameras.intrinsics[index]
        frames.append(
            {
                "file_path": name,
                "transform_matrix": pose.tolist(),
                "time": cameras.time[index].item(),
                "fl_x": k[0, 0].item(),
                "fl_y": k[1, 1].item(),
                "cx": k[0, 2].item(),
                "cy": k[1, 2].item(),
            }
        )
    angle = 2.0 * math.atan(0.5 * cameras.width / first[0, 0].item())
    document = {"camera_angle_x": angle, "w": cameras.width, "h": cameras.height, "up": "y", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(document, indent=1))


def read_transforms(file: Path, up: str | None = None) -> PosedPictures:
    """The pictures of a `transforms.json` or its folder, as nerf-synthetic and nerfstudio write them.

    Intrinsics are fl_x, fl_y, cx and cy of each frame, else those of the whole file, else follow from
    camera_angle_x. up: "y" or "z", the axis of the file's world that points up; None is what its key "up" says, and
    if it has none, what its cameras show (`upward_axis`). Poses are returned in a world with +Y up. Raises
    UserError if a file is missing or broken, for another layout, for lens distortion, and for a time that is
    not in [0, 1].
    """
    file = file / "transforms.json" if file.is_dir() else file
    document = _read_document(file)
    frames = document["frames"]
    poses = torch.tensor([_pose(frame, file) for frame in frames], dtype=torch.float32)
    up = document.get("up") if up is None else up
    if up not in (*_WORLDS, None):
        raise UserError(f"{file}: up must be y or z, the axis of its world that points up, got {up!r}")
    paths = [_inside(file.parent, str(frame["file_path"])) for frame in frames]
    width, height = size_of(paths[0], smallest=1)
    whole = [document | frame for frame in frames]
    for values in whole:
        _check_lens(values, file)
    matrices = torch.stack([_frame_intrinsics(values, height, width, file) for values in whole])
    times = torch.tensor([_number(frame, "time", file, 0.0) for frame in frames])
    if not ((times >= 0.0) & (times <= 1.0)).all():
        raise UserError(f"{file}: every time must lie between 0 and 1")
    poses = convert(poses, _WORLDS[up or upward_axis(poses)], "opencv")
    return _assemble(paths, poses, matrices, height, width, times)


def _read_document(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError unless its "frames" are a list of objects with "file_path"."""
    text = _read_text(file)
    try:
        document = parse_json(text)
    except ValueError as error:
        raise UserError(f"{file} is not a transforms.json ({reason(error)})") from error
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list):
        raise UserError(f"{file} is not a transforms.json: it must be an object with a list 'frames'")
    if not frames or not all(isinstance(frame, dict) and "file_path" in frame for frame in frames):
        raise UserError(f"{file}: 'frames' must list pictures with file_path and a 4x4 transform_matrix")
    return document


def _pose(frame: Mapping[str, Any], file: Path) -> list[list[float]]:
    rows = frame.get("transform_matrix")
    if (
        not (isinstance(rows, list) and all(isinstance(row, list) for row in rows))
        or [len(row) for row in rows] != [4] * 4
    ):
        raise UserError(f"{file}: 'frames' must list pictures with file_path and a 4x4 transform_matrix")
    return [[_number({"transform_matrix": value}, "transform_matrix", file) for value in row] for row in rows]


def _number(values: Mapping[str, Any], key: str, file: Path, default: float = 0.0) -> float:
    """The number under a key of a transforms.json, also if it is text. Raises UserError for anything else."""
    value = values.get(key, default)
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    raise UserError(f"{file} is not a transforms.json: {key} holds {shown} instead of a number")


def upward_axis(poses: Float[Tensor, "B 4 4"]) -> str:
    """The axis, "y" or "z", that points up in a world with these OpenGL (or Blender) camera-to-world matrices.

    The right-hand axis of a camera that is not rolled is level, so up is the axis to which these are closer to
    perpendicular. If both are equally close (all cameras are in front or behind), it is the axis along which the
    upward axes of the cameras point; else z, as in Blender, nerfstudio and instant-ngp.
    """
    right, upward = poses[:, 1:3, 0].square().mean(0).sqrt(), poses[:, 1:3, 1].mean(0)
    if (right[0] - right[1]).abs() > _LEVEL:
        return "y" if right[0] < right[1] else "z"
    return "y" if upward[0] > upward[1] + _LEVEL else "z"


def _check_lens(values: dict[str, Any], file: Path) -> None:
    """Raises UserError for a lens that bends lines, because its pictures would be fitted along the wrong rays."""
    model = values.get("camera_model", "PINHOLE")
    given = {name: values[name] for name in _DISTORTION if values.get(name)}
    bent = [name for name in given if _number(given, name, file) != 0.0]
    if model not in _PINHOLES or values.get("is_fisheye") or bent:
        what = f"{', '.join(bent)} not 0" if bent else f"camera_model {model}, fisheye"
        raise UserError(
            f"the pictures of {file} have lens distortion ({what}): undistort them first, for example with "
            "`colmap image_undistorter`"
        )


def _frame_intrinsics(values: dict[str, Any], height: int, width: int, file: Path) -> Float[Tensor, "3 3"]:
    """The intrinsics in pixels of the stored pictures. Those in the file are for pictures of its w x h, if it
    has these."""
    full_width, full_height = _number(values, "w", file, width), _number(values, "h", file, height)
    if not (full_width > 0.0 and full_height > 0.0):
        raise UserError(f"{file} is not a transforms.json: w and h must be positive")
    if "fl_x" in values:
        fx = _number(values, "fl_x", file)
    elif "camera_angle_x" in values:
        angle = _number(values, "camera_angle_x", file)
        if not 0.0 < angle < math.pi:
            raise UserError(f"{file}: camera_angle_x must be between 0 and pi (radians), it is {angle:g}")
        fx = 0.5 * full_width / math.tan(0.5 * angle)
    else:
        raise UserError(f"{file} gives no focal length: add fl_x or camera_angle_x")
    fy = _number(values, "fl_y", file, fx)
    cx = _number(values, "cx", file, 0.5 * full_width)
    cy = _number(values, "cy", file, 0.5 * full_height)
    sx, sy = width / full_width, height / full_height
    return torch.tensor([[fx * sx, 0.0, cx * sx], [0.0, fy * sy, cy * sy], [0.0, 0.0, 1.0]])


def _assemble(
    paths: list[Path], poses: Tensor, intrinsics: Tensor, height: int, width: int, times: Tensor | None = None
) -> PosedPictures:
    """Loads the pictures. height, width: the size in pixels to which `intrinsics` refer."""
    sizes = {size_of(path, smallest=1)[::-1] for path in paths}
    if len(sizes) > 1:
        raise UserError(f"the pictures beside {paths[0]} differ in size: {sorted(sizes)}")
    (size,) = sizes
    if len(paths) * math.prod(size) > _MOST_PIXELS:
        raise UserError(
            f"the {len(paths)} pictures beside {paths[0]} have {size[1]} x {size[0]} pixels each, at most "
            f"{_MOST_PIXELS // 1_000_000} million are read together: make them smaller, or leave some out"
        )
    pixels = torch.stack([_read_png(path) for path in paths])
    alpha = pixels[..., 3:]
    cameras = Cameras(
        poses, intrinsics.contiguous(), height, width, torch.zeros(len(paths)) if times is None else times
    ).resized(pixels.shape[1], pixels.shape[2])
    names = tuple(path.name for path in paths)
    return PosedPictures(pixels[..., :3] * alpha + (1.0 - alpha), alpha, cameras, names)


def _inside(folder: Path, name: str) -> Path:
    """The picture `name` in `folder`, or `name` with .png added if only that file exists. Raises UserError if there
    is neither, and for a picture outside the folder."""
    for path in (folder / name, folder / f"{name}.png"):
        if os.path.isfile(path):  # unlike Path.is_file, it is False for names that no file can have
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                raise UserError(f"{folder / 'transforms.json'} names a picture outside its folder: {name}")
            return path
    if len(name) > 80 or not name.isprintable():
        raise UserError(f"{folder} has no picture of the name {name[:80]!r}")
    raise UserError(f"the picture {folder / name} is missing")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _read_png(path: Path) -> Float[Tensor, "H W 4"]:
    import imageio.v3 as imageio

    with decoding(path, lambda error: f"cannot read the picture {path}: {reason(error)}"):
        pixels = np.asarray(imageio.imread(path, plugin="pillow"))
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype != np.uint8:
        raise UserError(f"{path} must be an 8-bit RGB or RGBA picture, it is {pixels.dtype} {pixels.shape}")
    picture = torch.from_numpy(pixels).float() / 255.0
    return (
        picture if picture.shape[2] == 4 else torch.cat([picture, torch.ones_like(picture[..., :1])], dim=2)
    )


def _write_png(path: Path, picture: Float[Tensor, "H W C"]) -> None:
    import imageio.v3 as imageio

    imageio.imwrite(path, (picture.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy())


def object_reach(pictures: PosedPictures) -> float:
    """The least radius, in world units, of a ball around the origin that can hold what the alpha of the pictures
    shows; 0 if they have no alpha, or show nothing.

    It is the largest distance from the origin of a ray through an opaque pixel. A ray whose nearest point is the
    camera itself points away from the origin, and is left out.
    """
    cameras = pictures.cameras
    opaque = pictures.alpha[..., 0] > 0.5
    if bool(opaque.all()):
        return 0.0
    furthest = 0.0
    for view in range(len(cameras)):
        rows, columns = opaque[view].nonzero(as_tuple=True)
        pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones(len(rows))], dim=1)
        rays = pixels @ torch.linalg.inv(cameras.intrinsics[view]).T
        directions = F.normalize(rays @ cameras.world_from_camera[view, :3, :3].T, dim=1)
        center = cameras.centers[view]
        along = directions @ -center
        distances = (center + along[:, None] * directions).norm(dim=1)[along > 0.0]
        furthest = max(furthest, float(distances.max()) if len(distances) else 0.0)
    return furthest
