"""Reading transforms.json of nerf-synthetic, nerfstudio, instant-ngp and threedgen.

Every key that changes what the pictures show is read, or named in a warning.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import convert
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.datasets.decoding import reason
from threedgen.datasets.depths import DepthFile
from threedgen.datasets.gauge import level, turn_upright
from threedgen.datasets.lenses import Lens, fisheye, opencv
from threedgen.datasets.multiview import (
    CAPTURE,
    WORLDS,
    Capture,
    Origin,
    Shot,
    from_y_up,
    read_text,
)
from threedgen.datasets.named_files import NamedFiles
from threedgen.datasets.picture import size_of
from threedgen.datasets.point_files import read_points

NAME, TRAIN, TEST = "transforms.json", "transforms_train.json", "transforms_test.json"
_STRAIGHT = ("PINHOLE", "SIMPLE_PINHOLE", "perspective")
_BENT = ("OPENCV", "FULL_OPENCV", "SIMPLE_RADIAL", "RADIAL")  # k1, k2 and so on mean what they mean in OpenCV
_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_OPENCV = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_KANNALA_BRANDT = ("k1", "k2", "k3", "k4")
_SETS = ("train_filenames", "val_filenames", "test_filenames")
_READ = {
    *("camera_angle_x", "camera_angle_y", "fl_x", "fl_y", "cx", "cy", "w", "h", "camera_model", "is_fisheye"),
    *("frames", "file_path", "transform_matrix", "time", "up", "mask_path", "ply_file_path", CAPTURE),
    *("depth_file_path", "depth_unit_scale_factor", "applied_scale", "integer_depth_scale"),
    *(*_OPENCV, *_SETS),
}
# Keys without effect on what the pictures show: sizes of other programs' grids, and notes on where poses come from.
_NOTES = {
    *("aabb_scale", "scale", "offset", "sharpness", "rotation", "colmap_im_id", "n_frames", "frame_id"),
    *("applied_transform", "orientation_override", "timestamp", "date", "device", "comment"),
}
_UPRIGHT = 0.94  # cosine of the angle, 20 degrees, by which the axis that is up may be off
_LEVEL = 0.05  # difference between components of unit vectors below which they count as equal
_MILLIMETRES = 1e-3  # the unit of nerfstudio's depths, if a file says nothing else
_SHOWN = 5  # number of keys that a warning names


def is_transforms(path: Path) -> bool:
    """Whether a path is that of a transforms file, or a folder with one."""
    if path.suffix.lower() == ".json" and not path.is_dir():
        return True
    return (path / NAME).is_file() or (path / TRAIN).is_file()


def open_transforms(path: Path, up: str | None = None) -> Capture:
    """The pictures of a transforms file, or of a folder with transforms.json or, as nerf-synthetic is published,
    transforms_train.json and transforms_test.json, whose pictures are held out.

    Intrinsics are fl_x, fl_y, cx and cy of each frame, else those of the whole file, else follow from
    camera_angle_x and camera_angle_y. up: "y" or "z", the axis of the file's world that points up; None is what its
    key "up" says, and if it has none, what its cameras show (`upward_axis`). Poses are returned in a world with +Y
    up. Warns of keys that are not read. Raises UserError if a file is missing or broken, for another layout, for a
    camera that is no lens, and for a time that is not in [0, 1].
    """
    file, tests = path, None
    if path.is_dir():
        file = path / NAME if (path / NAME).is_file() else path / TRAIN
        if file.name == TRAIN and (path / TEST).is_file():
            tests = path / TEST
    document = _read_document(file)
    whole = [(file, document, frame) for frame in document["frames"]]
    if tests is not None:
        test_document = _read_document(tests)
        whole += [(tests, test_document, frame) for frame in test_document["frames"]]
        held_out = tuple(range(len(document["frames"]), len(whole)))
    else:
        held_out = _set_apart(document)
    _warn_of_keys(file, [key for _, values, frame in whole for key in (*values, *frame)])
    poses = torch.tensor([_pose(frame, file) for file, _, frame in whole], dtype=torch.float64)
    up = document.get("up") if up is None else up
    if up not in (*WORLDS, None):
        raise UserError(f"{file}: up must be y or z, the axis of its world that points up, got {up!r}")
    known = up is not None
    up = up or upward_axis(poses)
    poses, turn = convert(_unscaled(poses), WORLDS[up], "opencv"), from_y_up(up).T
    if not known and (slant := _slant(poses)) is not None:
        poses, turn = slant @ poses, slant @ turn
    files = NamedFiles(file.parent, file)
    shots = [
        _shot(file, values | frame, pose, files)
        for (file, values, frame), pose in zip(whole, poses, strict=True)
    ]
    points, colors = _cloud(document, files)
    return Capture(
        tuple(shots),
        Origin(held_out, points @ turn[:3, :3].T.to(points), colors, _capture_from(file, document) @ turn.T),
    )


def _shot(file: Path, values: dict[str, Any], pose: Float[Tensor, "4 4"], files: NamedFiles) -> Shot:
    path = files.require(str(values["file_path"]))
    upright = size_of(path, smallest=1, upright=True)
    stored = size_of(path, smallest=1)
    width = _number(values, "w", file, upright[0])
    height = _number(values, "h", file, upright[1])
    if not (width > 0.0 and height > 0.0):
        raise UserError(f"{file} is not a transforms.json: w and h must be positive")
    # Some programs that find poses turn pictures as their EXIF data say, others do not: the size tells.
    turn = (width > height) == (upright[0] > upright[1]) or upright == stored
    mask = values.get("mask_path")
    time = _number(values, "time", file, 0.0)
    if not 0.0 <= time <= 1.0:
        raise UserError(f"{file}: every time must lie between 0 and 1")
    return Shot(
        path,
        pose,
        _intrinsics(values, height, width, file),
        (width, height),
        turn,
        None if mask is None else files.require(str(mask)),
        _lens(values, file),
        time,
        _depth(values, file, files),
    )


def _depth(values: Mapping[str, Any], file: Path, files: NamedFiles) -> DepthFile | None:
    """The depths of a frame, whose unit is that of its positions: nerfstudio has scaled the positions by
    applied_scale, but not the depths; instant-ngp reads no depths without integer_depth_scale."""
    name, key, default, scale = values.get("depth_file_path"), "depth_unit_scale_factor", _MILLIMETRES, 1.0
    if name is not None:
        scale = _number(values, "applied_scale", file, 1.0)
    elif "integer_depth_scale" in values:
        name, key = values.get("depth_path"), "integer_depth_scale"
    if name is None:
        return None
    unit = _number(values, key, file, default) * scale
    if not (unit > 0.0 and math.isfinite(unit)):
        raise UserError(f"{file}: the unit of its depths must be positive, {key} makes it {unit:g}")
    return DepthFile(files.require(str(name), "depth file"), unit)


def _read_document(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError unless its "frames" are a list of objects with "file_path"."""
    text = read_text(file)
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


