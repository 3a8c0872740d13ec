"""Reading and writing posed pictures in the two common layouts: SRN folders and `transforms.json`.

Pictures come back composited over white (METHODS 12.2, 12.3), with their alpha where the file has one. Every
problem with somebody's files is a UserError that names the file.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import convert
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras

# What odd values in a JSON file raise on their way into tensors: a list too deep, a number too large, a word.
_MALFORMED = (ValueError, KeyError, TypeError, ArithmeticError, RecursionError, RuntimeError)
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "perspective")
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_WORLDS = {"y": "opengl", "z": "blender"}  # by the axis that points up
_LEVEL = 0.05  # of a unit vector: less is no difference between two directions


@dataclass(frozen=True)
class PosedPictures:
    """images: [B, H, W, 3] in [0, 1] over white. alpha: [B, H, W, 1]; ones where a file has no alpha."""

    images: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W 1"]
    cameras: Cameras


def write_srn(folder: Path, pictures: PosedPictures) -> None:
    """One scene: intrinsics.txt, rgb/000000.png (white background), pose/000000.txt (camera-to-world)."""
    cameras = pictures.cameras
    first = cameras.intrinsics[0]
    if not torch.allclose(cameras.intrinsics, first.expand_as(cameras.intrinsics)):
        raise UserError("an SRN folder has one set of intrinsics: these cameras differ")
    if not torch.isclose(first[0, 0], first[1, 1]):
        raise UserError("an SRN folder has one focal length: these cameras have two (fx and fy)")
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
    """A scene in the SRN layout, pictures sorted by name. The intrinsics are scaled to the pictures' size.

    up: "y" or "z", the axis of its world that points up.
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
    """The world_from_camera matrix of one pose file of the SRN layout. up: as of `read_srn`. Raises UserError."""
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
            raise ValueError("it holds NaN or infinite ones")
    except ValueError as error:
        raise UserError(f"{path} must hold 16 numbers (a 4x4 matrix): {error}") from error
    return torch.tensor(numbers).reshape(4, 4)


def write_transforms(folder: Path, pictures: PosedPictures) -> None:
    """transforms.json with fl_x, fl_y, cx, cy, w, h, up and straight-alpha RGBA pictures in images/."""
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
    """nerf-synthetic and nerfstudio style `transforms.json` (or the folder that holds it).

    Focal lengths: per frame fl_x, fl_y, cx, cy, else the same keys of the whole file, else camera_angle_x.
    up: "y" or "z", the axis of the file's world that points up; None is the file's own key "up", and without one
    what its cameras say (`upward_axis`). Poses come back in a world with +Y up.
    Raises UserError: unreadable, another layout, pictures with lens distortion, a time outside [0, 1].
    """
    file = file / "transforms.json" if file.is_dir() else file
    try:
        document = json.loads(_read_text(file))
        frames = document["frames"]
        poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float32)
        names = [str(frame["file_path"]) for frame in frames]
    except _MALFORMED as error:
        raise UserError(f"{file} is not a transforms.json ({error})") from error
    if not frames or poses.shape[1:] != (4, 4):
        raise UserError(f"{file}: 'frames' must list pictures with 4x4 transform_matrix")
    up = document.get("up") if up is None else up
    if up not in (*_WORLDS, None):
        raise UserError(f"{file}: up must be y or z, the axis of its world that points up, got {up!r}")
    paths = [_inside(file.parent, name) for name in names]
    height, width = _read_png(paths[0]).shape[:2]
    try:
        for frame in frames:
            _check_lens(document | frame, file)
        matrices = torch.stack([_frame_intrinsics(document | frame, height, width, file) for frame in frames])
        times = torch.tensor([float(frame.get("time", 0.0)) for frame in frames])
    except _MALFORMED as error:
        raise UserError(f"{file} is not a transforms.json ({error})") from error
    if not ((times >= 0.0) & (times <= 1.0)).all():
        raise UserError(f"{file}: every time must lie between 0 and 1")
    poses = convert(poses, _WORLDS[up or upward_axis(poses)], "opencv")
    return _assemble(paths, poses, matrices, height, width, times)


