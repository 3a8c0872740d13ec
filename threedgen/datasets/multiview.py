"""Posed pictures: reading the files that a layout names, folders of SRN, and writing SRN and `transforms.json`.

SRN is Scene Representation Networks, Sitzmann et al. 2019; transforms.json is the layout of NeRF's synthetic data,
Mildenhall et al. 2020 (docs/methods.md, "Posed pictures on disk"); `transforms_file` and `colmap` read the other
layouts. Pictures are composited over white when they are read, and keep the alpha of the file if it has one. Every
problem with a file is a UserError that names the file.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import convert
from threedgen.core.errors import UserError
from threedgen.core.paths import entries
from threedgen.core.pictures import nearest, resize
from threedgen.core.types import Cameras
from threedgen.datasets.depths import DepthFile, read_depths
from threedgen.datasets.lenses import Lens, straightened
from threedgen.datasets.named_files import SUFFIXES
from threedgen.datasets.picture import read_mask, read_picture, size_of

WORLDS = {"y": "opengl", "z": "blender"}  # the convention of a world by the axis that points up
CAPTURE = "capture_from_world"  # key of a transforms.json that threedgen writes: see `Origin`
_SOLID = 0.5  # alpha above which a pixel has a depth
_MOST_PIXELS = 1_000_000_000  # of all pictures of a set: 16 GB as RGBA in float32


@dataclass(frozen=True)
class Origin:
    """What the files of posed pictures say beside pictures and cameras.

    held_out: numbers of the pictures that the files set apart for tests. points, colors: [P, 3] of a point cloud of
    what the pictures show, in world units and in [0, 1]; none if P is 0. capture_from_world: [4, 4], rotates,
    scales and shifts the world of the cameras into that of the files; None if they come from no capture.
    """

    held_out: tuple[int, ...] = ()
    points: Float[Tensor, "P 3"] = field(default_factory=lambda: torch.zeros(0, 3))
    colors: Float[Tensor, "P 3"] = field(default_factory=lambda: torch.zeros(0, 3))
    capture_from_world: Float[Tensor, "4 4"] | None = None


@dataclass(frozen=True)
class PosedPictures:
    """Pictures and cameras. images: [B, H, W, 3] in [0, 1], over white. alpha: [B, H, W, 1], 1 if a file has
    none. names: of their files, if they come from files. origin: what else these files say. depths: [B, H, W],
    distances along the optical axis in world units, NaN where they are not known; None if no file has any."""

    images: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W 1"]
    cameras: Cameras
    names: tuple[str, ...] = ()
    origin: Origin = field(default_factory=Origin)
    depths: Float[Tensor, "B H W"] | None = None


@dataclass(frozen=True)
class Shot:
    """A picture on disk and its camera.

    pose: [4, 4], world_from_camera. intrinsics: [3, 3] in pixels of a picture of `size` (width, height). upright: a
    picture that its EXIF data turns is turned. mask: a file that says what of the picture is the object. lens: None
    is a pinhole. time: in [0, 1]. depth: a file of the depths of its pixels.
    """

    path: Path
    pose: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    size: tuple[float, float]
    upright: bool = True
    mask: Path | None = None
    lens: Lens | None = None
    time: float = 0.0
    depth: DepthFile | None = None


@dataclass(frozen=True)
class Capture:
    """Posed pictures of which no pixel has been read."""

    shots: tuple[Shot, ...]
    origin: Origin = field(default_factory=Origin)

    def read(self, height: int | None = None, masked: bool = True, depths: bool = False) -> PosedPictures:
        """The pictures at one size: the most frequent one, of equals the largest. Others are scaled to it.

        height: pixels that are enough, so that pictures of more than twice that height are reduced while they are
        read. masked: what a mask leaves out is white and has no alpha. depths: the depths are read, too; where a
        picture is transparent they are not known. Raises UserError for a picture, or depths, that cannot be read,
        and for pictures that are too large together.
        """
        sizes = [size_of(shot.path, smallest=1, upright=shot.upright) for shot in self.shots]
        common = max(Counter(sizes).items(), key=lambda item: (item[1], math.prod(item[0])))[0]
        shrink = 1.0 if height is None else min(1.0, 2.0 * height / common[1])
        width, tall = (max(1, round(side * shrink)) for side in common)
        if len(sizes) * width * tall > _MOST_PIXELS:
            raise UserError(
                f"the {len(sizes)} pictures beside {self.shots[0].path} have {width} x {tall} pixels each, at most "
                f"{_MOST_PIXELS // 1_000_000} million are read together: make them smaller, or leave some out"
            )
        pixels = torch.empty(len(sizes), tall, width, 4)
        matrices = torch.empty(len(sizes), 3, 3)
        deep = [shot.depth is not None for shot in self.shots] if depths else []
        maps = torch.full((len(sizes), tall, width), torch.nan) if any(deep) else None
        for index, shot in enumerate(self.shots):
            pixels[index], matrices[index], map_of = _read(shot, tall, width, masked, maps is not None)
            if maps is not None and map_of is not None:
                maps[index] = map_of
        cameras = Cameras(
            torch.stack([shot.pose for shot in self.shots]).float(),
            matrices,
            tall,
            width,
            torch.tensor([shot.time for shot in self.shots]),
        )
        names = tuple(shot.path.name for shot in self.shots)
        alpha = pixels[..., 3:]
        maps = None if maps is None else solid_depths(maps, alpha)
        return PosedPictures(pixels[..., :3] + (1.0 - alpha), alpha, cameras, names, self.origin, maps)


def solid_depths(depths: Float[Tensor, "B H W"], alpha: Float[Tensor, "B H W 1"]) -> Float[Tensor, "B H W"]:
    """The depths where pictures are opaque; NaN elsewhere, because what is cut away has no depth."""
    return torch.where(alpha[..., 0] > _SOLID, depths, torch.nan)


def _read(
    shot: Shot, height: int, width: int, masked: bool, deep: bool
) -> tuple[Float[Tensor, "H W 4"], Float[Tensor, "3 3"], Float[Tensor, "H W"] | None]:
    """A picture, its colours times its alpha, at a size, without its lens; its intrinsics in its pixels; and its
    depths if it has some and they are wanted (`deep`)."""
    picture = read_picture(shot.path, max(height, width), smallest=1, upright=shot.upright)
    rgb = torch.from_numpy(picture.rgb.copy()).float() / 255.0
    alpha = torch.ones_like(rgb[..., :1])
    if picture.alpha is not None:
        alpha = torch.from_numpy(picture.alpha.copy()).float()[..., None] / 255.0
    if masked and shot.mask is not None:
        alpha = alpha * torch.from_numpy(read_mask(shot.mask, picture).copy()).float()[..., None] / 255.0
    pixels = torch.cat([rgb * alpha, alpha], dim=2)
    scale = torch.tensor([pixels.shape[1] / shot.size[0], pixels.shape[0] / shot.size[1], 1.0])
    matrix = shot.intrinsics * scale[:, None]
    depths = None
    if deep and shot.depth is not None:
        depths = read_depths(shot.depth, (picture.width, picture.height), *pixels.shape[:2])
    if shot.lens is not None:
        try:
            pixels, matrix, depths = straightened(pixels, matrix, shot.lens, depths)
        except UserError as error:
            raise UserError(f"{shot.path}: {error}") from error
    scale = torch.tensor([width / pixels.shape[1], height / pixels.shape[0], 1.0])
    depths = None if depths is None else nearest(depths[None], height, width)[0]
    return resize(pixels[None], height, width)[0], matrix * scale[:, None], depths


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


def open_srn(folder: Path, up: str = "y") -> Capture:
    """An object in the layout of SRN, pictures in the order of their numbers. The intrinsics are scaled to the size
    of the pictures.

    up: "y" or "z", the axis of its world that points up. Raises UserError for a missing or broken file.
    """
    lines = read_text(folder / "intrinsics.txt").splitlines()
    try:
        focal, cx, cy = (float(word) for word in lines[0].split()[:3])
        height, width = (int(float(word)) for word in lines[3].split()[:2])
        if not (focal > 0.0 and height > 0 and width > 0):
            raise ValueError("focal length and size must be positive")
    except (IndexError, ValueError, OverflowError) as error:
        raise UserError(f"{folder / 'intrinsics.txt'} is not an SRN intrinsics file") from error
    paths = pictures_in(folder / "rgb")
    if not paths:
        raise UserError(f"{folder / 'rgb'} holds no pictures ({', '.join(SUFFIXES)})")
    poses = torch.stack([_read_matrix(folder / "pose" / f"{path.stem}.txt") for path in paths])
    matrix = torch.tensor([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])
    shots = [
        Shot(path, pose, matrix, (width, height))
        for path, pose in zip(paths, _from_srn(poses, up), strict=True)
    ]
    return Capture(tuple(shots), Origin(capture_from_world=from_y_up(up)))


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder in the order of their numbers; [] if there is no such folder. Raises UserError
    for a folder that cannot be read."""
    try:
        found = entries(folder) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"cannot read '{folder}': {error.strerror or error}") from error
    return [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]


