"""Triangle meshes: a TriMesh seen by pinhole cameras, differentiable in vertices, colours and texture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras, RenderOutput, TriMesh
from threedgen.renderers import backends
from threedgen.renderers.base import Background, split_background
from threedgen.renderers.mesh_shading import box_filter, face_normals, sample_texture, to_camera
from threedgen.renderers.silhouettes import Edges, find_blends, find_edges, find_places

_GREY = 0.5  # of a mesh without colours


@dataclass(frozen=True)
class Config:
    """backend: auto (the fastest for the mesh's device), native (CPU), pytorch3d (CUDA), torch (slow) or
    nvdiffrast.

    backfaces: draw both sides of a face, or cull those that look away from the camera (corners clockwise).
    antialias: blend across outlines; without it no gradient moves an outline. supersampling: 1 to 8, render
    this many times larger on each side and average.
    """

    backend: str = "auto"
    backfaces: Literal["draw", "cull"] = "draw"
    antialias: bool = True
    supersampling: int = 1

    def __post_init__(self) -> None:
        if self.backfaces not in ("draw", "cull"):
            raise UserError(f"renderer.backfaces is {self.backfaces!r}; choose draw or cull")
        if not 1 <= self.supersampling <= 8:
            raise UserError(f"renderer.supersampling is {self.supersampling}; it must be from 1 to 8")


class MeshRenderer:
    """Renders triangle meshes: rgb, alpha, depth and normal."""

    Config = Config
    primitive = TriMesh

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self._known: tuple[Tensor, Tensor, Edges] | None = None

    def __call__(
        self,
        primitive: TriMesh,
        cameras: Cameras,
        background: Background,
        /,
        rng: torch.Generator | None = None,
    ) -> RenderOutput:
        """Render [B, H, W] pictures of a mesh; nothing is drawn from `rng`.

        Colours are the texture's where the mesh has uvs and a texture, else the vertices', else mid grey:
        displayed as they are, without light. depth is alpha x camera z. normal is alpha x the unit normal in
        the world: the mesh's own, interpolated, or its faces'. background: [3], [B, 3] or [B, H, W, 3]. Faces
        are cut at the near plane; a mesh without faces leaves the background. A float64 mesh is rendered by
        the torch twin, the only backend that keeps the precision. Gradients reach all of the mesh and the
        background; cameras get none.
        Raises UserError when the configured backend is absent; ValueError on a background of another shape,
        or a face that names a vertex which is not there.
        """
        vertices = primitive.vertices
        faces = primitive.faces.to(vertices.device)
        _check_faces(faces, len(vertices))
        cameras = cameras.to(vertices.device, vertices.dtype)
        solid, picture = split_background(background.to(vertices), cameras)
        surface, normal = self._surface(primitive, faces, cameras)
        rgb, alpha, depth = surface.split([3, 1, 1], dim=-1)
        behind = solid[:, None, None, :] if picture is None else picture
        return RenderOutput(rgb=rgb + (1.0 - alpha) * behind, alpha=alpha, depth=depth, normal=normal)

    def _surface(
        self, mesh: TriMesh, faces: Int[Tensor, "F 3"], cameras: Cameras
    ) -> tuple[Float[Tensor, "B H W 5"], Float[Tensor, "B H W 3"]]:
        """(rgb over black, alpha, alpha x z), and alpha x normal."""
        vertices, factor = mesh.vertices, self.config.supersampling
        if vertices.dtype == torch.float64:
            name = "torch"
        else:
            name = backends.choose("mesh", self.config.backend, vertices.device)
        backend = backends.load("mesh", name)
        fine = cameras.resized(cameras.height * factor, cameras.width * factor)
        points, cull = to_camera(vertices, fine), self.config.backfaces == "cull"
        face_id = backend.visible_faces(points.detach(), faces, fine, cull)
        seen = face_id >= 0
        textured = mesh.texture is not None and mesh.uvs is not None
        parts = [mesh.uvs if textured else _colors(mesh)]
        parts += [] if mesh.normals is None else [mesh.normals]
        widths = [part.shape[1] for part in parts]  # type: ignore[union-attr]
        attributes = torch.cat([part.to(vertices) for part in parts], dim=1)  # type: ignore[union-attr]
        image = backend.interpolate(points, faces, fine, face_id, attributes)
        paint, *normals, covered = image.split([*widths, 2], dim=-1)
        if textured:
            assert mesh.texture is not None
            colors = sample_texture(mesh.texture.to(vertices), paint[seen])
            paint = paint.new_zeros(*seen.shape, 3).index_put((seen,), colors)
        if normals:
            normal = torch.nn.functional.normalize(normals[0], dim=-1)
        else:
            normal = _flat_normals(vertices, faces, face_id, seen)
        surface = torch.cat([paint, covered], dim=-1)
        if self.config.antialias and len(faces):
            depth = covered[..., 1]
            edges = self._edges(mesh, faces)
            blends = find_blends(points, faces, edges, fine, face_id, depth, cull)
            surface, normal = blends.apply(surface), blends.apply(normal)
        if factor > 1:
            surface, normal = box_filter(surface, factor), box_filter(normal, factor)
        return surface, normal

    def _edges(self, mesh: TriMesh, faces: Int[Tensor, "F 3"]) -> Edges:
        """The mesh's edges, remembered: comparing what they follow from costs a tenth of finding them."""
        corners = faces if mesh.uvs is None else find_places(mesh.vertices)[faces]
        known = self._known
        if known is None or not (_same(known[0], faces) and _same(known[1], corners)):
            known = self._known = (faces.clone(), corners.clone(), find_edges(faces, corners))
        return known[2]


def _same(one: Tensor, two: Tensor) -> bool:
    return one.device == two.device and torch.equal(one, two)


def _check_faces(faces: Tensor, count: int) -> None:
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= count):
        raise ValueError(
            f"faces must name vertices 0 to {count - 1}, got {int(faces.min())} to {int(faces.max())}"
        )


def _colors(mesh: TriMesh) -> Float[Tensor, "V 3"]:
    if mesh.vertex_colors is None:
        return torch.full_like(mesh.vertices, _GREY, requires_grad=False)
    return mesh.vertex_colors


def _flat_normals(vertices: Tensor, faces: Tensor, face_id: Tensor, seen: Tensor) -> Float[Tensor, "B H W 3"]:
    normals = face_normals(vertices, faces).index_select(0, face_id[seen].long())
    return vertices.new_zeros(*seen.shape, 3).index_put((seen,), normals)
