"""Mesh files as pictures: reads what people have, keeps its displayed colours, and renders it from all around.

Read by trimesh with nothing but the file itself and the material and texture files beside it: no reference leaves
the file's folder, and nothing is fetched. Transparency of materials is ignored.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.core.pictures import linear_from_srgb, srgb_from_linear
from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets.multiview import PosedPictures
from threedgen.renderers.rasterize import box_filter, rasterize

SUFFIXES = (".glb", ".obj", ".ply", ".stl", ".off")
ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst", ".usdz", ".3mf")
RADIUS = 0.9  # of the ball that the mesh is scaled into
DISTANCE, FOV = 2.85, 40.0  # of the cameras: the unit sphere fills the picture
SUPERSAMPLING = 4
_GREY = 0.7  # of a mesh without colours
_NO_AREA = 1e-12  # twice the area of a triangle in a ball of RADIUS that is only rounding
_LIGHT = (0.3, 0.8, 0.5)  # to the light: above, in front, to the right


@dataclass(frozen=True)
class PaintedMesh:
    """A mesh and its displayed colours: interpolated corner colour times the face's texture, where it has one.

    corner_colors: [F, 3, 3] and textures: [h, w, 3] each, display-referred in [0, 1]. corner_uvs: [F, 3, 2], v = 0
    at the bottom, repeating. texture: [F] which of `textures`, -1 for none.
    """

    mesh: TriMesh
    corner_colors: Float[Tensor, "F 3 3"]
    corner_uvs: Float[Tensor, "F 3 2"]
    texture: Int[Tensor, " F"]
    textures: tuple[Float[Tensor, "h w 3"], ...]

    @property
    def plain(self) -> bool:
        """Whether everything has one colour, so that without light only the outline would show."""
        colors = [self.corner_colors.reshape(-1, 3)[None], *(t.reshape(-1, 3)[None] for t in self.textures)]
        return all(float((c.amax(1) - c.amin(1)).max()) < 1.0 / 255.0 for c in colors)


def may_be_mesh(path: Path) -> bool:
    """Whether it cannot be meant as a data set, which is a folder or a .json: then a mesh is meant."""
    return not path.is_dir() and path.suffix.lower() != ".json"


def read_painted(path: str | Path, texture: str | Path | None = None) -> PaintedMesh:
    """The triangles of a .glb, .obj, .ply, .stl or .off, all parts of a scene in one, moved and scaled: the middle
    of the bounding box to the origin, the furthest corner to RADIUS. Corners that no triangle uses are dropped.

    texture: a picture to use for every part that has texture coordinates (an .obj without its .mtl).
    Raises UserError: missing, another suffix, unreadable, no triangles, triangles of corners that are not there,
    coordinates or colours that are not finite, no extent, no area.
    """
    path = existing(path, "there is no file or folder '{path}'")
    _check_name(path)
    image = None if texture is None else _image(Path(texture))
    parts = _parts(path)
    if not parts:
        raise UserError(f"{path} holds no triangles: give a surface mesh")
    vertices, faces, colors, uvs, which, textures = [], [], [], [], [], []
    count = 0
    for points, corners, part in parts:
        paint = _paint(part, corners, path.suffix.lower() == ".glb", image)
        if not (np.isfinite(paint[0]).all() and np.isfinite(paint[1]).all() and _finite_colors(part)):
            raise UserError(f"{path} has colours or texture coordinates with NaN or infinite numbers")
        vertices.append(points)
        faces.append(corners + count)
        count += len(points)
        colors.append(paint[0])
        uvs.append(paint[1])
        which.append(np.full(len(corners), -1 if paint[2] is None else len(textures)))
        if paint[2] is not None:
            textures.append(torch.from_numpy(paint[2]).float())
    if image is not None and not textures:
        raise UserError(f"{path} has no texture coordinates, so --texture has nothing to cover")
    mesh = _placed(np.concatenate(vertices), np.concatenate(faces), path)
    return PaintedMesh(
        mesh,
        torch.from_numpy(np.concatenate(colors)).float(),
        torch.from_numpy(np.concatenate(uvs)).float(),
        torch.from_numpy(np.concatenate(which)),
        tuple(textures),
    )


def read_mesh(path: str | Path, radius: float = RADIUS) -> TriMesh:
    """The file as `read_painted` has it, in the ball of `radius`. A vertex's colour is the mean of what its corners
    show, texture included."""
    painted = read_painted(path)
    colors = painted.corner_colors.clone()
    for index, texture in enumerate(painted.textures):
        chosen = painted.texture == index
        colors[chosen] *= _sample(texture, painted.corner_uvs[chosen].flatten(0, 1)).unflatten(0, (-1, 3))
    corners = painted.mesh.faces.flatten()
    total = torch.zeros_like(painted.mesh.vertices).index_add_(0, corners, colors.flatten(0, 1))
    count = torch.bincount(corners, minlength=len(total)).clamp_min(1).unsqueeze(1)
    return TriMesh(painted.mesh.vertices * (radius / RADIUS), painted.mesh.faces, total / count)


def fibonacci_views(count: int, size: int) -> Cameras:
    """`count` cameras spread evenly over the sphere, top to bottom, a golden angle apart; size x size pixels."""
    place = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    elevation = torch.rad2deg(torch.asin(1.0 - 2.0 * place))
    azimuth = (torch.arange(count, dtype=torch.float64) * (180.0 * (3.0 - math.sqrt(5.0)))) % 360.0
    radius = torch.full((count,), DISTANCE)
    return orbit(azimuth.float(), elevation.float(), radius, FOV, size, size)


def render(painted: PaintedMesh, cameras: Cameras, light: float = 0.0) -> PosedPictures:
    """Anti-aliased pictures on white with alpha: display colours, both sides of every face, no shading.

    light: in [0, 1], how much darker than its colour a face is that looks away from a light above; it is fixed
    in the world, hence a part of the colours.
    """
    shade = _shade(painted.mesh, light)
    images, alphas = [], []
    for view in range(len(cameras)):
        camera = cameras[view : view + 1]
        fine = camera.resized(camera.height * SUPERSAMPLING, camera.width * SUPERSAMPLING)
        seen = rasterize(painted.mesh, fine)
        covered = seen.face_id[0] >= 0
        face = seen.face_id[0][covered].long()
        weights = seen.bary[0][covered][:, :, None]
        color = (weights * painted.corner_colors[face]).sum(1) * shade[face, None]
        uv = (weights * painted.corner_uvs[face]).sum(1)
        for index, texture in enumerate(painted.textures):
            chosen = painted.texture[face] == index
            color[chosen] *= _sample(texture, uv[chosen])
        layers = torch.zeros(1, *covered.shape, 4)
        layers[0][covered] = torch.cat([color, torch.ones_like(color[:, :1])], dim=1)
        layers = box_filter(layers, SUPERSAMPLING)
        alpha = layers[..., 3:]
        images.append(layers[..., :3] + (1.0 - alpha))
        alphas.append(alpha)
    return PosedPictures(torch.cat(images), torch.cat(alphas), cameras)


def _check_name(path: Path) -> None:
    suffix, known = path.suffix.lower(), ", ".join(SUFFIXES)
    if suffix in ARCHIVES:
        raise UserError(f"'{path}' is an archive: unpack it and give the mesh or the folder inside")
    if suffix not in SUFFIXES:
        raise UserError(
            f"'{path}' is neither a mesh ({known}) nor a folder of pictures with transforms.json or intrinsics.txt"
        )


def _parts(path: Path) -> list[tuple[np.ndarray, np.ndarray, Any]]:
    """The triangle meshes of the file: corners [v, 3] at their places in the scene, faces [f, 3], trimesh's own."""
    import trimesh
    from trimesh.resolvers import FilePathResolver

    quiet = logging.getLogger("trimesh")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # it prints tracebacks about textures that are not there
    try:
        with path.open("rb") as file:
            resolver = FilePathResolver(str(path.absolute().parent))  # refuses whatever is outside of it
            scene = trimesh.load_scene(
                file, file_type=path.suffix[1:].lower(), resolver=resolver, process=False, allow_remote=False
            )
        parts = []
        for node in scene.graph.nodes_geometry:
            matrix, name = scene.graph[node]
            part = scene.geometry[name]
            if isinstance(part, trimesh.Trimesh) and len(part.faces):
                vertices = np.asarray(part.vertices, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
                faces = np.asarray(part.faces, dtype=np.int64)
                _check_faces(faces, len(vertices), path)
                # A mirrored part would be inside out: its faces go round the other way.
                parts.append((vertices, faces[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else faces, part))
    except UserError:
        raise
    except Exception as error:  # trimesh's readers raise anything at all on a bad file
        raise UserError(f"cannot read the mesh {path}: {' '.join(str(error).split())[:160]}") from error
    finally:
        quiet.setLevel(level)
    return parts


def _check_faces(faces: np.ndarray, count: int, path: Path) -> None:
    wrong = ((faces < 0) | (faces >= count)).any(axis=1)
    if wrong.any():
        index = int(wrong.argmax())
        raise UserError(
            f"{path} has a triangle of corners that are not there: triangle {index} is {faces[index].tolist()}, "
            f"of {count} corners"
        )


def _placed(vertices: np.ndarray, faces: np.ndarray, path: Path) -> TriMesh:
    # What no face uses is not seen, and must not decide where the mesh lies and how large it is.
    used, faces = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], faces.reshape(-1, 3)
    if not np.isfinite(vertices).all():
        raise UserError(f"{path} has corners with NaN or infinite coordinates")
    centred = vertices - (0.5 * vertices.min(axis=0) + 0.5 * vertices.max(axis=0))
    span = np.abs(centred).max()
    if not span > 0.0:
        raise UserError(f"{path} has no extent: all its corners are in one place")
    unit = centred / span  # first: squares of 1e200 overflow, those of 1e-200 vanish
    placed = unit * (RADIUS / np.linalg.norm(unit, axis=1).max())
    a, b, c = (placed[faces[:, corner]] for corner in range(3))
    if not np.linalg.norm(np.cross(b - a, c - a), axis=1).max() > _NO_AREA:
        raise UserError(
            f"{path} has no area: all its triangles are lines or points, nothing of it can be seen"
        )
    return TriMesh(torch.from_numpy(placed).float(), torch.from_numpy(faces))


def _finite_colors(part: Any) -> bool:
    """trimesh's colours are bytes, and black where a .ply has NaN: what the file holds is kept beside them."""
    for element in part.metadata.get("_ply_raw", {}).values():
        data = element.get("data")
        names = data if isinstance(data, dict) else getattr(getattr(data, "dtype", None), "names", None)
        for name in set(names or ()) & {"red", "green", "blue"}:
            if not np.isfinite(np.asarray(data[name], dtype=np.float64)).all():
                return False
    return True


def _paint(
    part: Any, faces: np.ndarray, linear: bool, image: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Corner colours, corner texture coordinates, texture. linear: glTF's colours and factors are linear light."""
    visual, corners = part.visual, (*faces.shape, 3)
    display = srgb_from_linear if linear else (lambda color: color)
    none = np.zeros((*faces.shape, 2))
    if visual.kind == "face":
        return np.repeat(display(_unit(visual.face_colors))[:, None], 3, axis=1), none, None
    if visual.kind == "vertex":
        return display(_unit(visual.vertex_colors))[faces], none, None
    if visual.kind != "texture":
        return np.full(corners, _GREY), none, None
    attributes = getattr(visual, "vertex_attributes", {})
    own = _unit(attributes["color"]) if "color" in attributes else None
    found = _material_image(visual.material) if image is None else image
    factor = _factor(visual.material) if image is None else None
    if found is None or visual.uv is None or len(visual.uv) != len(part.vertices):
        if own is None and factor is None:
            return np.full(corners, _GREY), none, None
        color = np.ones(corners) if own is None else own[faces]
        return display(color if factor is None else color * factor), none, None
    if factor is not None:
        found = srgb_from_linear(linear_from_srgb(found) * factor)
    # The product of displayed colours is nearly the displayed product of light: sRGB is nearly a power.
    colors = np.ones(corners) if own is None else display(own)[faces]
    return colors, np.asarray(visual.uv)[faces], found


def _unit(colors: Any) -> np.ndarray:
    """RGB in [0, 1] of colours in any of the types that files have."""
    rgb = np.asarray(colors)[:, :3]
    whole = np.issubdtype(rgb.dtype, np.integer)
    return rgb / np.iinfo(rgb.dtype).max if whole else rgb.astype(np.float64).clip(0.0, 1.0)


def _material_image(material: Any) -> np.ndarray | None:
    for name in ("baseColorTexture", "image"):
        picture = getattr(material, name, None)
        if picture is not None:
            return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255.0
    return None


def _factor(material: Any) -> np.ndarray | None:
    """The colour that multiplies a material's texture or stands alone: [3] in [0, 1], or None."""
    name = "baseColorFactor" if hasattr(material, "baseColorFactor") else "diffuse"
    value = getattr(material, name, None)
    if value is None or (name == "diffuse" and getattr(material, "image", None) is not None):
        return None  # an .mtl's Kd beside a texture is what viewers ignore
    color = np.asarray(value)[:3]
    return color / 255.0 if np.issubdtype(color.dtype, np.integer) else color.astype(np.float64)


def _image(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255.0
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the texture {path}: {error}") from error


def _shade(mesh: TriMesh, light: float) -> Float[Tensor, " F"]:
    corners = mesh.vertices[mesh.faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    toward = torch.nn.functional.normalize(normals.new_tensor(_LIGHT), dim=0)
    cosine = torch.nn.functional.normalize(normals, dim=1) @ toward
    return 1.0 - light * (0.5 - 0.5 * cosine)


def _sample(texture: Float[Tensor, "h w 3"], uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Bilinear, repeating; texel centres at half integers."""
    height, width = texture.shape[:2]
    x = uv[:, 0] * width - 0.5
    y = (1.0 - uv[:, 1]) * height - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    columns = [(left.long() + i) % width for i in (0, 1)]
    rows = [(top.long() + i) % height for i in (0, 1)]
    upper, lower = (texture[row, columns[0]] * (1 - fx) + texture[row, columns[1]] * fx for row in rows)
    return upper * (1 - fy) + lower * fy