def _set_apart(document: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of the frames that nerfstudio's lists of file names keep for tests or, without tests, for
    validation."""
    for key in reversed(_SETS[1:]):
        names = document.get(key)
        if isinstance(names, list) and names:
            apart = {str(name) for name in names}
            return tuple(
                index for index, frame in enumerate(document["frames"]) if str(frame["file_path"]) in apart
            )
    return ()


def _warn_of_keys(file: Path, keys: Iterable[Any]) -> None:
    found = {str(key)[:40] for key in keys}
    unread = sorted(found - _READ - _NOTES - ({"depth_path"} if "integer_depth_scale" in found else set()))
    if unread:
        more = f" and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
        warnings.warn(
            f"{file}: threedgen does not read its keys {', '.join(unread[:_SHOWN])}{more}", stacklevel=2
        )


def _rows(values: Mapping[str, Any], key: str, file: Path) -> list[list[float]] | None:
    """The 4x4 matrix under a key, None for something else. Raises UserError for what is no number in it."""
    rows = values.get(key)
    if not (isinstance(rows, list) and all(isinstance(row, list) for row in rows)):
        return None
    if [len(row) for row in rows] != [4] * 4:
        return None
    return [[_number({key: value}, key, file) for value in row] for row in rows]


def _pose(frame: Mapping[str, Any], file: Path) -> list[list[float]]:
    rows = _rows(frame, "transform_matrix", file)
    if rows is None:
        raise UserError(f"{file}: 'frames' must list pictures with file_path and a 4x4 transform_matrix")
    return rows


def _slant(poses: Float[Tensor, "B 4 4"]) -> Float[Tensor, "4 4"] | None:
    """What turns a world upright in which neither y nor z is up; None if one of them may be."""
    up, clear = level(poses)
    return turn_upright(poses) if clear and float(up[1]) < _UPRIGHT else None


def _unscaled(poses: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 4 4"]:
    """Poses without the scale that a camera inherits from its parent in a program of 3D, which changes no ray."""
    size = torch.linalg.det(poses[:, :3, :3].nan_to_num()).clamp(min=0.0) ** (1.0 / 3.0)
    scaled = poses.clone()
    scaled[:, :3, :3] /= torch.where((size > 0.0) & size.isfinite(), size, torch.ones_like(size))[
        :, None, None
    ]
    return scaled


def kept_place(folder: Path) -> Float[Tensor, "4 4"] | None:
    """`Origin.capture_from_world` of the pictures that `threedgen fit` wrote into a folder, None if they come from
    no capture. Raises UserError as `open_transforms` does."""
    file = folder / NAME
    document = _read_document(file) if file.is_file() else {}
    return _capture_from(file, document) if CAPTURE in document else None


def _capture_from(file: Path, document: Mapping[str, Any]) -> Float[Tensor, "4 4"]:
    """What a file of threedgen says of the world that it was made from; that of the file if it says nothing."""
    if CAPTURE not in document:
        return torch.eye(4, dtype=torch.float64)
    rows = _rows(document, CAPTURE, file)
    if rows is None:
        raise UserError(f"{file} is not a transforms.json: {CAPTURE} must be a 4x4 matrix")
    return torch.tensor(rows, dtype=torch.float64)


def _cloud(
    document: Mapping[str, Any], files: NamedFiles
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """The point cloud that a file names, in its world; without points if there is none."""
    name = document.get("ply_file_path")
    path = None if name is None else files.find(str(name))
    return (torch.zeros(0, 3), torch.zeros(0, 3)) if path is None else read_points(path)


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


def _lens(values: dict[str, Any], file: Path) -> Lens | None:
    """The lens of a frame, None for a pinhole. Raises UserError for a camera that is none of OpenCV's."""
    model = values.get("camera_model", "OPENCV")
    wide = bool(values.get("is_fisheye")) or model in _FISHEYE
    if model not in (*_STRAIGHT, *_BENT, *_FISHEYE):
        known = ", ".join((*_STRAIGHT, *_BENT, *_FISHEYE))
        raise UserError(f"{file}: pictures of the camera_model {str(model)[:40]} are not read, only {known}")
    names = _KANNALA_BRANDT if wide else _OPENCV
    given = [_number(values, name, file) if values.get(name) is not None else 0.0 for name in names]
    if wide:
        return fisheye(given)
    return opencv(given) if any(given) else None


def _intrinsics(values: dict[str, Any], height: float, width: float, file: Path) -> Float[Tensor, "3 3"]:
    """The intrinsics in pixels of a picture of width x height."""
    fx, fy = (_focal(values, axis, side, file) for axis, side in (("x", width), ("y", height)))
    if fx is None and fy is None:
        raise UserError(f"{file} gives no focal length: add fl_x or camera_angle_x")
    fx, fy = fx or fy, fy or fx
    cx = _number(values, "cx", file, 0.5 * width)
    cy = _number(values, "cy", file, 0.5 * height)
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _focal(values: dict[str, Any], axis: str, side: float, file: Path) -> float | None:
    """The focal length along an axis in pixels of a picture with that side, None if none is given."""
    if f"fl_{axis}" in values:
        return _number(values, f"fl_{axis}", file)
    key = f"camera_angle_{axis}"
    if values.get(key) is None or (axis == "y" and "fl_x" in values):
        return None
    angle = _number(values, key, file)
    if not 0.0 < angle < math.pi:
        raise UserError(f"{file}: {key} must be between 0 and pi (radians), it is {angle:g}")
    return 0.5 * side / math.tan(0.5 * angle)