def from_y_up(up: str) -> Float[Tensor, "4 4"]:
    """The rotation of a world with +Y up into one in which the axis `up` points up."""
    return convert(torch.eye(4, dtype=torch.float64)[None], "opengl", WORLDS[up])[0]


def read_srn_pose(path: Path, up: str = "y") -> Float[Tensor, "4 4"]:
    """The world_from_camera matrix of one pose file in the layout of SRN. up: as in `open_srn`. Raises UserError
    for a file that is missing or broken."""
    return _from_srn(_read_matrix(path)[None], up)[0]


def _from_srn(poses: Float[Tensor, "B 4 4"], up: str) -> Float[Tensor, "B 4 4"]:
    return convert(convert(poses, "srn", "opengl"), WORLDS[up], "opencv")


def _read_matrix(path: Path) -> Float[Tensor, "4 4"]:
    words = read_text(path).split()
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
    """Writes transforms.json with fl_x, fl_y, cx, cy, w, h and up, images/ with RGBA (straight alpha), and depths/
    with arrays in world units for the pictures of which depths are known."""
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
        if pictures.depths is not None and not bool(pictures.depths[index].isnan().all()):
            (folder / "depths").mkdir(exist_ok=True)
            frames[-1]["depth_file_path"] = f"depths/{index:06d}.npy"
            np.save(folder / frames[-1]["depth_file_path"], pictures.depths[index].float().numpy())
    document = {
        "camera_angle_x": 2.0 * math.atan(0.5 * cameras.width / first[0, 0].item()),
        "w": cameras.width,
        "h": cameras.height,
        "up": "y",
        "frames": frames,
    }
    if pictures.depths is not None:
        document["depth_unit_scale_factor"] = 1.0
    if pictures.origin.capture_from_world is not None:
        document[CAPTURE] = pictures.origin.capture_from_world.tolist()
    (folder / "transforms.json").write_text(json.dumps(document, indent=1))


def read_text(path: Path) -> str:
    """The text of a file, without the mark of its encoding. Raises UserError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


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
