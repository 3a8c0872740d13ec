"""The shape world: coloured objects, captions, and their exact pictures.

A scene of it holds one object or a stack of two ("a red cube on a blue cylinder"). The light is fixed in the world,
so a point of a surface has the same colour from everywhere (Lambert), and colours that do not depend on the view
can explain every picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.material import Light
from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets.normal_maps import encoded
from threedgen.datasets.shapes import CLASSES, COLORS, FIXED_PAINTS, Piece
from threedgen.renderers.rasterize import box_filter, interpolate, rasterize

# The light: ambient, and one directional source from above, the front and the right. Display-referred.
AMBIENT = 0.58
DIFFUSE = 0.42
LIGHT = (0.45, 0.75, 0.48)
FIXED_LIGHT = Light(AMBIENT, DIFFUSE, LIGHT)
"""The light of all pictures of this world, and of those of things. Models that learn only from them say so."""

# Pairs of (colour, class) that the embedded prior is never trained on: they test that it combines the two.
HELD_OUT = frozenset({("green", "cube"), ("purple", "torus"), ("orange", "chair"), ("cyan", "car")})

PAIR_TOPS = ("sphere", "cube", "cylinder", "cone", "torus")
PAIR_BOTTOMS = ("cube", "cylinder")
STACK_RADIUS = 0.87  # world units, of the bounding sphere of a stack
SUPERSAMPLING = 3  # pixels per side of each pixel that are rendered and averaged


@dataclass(frozen=True)
class WorldObject:
    """One object. shape: its class. color: the name of its colour. parameters: those of the class."""

    shape: str
    color: str
    parameters: dict[str, float]

    @property
    def phrase(self) -> str:
        """Its caption, such as "a red cube"."""
        article = "an" if self.color[0] in "aeiou" else "a"
        return f"{article} {self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One object, or two with the first standing on the second."""

    objects: tuple[WorldObject, ...]

    @property
    def caption(self) -> str:
        """Such as "a red cube on a blue cylinder"."""
        return " on ".join(item.phrase for item in self.objects)


@dataclass(frozen=True)
class LayeredMesh:
    """The mesh of a scene before it is painted.

    owner: [V], the index of the paint that a vertex takes, -1 if it has a fixed colour. Object i of P paints has
    the paints i P to i P + P - 1. fixed: [V, 3], the fixed colours.
    """

    mesh: TriMesh
    owner: Tensor
    fixed: Float[Tensor, "V 3"]


def canonical(shape: str, color: str) -> Scene:
    """An object of a class with the middle of all its parameters, in the given colour."""
    return Scene((WorldObject(shape, color, CLASSES[shape].canonical()),))


def sample_object(rng: np.random.Generator, shapes: tuple[str, ...] | None = None) -> WorldObject:
    """A random object of the given classes (None: all), drawn by their weights, never of a pair in HELD_OUT."""
    names = list(CLASSES) if shapes is None else list(shapes)
    weights = np.array([CLASSES[name].weight for name in names])
    shape = names[rng.choice(len(names), p=weights / weights.sum())]
    colors = [color for color in COLORS if (color, shape) not in HELD_OUT]
    return WorldObject(shape, colors[rng.integers(len(colors))], CLASSES[shape].sample(rng))


def sample_pair(rng: np.random.Generator) -> Scene:
    """A random stack of two simple objects of different colours."""
    while True:
        top, bottom = sample_object(rng, PAIR_TOPS), sample_object(rng, PAIR_BOTTOMS)
        if top.color != bottom.color:
            return Scene((top, bottom))


def build(scene: Scene) -> LayeredMesh:
    """The exact mesh of a scene. A stack is centred and scaled to fit the unit sphere."""
    return layered([CLASSES[item.shape].build(**item.parameters) for item in scene.objects])


def layered(
    objects: Sequence[Sequence[Piece]],
    paints: Sequence[str] = ("main",),
    fixed_paints: Mapping[str, tuple[float, float, float]] = FIXED_PAINTS,
) -> LayeredMesh:
    """The mesh of the pieces of one object, or of two objects of which the first is put on the second.

    paints: the names of the paints that are colours of a caption. fixed_paints: the colours of the others.
    """
    blocks, bounds = [], []
    for index, pieces in enumerate(objects):
        vertices, normals, faces, owner, fixed = [], [], [], [], []
        count = 0
        for solid, paint in pieces:
            vertices.append(solid.vertices)
            normals.append(solid.normals)
            faces.append(solid.faces + count)
            size = len(solid.vertices)
            count += size
            owner.append(np.full(size, index * len(paints) + paints.index(paint) if paint in paints else -1))
            fixed.append(np.tile(fixed_paints.get(paint, (0.0, 0.0, 0.0)), (size, 1)))
        blocks.append([np.concatenate(rows) for rows in (vertices, normals, faces, owner, fixed)])
        bounds.append((blocks[-1][0].min(axis=0), blocks[-1][0].max(axis=0)))
    if len(blocks) == 2:
        _stack(blocks, bounds)
    offsets = np.cumsum([0] + [len(block[0]) for block in blocks[:-1]])
    faces = np.concatenate([block[2] + offset for block, offset in zip(blocks, offsets, strict=True)])
    vertices, normals, owner, fixed = (np.concatenate([b[i] for b in blocks]) for i in (0, 1, 3, 4))
    mesh = TriMesh(
        torch.from_numpy(vertices).float(), torch.from_numpy(faces), normals=torch.from_numpy(normals).float()
    )
    return LayeredMesh(mesh, torch.from_numpy(owner), torch.from_numpy(fixed).float())


