"""Captures for tests and benchmarks: pictures of a lens, their COLMAP model in a world of any gauge, and depths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from threedgen.cameras.orbit import convert, orbit
from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets import world
from threedgen.datasets.multiview import PosedPictures
from threedgen.renderers.mesh import MeshRenderer
from threedgen.renderers.rasterize import rasterize

_GREY, _RED = (0.6, 0.6, 0.6), (0.8, 0.2, 0.1)


def red_car(count: int, size: int) -> PosedPictures:
    """Exact pictures of a red car of the world from all around, size x size pixels."""
    step = torch.arange(count)
    cameras = orbit(
        360.0 / count * step, 20.0 + 15.0 * (step % 3), torch.full((count,), 2.85), 40.0, size, size
    )
    rgb, alpha = world.render(world.canonical("car", "red"), cameras)
    return PosedPictures(rgb.clamp(0.0, 1.0), alpha, cameras)


def plain_bowl() -> TriMesh:
    """A deep bowl of one grey, open to +Y, with a red box on its ground: pictures show no shape of its inside."""
    turn = np.linspace(-0.5 * np.pi, 0.1 * np.pi, 24)
    outer = np.stack([0.85 * np.cos(turn), 0.85 * np.sin(turn)], axis=1)
    bowl: Any = trimesh.creation.revolve(np.concatenate([outer, 0.88 * outer[::-1]]), sections=48)
    bowl.vertices = bowl.vertices[:, [0, 2, 1]] * [1.0, 1.0, -1.0]  # the axis of a revolution is z
    box: Any = trimesh.creation.box((0.3, 0.3, 0.3))
    box.apply_translation([0.1, -0.5, 0.0])
    colors = [np.tile(color, (len(part.vertices), 1)) for part, color in ((bowl, _GREY), (box, _RED))]
    mesh: Any = trimesh.util.concatenate([bowl, box])
    vertices, faces = torch.from_numpy(np.array(mesh.vertices)), torch.from_numpy(np.array(mesh.faces))
    return TriMesh(vertices.float(), faces.long(), torch.from_numpy(np.concatenate(colors)).float())


def seen_with_depths(mesh: TriMesh, cameras: Cameras) -> PosedPictures:
    """Pictures of a mesh in the colours of its vertices, and the depths of what is solid in them."""
    with torch.no_grad():
        seen = MeshRenderer(MeshRenderer.Config(supersampling=2))(mesh, cameras, torch.ones(3))
    inverse = rasterize(mesh, cameras).inverse_z
    depths = torch.where((inverse > 0.0) & (seen.alpha[..., 0] > 0.99), 1.0 / inverse, torch.nan)
    return PosedPictures(seen.rgb.clamp(0.0, 1.0), seen.alpha, cameras, depths=depths)


def from_above(count: int, size: int, first: float = 0.0) -> Cameras:
    """Cameras around what stands at the origin, which look into it from above. first: azimuth in degrees."""
    step = torch.arange(count)
    elevations = torch.tensor([35.0, 55.0])[step % 2]
    return orbit(first + 360.0 / count * step, elevations, torch.full((count,), 3.0), 40.0, size, size)


def gauge(seed: int = 0, scale: float = 3.7) -> Float[Tensor, "4 4"]:
    """A similarity of the world: any rotation, `scale`, and a shift of several units."""
    rng = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * rotation * torch.sign(torch.linalg.det(rotation))
    matrix[:3, 3] = scale * 5.0 * torch.randn(3, generator=rng, dtype=torch.float64)
    return matrix


def moved_poses(pictures: PosedPictures, matrix: Float[Tensor, "4 4"]) -> Float[Tensor, "B 4 4"]:
    """The world_from_camera matrices in the world that `matrix` makes of the old one."""
    poses = matrix @ pictures.cameras.world_from_camera.double()
    poses[:, :3, :3] /= torch.linalg.det(matrix[:3, :3]) ** (1.0 / 3.0)
    return poses


def write_opengl(folder: Path, pictures: PosedPictures, poses: Float[Tensor, "B 4 4"], **more: Any) -> None:
    """A transforms.json that does not say which way is up, of the pictures that `write_transforms` wrote there."""
    file = folder / "transforms.json"
    document = json.loads(file.read_text())
    del document["up"]
    for frame, pose in zip(document["frames"], convert(poses, "opencv", "opengl").tolist(), strict=True):
        frame["transform_matrix"] = pose
    file.write_text(json.dumps(document | more))


def write_colmap(
    folder: Path,
    pictures: PosedPictures,
    poses: Float[Tensor, "B 4 4"],
    model: str = "PINHOLE",
    extra: tuple[float, ...] = (),
    points: Float[Tensor, "P 3"] | None = None,
    text: bool = False,
    masks: bool = False,
    see: Callable[[int], Any] | None = None,
) -> None:
    """images/ and sparse/0 of COLMAP. extra: coefficients of the lens after fx, fy, cx, cy. see: the picture of a
    view, as an array of uint8; by default that of `pictures` on white. masks: writes the alpha into masks/."""
    import pycolmap

    cameras = pictures.cameras
    (folder / "images").mkdir(parents=True)
    (folder / "sparse" / "0").mkdir(parents=True)
    (folder / "masks").mkdir()
    reconstruction = pycolmap.Reconstruction()
    k = cameras.intrinsics[0]
    four = [k[0, 0].item(), k[1, 1].item(), k[0, 2].item(), k[1, 2].item()]
    camera = pycolmap.Camera(
        model=model, width=cameras.width, height=cameras.height, params=[*four, *extra], camera_id=1
    )
    reconstruction.add_camera_with_trivial_rig(camera)
    for index, pose in enumerate(poses.numpy()):
        rotation = pose[:3, :3].T
        from_world = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ pose[:3, 3])
        name = f"shot{index}.png"
        image = pycolmap.Image(name=name, camera_id=1, image_id=index + 1)
        reconstruction.add_image_with_trivial_frame(image, from_world)
        pixels = (pictures.images[index] * 255).round().byte().numpy() if see is None else see(index)
        Image.fromarray(pixels).save(folder / "images" / name)
        if masks:
            alpha = (pictures.alpha[index, ..., 0] * 255).round().byte().numpy()
            Image.fromarray(alpha).save(folder / "masks" / f"{name}.png")
    for point in () if points is None else points.numpy():
        reconstruction.add_point3D(
            point.astype(np.float64), pycolmap.Track(), np.array([200, 30, 20], np.uint8)
        )
    if text:
        reconstruction.write_text(folder / "sparse" / "0")
    else:
        reconstruction.write_binary(folder / "sparse" / "0")
