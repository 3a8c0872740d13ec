"""Assemblies: random objects of a few solids attached to one another, mostly symmetric, with painted surfaces.

They teach a view-conditioned prior what the named classes of the shape world cannot: shapes without a name, several
colours on one object, gradients, stripes and blotches, and light from any direction. Like those of most real
objects, their left side tends to mirror their right side. Every draw is from the numpy generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets import solids
from threedgen.datasets.solids import Solid
from threedgen.datasets.world import SUPERSAMPLING
from threedgen.renderers.rasterize import box_filter, interpolate, rasterize

_KINDS = ("ellipsoid", "box", "cylinder", "cone", "torus")
_SHARES = (0.45, 0.22, 0.15, 0.1, 0.08)
_RADIUS = (0.78, 0.95)  # world units, of bounding spheres; cut-outs of pictures are framed for 0.89


@dataclass(frozen=True)
class Assembly:
    """A mesh of P pieces and how they are painted.

    piece: [V], the index of the piece to which a vertex belongs. colors: [P, 2, 3], two paints for each piece.
    pattern: [P, 5], how the two mix: a wave vector of 3 numbers, a phase in radians, and a share (0 is the first
    paint alone). light: [3], the unit vector towards the light. ambient: share of light from all sides,
    in [0, 1].
    """

    mesh: TriMesh
    piece: Int[Tensor, " V"]
    colors: Float[Tensor, "P 2 3"]
    pattern: Float[Tensor, "P 5"]
    light: Float[Tensor, " 3"]
    ambient: float


def sample_assembly(rng: np.random.Generator) -> Assembly:
    """A random object, its largest piece first, that fills a sphere of radius 0.78 to 0.95 world units about the
    middle of its bounding box."""
    symmetric = rng.random() < 0.7
    pieces = [_solid(rng, rng.uniform(0.35, 0.7))]
    pieces[0] = pieces[0].moved((0.0 if symmetric else rng.uniform(-0.1, 0.1), 0.0, 0.0))
    paints = [0]
    palette = _palette(rng)
    for index in range(1, rng.integers(2, 9)):
        base = pieces[rng.integers(len(pieces))]
        attached = _attached(base, _solid(rng, rng.uniform(0.08, 0.4)), rng)
        paint = int(rng.integers(len(palette)))
        in_the_middle = abs(attached.vertices[:, 0].mean()) < 0.12
        if symmetric and in_the_middle:
            attached = attached.moved((-float(attached.vertices[:, 0].mean()), 0.0, 0.0))
        pieces.append(attached)
        paints.append(paint if index > 1 else 1 % len(palette))
        if symmetric and not in_the_middle:
            pieces.append(_mirrored(attached))
            paints.append(paints[-1])
    return _painted(pieces, [palette[paint] for paint in paints], rng)


def render_assembly(
    assembly: Assembly, cameras: Cameras
) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 1"]]:
    """Anti-aliased pictures on white, and alphas. Each fine pixel has the paint of its point of the surface."""
    mesh = assembly.mesh
    assert mesh.normals is not None
    fine = cameras.resized(cameras.height * SUPERSAMPLING, cameras.width * SUPERSAMPLING)
    visibility = rasterize(mesh, fine)
    seen = visibility.face_id >= 0
    values = interpolate(visibility, mesh.faces, torch.cat([mesh.vertices, mesh.normals], dim=1))[seen]
    piece = assembly.piece[mesh.faces[visibility.face_id[seen].long(), 0]]
    wave = torch.sin((assembly.pattern[piece, :3] * values[:, :3]).sum(1) + assembly.pattern[piece, 3])
    mix = (assembly.pattern[piece, 4] * (0.5 + 1.5 * wave)).clamp(0.0, 1.0)[:, None]
    albedo = torch.lerp(assembly.colors[piece, 0], assembly.colors[piece, 1], mix)
    normals = torch.nn.functional.normalize(values[:, 3:], dim=1)
    lit = (normals @ assembly.light).clamp_min(0.0)[:, None]
    pixels = torch.zeros(*seen.shape, 4)
    pixels[seen] = torch.cat(
        [albedo * (assembly.ambient + (1.0 - assembly.ambient) * lit), torch.ones_like(lit)], 1
    )
    picture = box_filter(pixels, SUPERSAMPLING)
    return picture[..., :3] + (1.0 - picture[..., 3:]), picture[..., 3:]


def _solid(rng: np.random.Generator, size: float) -> Solid:
    """A random solid of about `size` world units in radius, stretched and rotated."""
    kind = rng.choice(_KINDS, p=_SHARES)
    stretch = np.exp(rng.uniform(-0.5, 0.5, 3))
    stretch *= size / stretch.max()
    match kind:
        case "box":
            solid = solids.box((1.5, 1.5, 1.5))
        case "cylinder":
            solid = solids.cylinder(0.85, 1.8, 20)
        case "cone":
            solid = solids.cone(0.9, 1.8, 20)
        case "torus":
            solid = solids.torus(0.75, 0.25, segments=24, sides=12)
        case _:
            solid = solids.sphere(1.0, 20)
    # The normals of a stretched surface transform by the inverse of the stretch.
    normals = solid.normals / stretch
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    solid = Solid(solid.vertices * stretch, normals, solid.faces)
    upright = rng.random() < 0.5
    for axis in "xyz":
        turn = 90.0 * rng.integers(4) if upright else rng.uniform(0.0, 360.0)
        solid = solid.rotated(solids.rotation_about(axis, turn))
    return solid


def _attached(base: Solid, solid: Solid, rng: np.random.Generator) -> Solid:
    """`solid` moved to a random vertex of `base`, about half sunk into it."""
    root = rng.integers(len(base.vertices))
    reach = 0.6 * np.abs(solid.vertices @ base.normals[root]).max()
    return solid.moved(tuple(base.vertices[root] + rng.uniform(0.2, 1.0) * reach * base.normals[root]))


def _mirrored(solid: Solid) -> Solid:
    """The mirror image at x = 0, with the order of corners reversed: counter-clockwise seen from outside."""
    flip = np.array([-1.0, 1.0, 1.0])
    return Solid(solid.vertices * flip, solid.normals * flip, solid.faces[:, ::-1])


def _palette(rng: np.random.Generator) -> list[np.ndarray]:
    """Two to five paints of two colours each, [2, 3]: of any hue, and some white, black, grey or brown."""
    import colorsys

    def color() -> tuple[float, float, float]:
        grey = rng.random() < 0.25
        hue, saturation = rng.random(), 0.15 * rng.random() if grey else rng.uniform(0.3, 0.95)
        return colorsys.hsv_to_rgb(hue, saturation, rng.uniform(0.1, 1.0) if grey else rng.uniform(0.35, 1.0))

    return [np.array([color(), color()]) for _ in range(rng.integers(2, 6))]


def _painted(pieces: list[Solid], paints: list[np.ndarray], rng: np.random.Generator) -> Assembly:
    count = len(pieces)
    offsets = np.cumsum([0, *(len(piece.vertices) for piece in pieces[:-1])])
    vertices = np.concatenate([piece.vertices for piece in pieces])
    low, high = vertices.min(0), vertices.max(0)
    vertices = vertices - 0.5 * (low + high)
    vertices *= rng.uniform(*_RADIUS) / np.linalg.norm(vertices, axis=1).max()
    yaw = solids.rotation_about(
        "y", rng.uniform(-20.0, 20.0) if rng.random() < 0.6 else rng.uniform(0.0, 360.0)
    )
    normals = np.concatenate([piece.normals for piece in pieces])
    faces = np.concatenate([piece.faces + offset for piece, offset in zip(pieces, offsets, strict=True)])
    pattern = np.column_stack(
        [
            rng.normal(size=(count, 3)) * np.exp(rng.uniform(0.5, 2.6, (count, 1))),
            rng.uniform(0.0, 2.0 * np.pi, count),
            np.where(rng.random(count) < 0.45, rng.uniform(0.3, 1.0, count), 0.0),
        ]
    )
    light = np.array([rng.normal(), rng.uniform(0.2, 1.5), rng.normal()])
    mesh = TriMesh(
        torch.from_numpy(vertices @ yaw.T).float(),
        torch.from_numpy(faces.astype(np.int64)),
        normals=torch.from_numpy(normals @ yaw.T).float(),
    )
    return Assembly(
        mesh,
        torch.from_numpy(np.repeat(np.arange(count), [len(piece.vertices) for piece in pieces])),
        torch.from_numpy(np.stack(paints)).float(),
        torch.from_numpy(pattern).float(),
        torch.from_numpy(light / np.linalg.norm(light)).float(),
        float(rng.uniform(0.55, 0.95)),
    )
