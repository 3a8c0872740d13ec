"""The renderer of triangle meshes, differentiable in vertices, colours and texture."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.rendering import BackgroundColors
from threedgen.core.roles import RendererRoles
from threedgen.core.settings import between, settings
from threedgen.core.types import Cameras, RenderOutput, TriMesh
from threedgen.renderers import backends
from threedgen.renderers.base import split_background
from threedgen.renderers.mesh_shading import box_filter, face_normals, sample_texture, to_camera
from threedgen.renderers.silhouettes import Edges, find_blends, find_edges, find_places

_GREY = 0.5  # the colour of a mesh without colours


@settings
class Config:
    """How meshes are rendered.

    Attributes:
        backend: The library that renders: native (CPU), pytorch3d (CUDA), nvdiffrast (CUDA), torch (slow), or auto,
            which takes the fastest for the mesh's device, but never nvdiffrast, whose licence is not free.
        backfaces: Whether to draw both sides of a face, or to cull the faces that look away from the camera.
        antialias: Whether to blend pixels across outlines. Without it no gradient moves an outline.
        supersampling: Factor by which pictures are rendered larger on each side and then averaged.
    """

    backend: str = "auto"
    backfaces: Literal["draw", "cull"] = "draw"
    antialias: bool = True
    supersampling: Annotated[int, between(1, 8)] = 1


class MeshRenderer(RendererRoles):
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
        background: BackgroundColors,
        /,
        rng: torch.Generator | None = None,
    ) -> RenderOutput:
        """The pictures [B, H, W] of a mesh. No random numbers are drawn from `rng`.

        The colours are those of the texture if the mesh has uvs and a texture, else those of the vertices, else mid
        grey; they are shown as they are, without light. depth is alpha x camera z. normal is alpha x the unit
        normal in the world: the mesh's own, interpolated, or that of its faces. Faces are cut at the near
        plane; the picture of a mesh without faces is the background. Float64 meshes are rendered by the torch
        backend, the only one that keeps the precision. Gradients reach all tensors of the mesh, and the
        background, but not the cameras.

        background: [3], [B, 3] or [B, H, W, 3]. Raises UserError if the configured backend is not available, and
        ValueError for a background of another shape or a face that names a vertex that does not exist.
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
        """(rgb over black, alpha, alpha x camera z), and alpha x normal."""
        vertices, factor = mesh.vertices, self.config.supersampling
        if vertices.dtype == torch.float64:
            name = "torch"
        else:
            name = backends.choose("mesh", self.config.backend, vertices.device)
        backend = backends.load("mesh", name)
        fine = cameras.resized(cameras.height * factor, cameras.width * factor)
        points, cull = to_camera(vertices, fine), self.config.backfaces == "cull"
        face_id = backend.visible_faces(points.detach(), faces, fine, cull)
        seen = torch.nonzero(face_id >= 0, as_tuple=True)  # once, because a GPU is waited for at each mask
        textured = mesh.texture is not None and mesh.uvs is not None
        columns = [mesh.uvs if textured else _colors(mesh)]
        columns += [] if mesh.normals is None else [mesh.normals]
        widths = [column.shape[1] for column in columns]  # type: ignore[union-attr]
        attributes = torch.cat([column.to(vertices) for column in columns], dim=1)  # type: ignore[union-attr]
        image = backend.interpolate(points, faces, fine, face_id, attributes)
        paint, *normals, covered = image.split([*widths, 2], dim=-1)
        if textured:
            assert mesh.texture is not None
            colors = sample_texture(mesh.texture.to(vertices), paint[seen])
            paint = paint.new_zeros(*face_id.shape, 3).index_put(seen, colors)
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
        """The mesh's edges. They are kept: comparing the faces that they depend on takes a tenth of the time of
        finding them."""
        corners = faces if mesh.uvs is None else find_places(mesh.vertices)[faces]
        known = self._known
        if known is None or not (_same(known[0], faces) and _same(known[1], corners)):
            known = self._known = (faces.clone(), corners.clone(), find_edges(faces, corners))
        return known[2]


def _same(one: Tensor, two: Tensor) -> bool:
    return one.device == two.device and torch.equal(one, two)


def _check_faces(faces: Tensor, count: int) -> None:
    if not len(faces):
        return
    least, most = torch.stack(torch.aminmax(faces)).tolist()  # a GPU is asked once
    if least < 0 or most >= count:
        raise ValueError(f"faces must name vertices 0 to {count - 1}, got {least} to {most}")


def _colors(mesh: TriMesh) -> Float[Tensor, "V 3"]:
    if mesh.vertex_colors is None:
        return torch.full_like(mesh.vertices, _GREY, requires_grad=False)
    return mesh.vertex_colors


def _flat_normals(
    vertices: Tensor, faces: Tensor, face_id: Tensor, seen: tuple[Tensor, ...]
) -> Float[Tensor, "B H W 3"]:
    normals = face_normals(vertices, faces).index_select(0, face_id[seen].long())
    return vertices.new_zeros(*face_id.shape, 3).index_put(seen, normals)
