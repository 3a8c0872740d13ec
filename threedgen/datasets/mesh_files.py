"""Mesh files: they are read with the colours that viewers display, and rendered from all sides.

glTF is read by `gltf_meshes`, all else by trimesh, with nothing but the file itself and the files of materials and
textures in its folder: references out of that folder are not followed, and nothing is downloaded. How transparent
a face is, the `d` (or, without it, Tr = 1 - d) of an .mtl and the alpha of its textures say, and in glTF alphaMode.
The alpha of the colours of corners and faces is ignored.
"""

from __future__ import annotations

import io
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets import gltf_document, usd_files
from threedgen.datasets.decoding import decoding, reason
from threedgen.datasets.mesh_paint import Piece, finite_colors, paint_of
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.obj_polygons import triangulated
from threedgen.datasets.painted_mesh import PaintedMesh, fragments, sample, surface
from threedgen.renderers.rasterize import box_filter

if TYPE_CHECKING:
    from threedgen.datasets.mesh_references import References

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off", *usd_files.SUFFIXES)
ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst", ".3mf")
SCENES = (".fbx", ".blend", ".dae", ".3ds", ".max", ".c4d", ".ma", ".mb", ".abc", ".x3d")  # not read
RADIUS = 0.9  # world units, of the ball to which a mesh is scaled
SUPERSAMPLING = 4  # pixels per side of each pixel that are rendered and averaged
_NOT_FINITE = "{path} has colours or texture coordinates with NaN or infinite numbers"
_BARELY = 0.05  # opacity that a mesh must have somewhere
_NO_AREA = 1e-12  # world units squared: a cross product of edges up to this is a rounding error
_LIGHT = (0.3, 0.8, 0.5)  # direction towards the light: above, in front, to the right


def may_be_mesh(path: Path) -> bool:
    """Whether a path may mean a mesh: it does unless it is a folder or a .json file, which mean a data set."""
    return not path.is_dir() and path.suffix.lower() != ".json"


def read_painted(path: str | Path, texture: str | Path | None = None) -> PaintedMesh:
    """The triangles of a .glb, .gltf, .obj, .ply, .stl or .off file, all pieces of it in one mesh.

    The mesh is moved so that the middle of its bounding box is the origin, and scaled so that its farthest corner
    is at RADIUS. Corners that no triangle uses are dropped. texture: a picture to use for every piece that has
    texture coordinates, for example for an .obj without its .mtl. Warns of files of materials and textures that the
    mesh file names and that cannot be read. Raises UserError if the file is missing, has
    another suffix or cannot be read, or if the mesh has no triangles, triangles of corners that are not there,
    coordinates or colours that are not finite, no extent, or no area.
    """
    path = existing(path, "there is no file or folder '{path}'")
    _check_name(path)
    image = None if texture is None else _image(Path(texture))
    pieces = _pieces(path, image)
    if not pieces:
        raise UserError(f"{path} holds no triangles: give a surface mesh")
    vertices, faces, colors, uvs, which, opacity = [], [], [], [], [], []
    textures, alphas, wraps = [], [], []
    count = 0
    for points, corners, paint in pieces:
        _check_faces(corners, len(points), path)
        if not (np.isfinite(paint.colors).all() and np.isfinite(paint.uvs).all()):
            raise UserError(_NOT_FINITE.format(path=path))
        vertices.append(points)
        faces.append(corners + count)
        count += len(points)
        colors.append(paint.colors)
        uvs.append(paint.uvs)
        opacity.append(np.full(len(corners), paint.opacity))
        which.append(np.full(len(corners), -1 if paint.texture is None else len(textures)))
        if paint.texture is not None:
            textures.append(torch.from_numpy(paint.texture[..., :3]).float())
            alphas.append(torch.from_numpy(paint.texture[..., 3:]).float())
            wraps.append(paint.wrap)
    if image is not None and not textures:
        raise UserError(f"{path} has no texture coordinates, so --texture has nothing to cover")
    mesh = _placed(np.concatenate(vertices), np.concatenate(faces), path)
    painted = PaintedMesh(
        mesh,
        torch.from_numpy(np.concatenate(colors)).float(),
        torch.from_numpy(np.concatenate(uvs)).float(),
        torch.from_numpy(np.concatenate(which)),
        tuple(textures),
        torch.from_numpy(np.concatenate(opacity)).float(),
        tuple(alpha if float(alpha.min()) < 1.0 else None for alpha in alphas),
        tuple(wraps),
    )
    return painted if _visible(painted) else opaque(painted)