def _stack(blocks: list[list[np.ndarray]], bounds: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Puts block 0 on block 1, centres both and scales them to the bounding radius STACK_RADIUS, all in place."""
    blocks[0][0] = blocks[0][0] - np.array([0.0, bounds[0][0][1], 0.0])
    blocks[1][0] = blocks[1][0] - np.array([0.0, bounds[1][1][1], 0.0])
    points = np.concatenate([blocks[0][0], blocks[1][0]])
    centre = np.array([0.0, 0.5 * (points[:, 1].max() + points[:, 1].min()), 0.0])
    scale = STACK_RADIUS / np.linalg.norm(points - centre, axis=1).max()
    for block in blocks:
        block[0] = (block[0] - centre) * scale


def shade(normals: Float[Tensor, "V 3"], light: Sequence[float] = LIGHT) -> Float[Tensor, "V 1"]:
    """The factor of the colour by Lambert's law: AMBIENT + DIFFUSE max(0, n . light), in [AMBIENT, 1].

    light: towards the source, of any length.
    """
    x, y, z = light
    return Light(AMBIENT, DIFFUSE, (x, y, z)).shade(normals)


def paint(scene: Scene, layered: LayeredMesh | None = None) -> TriMesh:
    """The mesh of a scene with shaded vertex colours, as its pictures show it."""
    layered = build(scene) if layered is None else layered
    palette = torch.tensor([COLORS[item.color] for item in scene.objects])
    main = (layered.owner >= 0).unsqueeze(1)
    albedo = torch.where(main, palette[layered.owner.clamp_min(0)], layered.fixed)
    normals = layered.mesh.normals
    assert normals is not None
    return TriMesh(
        layered.mesh.vertices, layered.mesh.faces, vertex_colors=albedo * shade(normals), normals=normals
    )


def render_layers(
    layered: LayeredMesh, cameras: Cameras, objects: int = 2, light: Sequence[float] = LIGHT
) -> Float[Tensor, "B H W L"]:
    """Anti-aliased layers: the shade of the main paint of each of `objects` objects, the fixed colours, alpha.

    A picture is sum_i layer_i color_i + fixed + (1 - alpha) background, so one render gives it in any colours.
    """
    normals = layered.mesh.normals
    assert normals is not None
    shading = shade(normals, light)
    mains = torch.stack([(layered.owner == i).float() for i in range(objects)], dim=1) * shading
    values = torch.cat([mains, layered.fixed * shading, torch.ones_like(shading)], dim=1)
    fine = cameras.resized(cameras.height * SUPERSAMPLING, cameras.width * SUPERSAMPLING)
    visibility = rasterize(layered.mesh, fine)
    return box_filter(interpolate(visibility, layered.mesh.faces, values), SUPERSAMPLING)


def render_normals(mesh: TriMesh, cameras: Cameras) -> Float[Tensor, "B H W 4"]:
    """Anti-aliased maps of the normals of a mesh that has some, in its own frame, as `normal_maps.encoded` writes
    them."""
    assert mesh.normals is not None
    values = torch.cat([mesh.normals, torch.ones_like(mesh.normals[:, :1])], dim=1)
    fine = cameras.resized(cameras.height * SUPERSAMPLING, cameras.width * SUPERSAMPLING)
    shown = interpolate(rasterize(mesh, fine), mesh.faces, values)
    return box_filter(encoded(shown[..., :3], shown[..., 3:]), SUPERSAMPLING)


def compose(
    layers: Float[Tensor, "B H W L"], colors: Float[Tensor, "B O 3"], background: Float[Tensor, "B 3"]
) -> Float[Tensor, "B H W 3"]:
    """Pictures from layers (see `render_layers`), in the colours of objects and background for each view."""
    objects = colors.shape[1]
    main = torch.einsum("bhwo,boc->bhwc", layers[..., :objects], colors)
    return main + layers[..., objects:-1] + (1.0 - layers[..., -1:]) * background[:, None, None, :]


def render(
    scene: Scene, cameras: Cameras, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 1"]]:
    """The exact pictures and alphas of a scene, with which benchmarks compare."""
    count = len(scene.objects)
    layers = render_layers(build(scene), cameras, count)
    palette = torch.tensor([COLORS[item.color] for item in scene.objects]).expand(len(cameras), -1, -1)
    picture = compose(layers, palette, torch.tensor(background).expand(len(cameras), 3))
    return picture, layers[..., -1:]
