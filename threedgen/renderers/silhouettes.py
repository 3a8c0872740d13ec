"""Silhouette antialiasing: pixels are blended across the outlines of a mesh, with gradients to the vertices.

As in nvdiffrast (Laine et al. 2020, section 3.4), where an outline crosses the line between two neighbouring pixel
centres, one of the two colours is mixed into the other by an amount that is linear in the place of the crossing, so
that the picture changes smoothly when the outline moves. Steep outlines blend along rows and flat ones along
columns, so that each piece of an outline counts once and the sum of a silhouette's pixels grows with its area.

Unlike there, all outlines are traversed (edges between a face seen from the front and one seen from the back,
and edges of a single face), not only the edges of the faces that pixels see. So a mesh whose triangles are
smaller than a pixel keeps its gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.types import Cameras
from threedgen.renderers.mesh_shading import facing, rays

_PRIME = 1_000_003


@dataclass(frozen=True)
class Edges:
    """The edges of a mesh.

    ends: [E, 2] vertices in their order in the first face. first: [E] a face. second: [E] the face on the other
    side, -1 if there is none. opposed: [E] whether the second face has the vertices in the other order, as in a
    consistently oriented mesh.
    """

    ends: Int[Tensor, "E 2"]
    first: Int[Tensor, " E"]
    second: Int[Tensor, " E"]
    opposed: Bool[Tensor, " E"]


@dataclass(frozen=True)
class Blends:
    """K blends of pixels with flat indices: image[target] += weight (image[source] - image[target])."""

    target: Int[Tensor, " K"]
    source: Int[Tensor, " K"]
    weight: Float[Tensor, " K"]

    def apply(self, image: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """The blended image. All blends use the pixels of the given image."""
        flat = image.flatten(0, 2)
        change = self.weight[:, None] * (
            flat.index_select(0, self.source) - flat.index_select(0, self.target)
        )
        return flat.index_add(0, self.target, change).view(image.shape)


@torch.no_grad()
def find_places(vertices: Float[Tensor, "V 3"]) -> Int[Tensor, " V"]:
    """For each vertex the first one with the same coordinates, which represents their place."""
    whole = torch.int32 if vertices.dtype == torch.float32 else torch.int64
    bits = (vertices.detach().contiguous() + 0.0).view(whole).long()  # + 0: -0 becomes 0
    key = (bits[:, 0] * _PRIME ^ bits[:, 1]) * _PRIME ^ bits[:, 2]
    places = _first(torch.unique(key, return_inverse=True)[1])
    if not torch.equal(bits[places], bits):  # two places with one key
        places = _first(torch.unique(bits, dim=0, return_inverse=True)[1])  # 30 times slower
    return places


def _first(group: Int[Tensor, " V"]) -> Int[Tensor, " V"]:
    """For each item the first item of its group."""
    item = torch.arange(len(group), device=group.device)
    return torch.full_like(item, len(group)).scatter_reduce_(0, group, item, "amin")[group]


@torch.no_grad()
def find_edges(faces: Int[Tensor, "F 3"], corners: Int[Tensor, "F 3"] | None = None) -> Edges:
    """The edges of a mesh. An edge of three faces or more is a border of each of them.

    corners: the place of each face's corners (`find_places`) if seams double vertices, as in a textured mesh,
    so that a seam is no outline; None: each vertex has its own place.
    """
    corners = faces if corners is None else corners
    halves = torch.stack([faces, faces.roll(-1, 1)], dim=-1).flatten(0, 1)  # [3F, 2] in the order of the face
    keys = torch.stack([corners, corners.roll(-1, 1)], dim=-1).flatten(0, 1)
    forward = keys[:, 0] < keys[:, 1]
    size = int(corners.max()) + 1 if len(corners) else 1
    key = keys.amin(1) * size + keys.amax(1)
    ordered, order = torch.sort(key, stable=True)
    _, counts = torch.unique_consecutive(ordered, return_counts=True)
    start = counts.cumsum(0) - counts
    pairs, others = start[counts == 2], counts != 2
    lone = torch.repeat_interleave(others, counts)  # per half edge, in sorted order
    first = torch.cat([order[pairs], order[lone]])
    mate = order[pairs + 1]
    missing = torch.full_like(first[len(mate) :], -1)
    opposed = torch.cat([forward[order[pairs]] != forward[mate], torch.ones_like(missing, dtype=torch.bool)])
    second = torch.cat([mate // 3, missing])
    return Edges(halves[first], first // 3, second, opposed)


def find_blends(
    points: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    edges: Edges,
    cameras: Cameras,
    face_id: Int[Tensor, "B H W"],
    depth: Float[Tensor, "B H W"],
    cull: bool,
) -> Blends:
    """The blends of neighbouring pixels of a render between which an outline runs; the weights are
    differentiable in points.

    points: vertices in the cameras' own axes. depth: camera z at each pixel. cull: faces that look away from
    the camera are not drawn. The weights with which a pixel is replaced are at most 1 in sum.
    """
    chosen = _crossings(points.detach(), faces, edges, cameras, face_id, depth.detach(), cull)
    inside, outside = chosen.inside, chosen.outside
    pixels = cameras.height * cameras.width
    view = inside // pixels
    row, column = (inside % pixels) // cameras.width, inside % cameras.width
    ends = points.flatten(0, 1)[edges.ends[chosen.edge] + (view * points.shape[1])[:, None]]
    intrinsics = cameras.intrinsics[view]
    dx, dy = rays(intrinsics, row, column)
    z = ends[..., 2]
    x, y = ends[..., 0] - dx[:, None] * z, ends[..., 1] - dy[:, None] * z
    # The edge's image is the line c + p lx + q ly = 0, with (p, q) relative to the inner pixel's centre.
    c = x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]
    along_x, along_y = y[:, 0] * z[:, 1] - y[:, 1] * z[:, 0], z[:, 0] * x[:, 1] - z[:, 1] * x[:, 0]
    slope = torch.where(chosen.steep, along_x / intrinsics[:, 0, 0], along_y / intrinsics[:, 1, 1])
    step = torch.where(outside > inside, 1.0, -1.0)
    place = (-c / slope * step).clamp(0.0, 1.0)  # of the crossing: 0 at the inner centre, 1 at the outer
    weight = 0.5 - place
    inner = weight.detach() > 0
    target, source = torch.where(inner, inside, outside), torch.where(inner, outside, inside)
    weight = weight.abs()
    total = weight.new_zeros(face_id.numel()).index_add(0, target, weight)
    return Blends(target, source, weight / total[target].clamp(min=1.0))


@dataclass(frozen=True)
class _Crossings:
    """inside, outside: flat indices of neighbouring pixels. edge: the outline between them. steep: whether they
    are side by side."""

    inside: Int[Tensor, " K"]
    outside: Int[Tensor, " K"]
    edge: Int[Tensor, " K"]
    steep: Bool[Tensor, " K"]


@torch.no_grad()
def _crossings(
    points: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    edges: Edges,
    cameras: Cameras,
    face_id: Int[Tensor, "B H W"],
    depth: Float[Tensor, "B H W"],
    cull: bool,
) -> _Crossings:
    """One outline for each pair of neighbouring pixels that outlines separate."""
    height, width = cameras.height, cameras.width
    front = facing(points, faces)
    view, edge = _outlines(front, edges, cull)
    ends = points[view[:, None], edges.ends[edge]]
    pixels, inverse_z = _project(ends, cameras, view)
    delta = (pixels[:, 1] - pixels[:, 0]).abs()
    steep = delta[:, 1] >= delta[:, 0]
    # `major` is the coordinate in which the edge is longer: y for steep edges, x for flat ones.
    major = torch.where(steep[:, None], pixels[..., 1], pixels[..., 0])
    minor = torch.where(steep[:, None], pixels[..., 0], pixels[..., 1])
    size = torch.where(steep, height, width).to(major)
    first = (major.amin(1) - 0.5).ceil().nan_to_num(0.0).clamp(min=0.0).minimum(size)
    last = (major.amax(1) - 0.5).ceil().nan_to_num(0.0).clamp(min=0.0).minimum(size)
    finite = pixels.isfinite().all(-1).all(-1)
    counts = torch.where(finite, (last - first).clamp(min=0.0), 0.0).long()
    item = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    line = (
        torch.arange(len(item), device=item.device) - (counts.cumsum(0) - counts)[item] + first[item].long()
    )
    along = (line + 0.5 - major[item, 0]) / (major[item, 1] - major[item, 0])
    across = minor[item, 0] + along * (minor[item, 1] - minor[item, 0]) - 0.5
    near_z = inverse_z[item, 0] + along * (inverse_z[item, 1] - inverse_z[item, 0])
    below = across.floor()
    steep, view, edge = steep[item], view[item], edge[item]
    room = torch.where(steep, width, height) - 2
    inner_above = _inner_side(ends, edges, front, view, edge, item, steep)
    kept = torch.nonzero((below >= 0) & (below <= room)).squeeze(-1)
    steep, view, edge, line, inner_above = (value[kept] for value in (steep, view, edge, line, inner_above))
    below, across, near_z = below[kept].long(), across[kept], near_z[kept]
    at, stride = torch.where(steep, line * width + below, below * width + line), torch.where(steep, 1, width)
    low = at + view * (height * width)
    inside, outside = low + stride * inner_above, low + stride * ~inner_above
    fraction = across - below
    place = torch.where(inner_above, 1.0 - fraction, fraction)
    ids = face_id.flatten()
    distance = torch.where(ids >= 0, depth.flatten(), torch.inf)
    separates = (ids[inside] >= 0) & (distance[inside] < distance[outside]) & (near_z * distance[outside] > 1)
    kept = torch.nonzero(separates).squeeze(-1)
    # Of several outlines between two pixels, only the outermost borders on what lies behind.
    order = kept[torch.argsort(place[kept], descending=True, stable=True)]
    pair = low[order] * 2 + steep[order]
    order = order[torch.argsort(pair, stable=True)]
    pair = low[order] * 2 + steep[order]
    order = order[torch.cat([pair.new_ones(1, dtype=torch.bool), pair[1:] != pair[:-1]])[: len(pair)]]
    return _Crossings(inside[order], outside[order], edge[order], steep[order])


def _outlines(
    front: Bool[Tensor, "B F"], edges: Edges, cull: bool
) -> tuple[Int[Tensor, " K"], Int[Tensor, " K"]]:
    """(view, edge) of the edges at which the drawn surface ends or turns away from the camera."""
    own = front[:, edges.first]
    lone = edges.second < 0
    other = front[:, edges.second.clamp(min=0)] == edges.opposed
    outline = lone & own if cull else lone.expand(own.shape)
    view, edge = torch.nonzero(outline | (~lone & (own != other)), as_tuple=True)
    return view, edge


def _project(
    ends: Float[Tensor, "K 2 3"], cameras: Cameras, view: Int[Tensor, " K"]
) -> tuple[Float[Tensor, "K 2 2"], Float[Tensor, "K 2"]]:
    """Pixel positions and 1/z of the ends of edges that are cut at the near plane; NaN if both ends are behind
    it."""
    z = ends[..., 2]
    along = (cameras.near - z[:, 0]) / (z[:, 1] - z[:, 0])
    cut = ends[:, 0] + along[:, None] * (ends[:, 1] - ends[:, 0])
    cut[:, 2] = cameras.near
    behind = z < cameras.near
    seen = torch.where(behind[..., None], cut[:, None], ends)
    seen = torch.where(behind.all(1)[:, None, None], torch.nan, seen)
    intrinsics = cameras.intrinsics[view]
    focal, principal = intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2], intrinsics[:, None, :2, 2]
    inverse_z = 1.0 / seen[..., 2]
    return focal * seen[..., :2] * inverse_z[..., None] + principal, inverse_z


def _inner_side(
    ends: Float[Tensor, "K 2 3"],
    edges: Edges,
    front: Bool[Tensor, "B F"],
    view: Int[Tensor, " M"],
    edge: Int[Tensor, " M"],
    item: Int[Tensor, " M"],
    steep: Bool[Tensor, " M"],
) -> Bool[Tensor, " M"]:
    """Whether the face is on the side of larger x (steep) or y (flat) of its edge.

    The line through the edge's image is d.(a x b) = 0. On the face's side d.(a x b) has the sign of the face's
    determinant, which is negative if it faces the camera.
    """
    normal = torch.linalg.cross(ends[:, 0], ends[:, 1])
    towards = torch.where(steep, normal[item, 0], normal[item, 1]) > 0
    return towards != front[view, edges.first[edge]]