def read_mesh(path: str | Path, radius: float = RADIUS) -> TriMesh:
    """The mesh of a file as `read_painted` reads it, scaled to a ball of `radius` world units. The colour of a
    vertex is the mean of the colours, texture included, of the corners at it."""
    painted = read_painted(path)
    colors = painted.corner_colors.clone()
    for index, texture in enumerate(painted.textures):
        chosen = painted.texture == index
        uvs = painted.corner_uvs[chosen].flatten(0, 1)
        colors[chosen] *= sample(texture, uvs, painted.wraps[index]).unflatten(0, (-1, 3))
    corners = painted.mesh.faces.flatten()
    total = torch.zeros_like(painted.mesh.vertices).index_add_(0, corners, colors.flatten(0, 1))
    count = torch.bincount(corners, minlength=len(total)).clamp_min(1).unsqueeze(1)
    return TriMesh(painted.mesh.vertices * (radius / RADIUS), painted.mesh.faces, total / count)


def fibonacci_views(count: int, size: int) -> Cameras:
    """`count` cameras of size x size pixels, spread evenly over the sphere from top to bottom, at golden angles."""
    place = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    elevation = torch.rad2deg(torch.asin(1.0 - 2.0 * place))
    azimuth = (torch.arange(count, dtype=torch.float64) * (180.0 * (3.0 - math.sqrt(5.0)))) % 360.0
    radius = torch.full((count,), DISTANCE)
    return orbit(azimuth.float(), elevation.float(), radius, FOV, size, size)


def opaque(painted: PaintedMesh) -> PaintedMesh:
    """The same mesh without transparency."""
    alphas = (None,) * len(painted.alphas)
    return replace(painted, opacity=torch.ones_like(painted.opacity), alphas=alphas)


def render(painted: PaintedMesh, cameras: Cameras, light: float = 0.0) -> PosedPictures:
    """Anti-aliased pictures on white, with alpha: the display colours of both sides of every face, without shading.

    What is transparent covers what is behind it by its opacity, in the order of depth. light: how much darker, in
    [0, 1], a face is that points away from a light above. The light is fixed in the world, so the shades belong to
    the colours.
    """
    shade = _shade(painted.mesh, light)
    images, alphas = [], []
    for view in range(len(cameras)):
        camera = cameras[view : view + 1]
        fine = camera.resized(camera.height * SUPERSAMPLING, camera.width * SUPERSAMPLING)
        seen = fragments(painted, fine)
        color = surface(painted, seen.face, seen.bary)[0] * shade[seen.face, None]
        values = torch.cat([color, torch.ones_like(color[:, :1])], dim=1) * seen.weight[:, None]
        layers = torch.zeros(fine.height * fine.width, 4).index_add_(0, seen.pixel, values)
        layers = box_filter(layers.reshape(1, fine.height, fine.width, 4), SUPERSAMPLING)
        alpha = layers[..., 3:]
        images.append(layers[..., :3] + (1.0 - alpha))
        alphas.append(alpha)
    return PosedPictures(torch.cat(images), torch.cat(alphas), cameras)


def _check_name(path: Path) -> None:
    suffix, known = path.suffix.lower(), ", ".join(SUFFIXES)
    if suffix in ARCHIVES:
        raise UserError(f"'{path}' is an archive: unpack it and give the mesh or the folder inside")
    if suffix not in SUFFIXES:
        advice = ": export it as .glb, for example with Blender" if suffix in SCENES else ""
        raise UserError(
            f"'{path}' is neither a mesh ({known}) nor a folder of pictures with transforms.json or intrinsics.txt"
            f"{advice}"
        )


def _pieces(path: Path, image: np.ndarray | None) -> list[Piece]:
    """The pieces of a file. image: [h, w, 4], a texture that replaces those that the file names."""
    from threedgen.datasets import gltf_meshes, usd_meshes
    from threedgen.datasets.mesh_references import References

    references = References(path)
    if path.suffix.lower() in gltf_document.SUFFIXES:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the mesh {path}: {error.strerror}") from error
        pieces = gltf_meshes.read(path, data, references, image)
    elif path.suffix.lower() in usd_files.SUFFIXES:
        pieces = usd_meshes.read(path, references, image)
    else:
        pieces = _by_trimesh(path, references, image)
    if image is None:
        references.warn()
    return pieces