def upward_axis(poses: Float[Tensor, "B 4 4"]) -> str:
    """ "y" or "z": which axis points up in a world with these OpenGL (or Blender) camera-to-world matrices.

    A camera that is not rolled, wherever it looks, has its right-hand axis level, so up is the axis to which these
    are closer to perpendicular. Where they cannot tell (all cameras in front or behind), the one along which the
    cameras' own upward axes point; then z, as Blender, nerfstudio and instant-ngp have it.
    """
    right, upward = poses[:, 1:3, 0].square().mean(0).sqrt(), poses[:, 1:3, 1].mean(0)
    if (right[0] - right[1]).abs() > _LEVEL:
        return "y" if right[0] < right[1] else "z"
    return "y" if upward[0] > upward[1] + _LEVEL else "z"


def _check_lens(values: dict[str, Any], file: Path) -> None:
    """Pictures through a lens that bends lines would be fitted with the wrong rays."""
    model = values.get("camera_model", "PINHOLE")
    bent = [name for name in _DISTORTION if float(values.get(name) or 0.0) != 0.0]
    if model not in _PINHOLES or values.get("is_fisheye") or bent:
        what = f"{', '.join(bent)} not 0" if bent else f"camera_model {model}, fisheye"
        raise UserError(
            f"{file} is of pictures with lens distortion ({what}): undistort them first, for example with "
            "`colmap image_undistorter`"
        )


def _frame_intrinsics(values: dict[str, Any], height: int, width: int, file: Path) -> Float[Tensor, "3 3"]:
    """Pixels of the stored pictures: the file's w and h, where given, say what its numbers refer to."""
    full_width, full_height = float(values.get("w", width)), float(values.get("h", height))
    if "fl_x" in values:
        fx = float(values["fl_x"])
    elif "camera_angle_x" in values:
        fx = 0.5 * full_width / math.tan(0.5 * float(values["camera_angle_x"]))
    else:
        raise UserError(f"{file} gives no focal length: add fl_x or camera_angle_x")
    fy = float(values.get("fl_y", fx))
    cx, cy = float(values.get("cx", 0.5 * full_width)), float(values.get("cy", 0.5 * full_height))
    sx, sy = width / full_width, height / full_height
    return torch.tensor([[fx * sx, 0.0, cx * sx], [0.0, fy * sy, cy * sy], [0.0, 0.0, 1.0]])


def _assemble(
    paths: list[Path], poses: Tensor, intrinsics: Tensor, height: int, width: int, times: Tensor | None = None
) -> PosedPictures:
    """Loads the pictures; `height`, `width` are what `intrinsics` refer to."""
    loaded = [_read_png(path) for path in paths]
    sizes = {tuple(picture.shape[:2]) for picture in loaded}
    if len(sizes) > 1:
        raise UserError(f"the pictures beside {paths[0]} differ in size: {sorted(sizes)}")
    pixels = torch.stack(loaded)
    alpha = pixels[..., 3:]
    cameras = Cameras(
        poses, intrinsics.contiguous(), height, width, torch.zeros(len(paths)) if times is None else times
    ).resized(pixels.shape[1], pixels.shape[2])
    return PosedPictures(pixels[..., :3] * alpha + (1.0 - alpha), alpha, cameras)


def _inside(folder: Path, name: str) -> Path:
    """`name` (with .png added if it has no such file) as a path that stays inside `folder`."""
    path = folder / name
    try:
        if not path.is_file():
            path = folder / f"{name}.png"
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{folder / 'transforms.json'} names a picture outside its folder: {name}")
        if not path.is_file():
            raise UserError(f"{path} is missing")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, half a character, a loop of links
        raise UserError(f"{folder} has no picture of the name {name[:80]!r}") from error
    return path


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _read_png(path: Path) -> Float[Tensor, "H W 4"]:
    import imageio.v3 as imageio

    try:
        pixels = np.asarray(imageio.imread(path, plugin="pillow"))
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow's, of a chunk that is broken
        raise UserError(f"cannot read the picture {path}: {error}") from error
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
    """The least radius of a ball around the origin that may hold what the alpha of the pictures shows; 0 where they
    have none, or show nothing.

    It is the largest distance from the origin of a ray through an opaque pixel. A ray whose nearest point is the
    camera itself looks away from the origin, and says nothing.
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