def _by_trimesh(path: Path, references: References, image: np.ndarray | None) -> list[Piece]:
    import trimesh

    quiet = logging.getLogger("trimesh")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # it prints tracebacks about textures that are missing
    try:
        with path.open("rb") as file:
            obj = path.suffix.lower() == ".obj"
            loaded = trimesh.load_scene(
                io.BytesIO(triangulated(file.read())) if obj else file,
                file_type=path.suffix[1:].lower(),
                resolver=references,
                process=False,
                allow_remote=False,
            )
        placed = [loaded.graph[node] for node in loaded.graph.nodes_geometry]
    except Exception as error:  # the readers of trimesh raise exceptions of any type for a bad file
        raise UserError(f"cannot read the mesh {path}: {reason(error)}") from error
    finally:
        quiet.setLevel(level)
    pieces = []
    for matrix, name in placed:
        piece = loaded.geometry[name]
        if isinstance(piece, trimesh.Trimesh) and len(piece.faces):
            vertices = np.asarray(piece.vertices, dtype=np.float64)
            if vertices.shape[1:] != (3,):
                raise UserError(
                    f"{path} has corners of {vertices.shape[-1]} coordinates: write three for each"
                )
            vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
            faces = np.asarray(piece.faces, dtype=np.int64)
            _check_faces(faces, len(vertices), path)
            if not finite_colors(piece):
                raise UserError(_NOT_FINITE.format(path=path))
            pieces.append(Piece(vertices, faces, paint_of(piece, faces, path, image)))
    return pieces


def _check_faces(faces: np.ndarray, count: int, path: Path) -> None:
    wrong = ((faces < 0) | (faces >= count)).any(axis=1)
    if wrong.any():
        index = int(wrong.argmax())
        raise UserError(
            f"{path} has a triangle of corners that are not there: triangle {index} is {faces[index].tolist()}, "
            f"of {count} corners"
        )


def _placed(vertices: np.ndarray, faces: np.ndarray, path: Path) -> TriMesh:
    # Corners that no face uses are invisible, and must not influence the position and the size of the mesh.
    used, faces = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], faces.reshape(-1, 3)
    if not np.isfinite(vertices).all():
        raise UserError(f"{path} has corners with NaN or infinite coordinates")
    centred = vertices - (0.5 * vertices.min(axis=0) + 0.5 * vertices.max(axis=0))
    span = np.abs(centred).max()
    if not span > 0.0:
        raise UserError(f"{path} has no extent: all its corners are in one place")
    unit = centred / span  # before anything is squared: the squares of 1e200 overflow, those of 1e-200 vanish
    placed = unit * (RADIUS / np.linalg.norm(unit, axis=1).max())
    a, b, c = (placed[faces[:, corner]] for corner in range(3))
    if not np.linalg.norm(np.cross(b - a, c - a), axis=1).max() > _NO_AREA:
        raise UserError(
            f"{path} has no area: all its triangles are lines or points, so nothing of it is visible"
        )
    return TriMesh(torch.from_numpy(placed).float(), torch.from_numpy(faces))


def _image(path: Path) -> np.ndarray:
    from PIL import Image

    with (
        decoding(path, lambda error: f"cannot read the texture {path}: {reason(error)}"),
        Image.open(path) as picture,
    ):
        rgba = picture.convert("RGBA")
    return np.asarray(rgba, dtype=np.float64) / 255.0


def _visible(painted: PaintedMesh) -> bool:
    """Whether some face hides something. Where none does, the file means the opposite of what it says: writers
    disagree on whether Tr, and some even on whether d, is 0 or 1 for what is opaque."""
    shown = torch.tensor([1.0 if alpha is None else float(alpha.max()) for alpha in painted.alphas] + [1.0])
    return float((painted.opacity * shown[painted.texture]).max()) >= _BARELY


def _shade(mesh: TriMesh, light: float) -> Float[Tensor, " F"]:
    corners = mesh.vertices[mesh.faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    toward = torch.nn.functional.normalize(normals.new_tensor(_LIGHT), dim=0)
    cosine = torch.nn.functional.normalize(normals, dim=1) @ toward
    return 1.0 - light * (0.5 - 0.5 * cosine)
