"""What the pieces of a bank of views show: things with names, random assemblies, and scenes of the shape world,
each in drawn colours, light and proportions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.random import derive_seed
from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets import assemblies, world
from threedgen.datasets.assemblies import Assembly, render_assembly, sample_assembly
from threedgen.datasets.things.thing_class import FIXED_PAINTS, PAINTS
from threedgen.datasets.things.thing_set import ThingSet, ThingSource, code_stamp
from threedgen.datasets.things.thing_views import LoadedObject, load_object
from threedgen.datasets.things.wording import Coat, draw_coat, draw_object, phrase
from threedgen.datasets.world import LayeredMesh, Scene
from threedgen.training.config import SceneBankConfig
from threedgen.training.render_bank import ELEVATION, RADIUS
from threedgen.training.things_store import Piece, cameras_of

VIEWS_PER_SCENE = 8
SOURCES_PER_SCENE = 4
"""Only the first views of a scene are sources. They are from elevations at which people take pictures."""
SOURCE_ELEVATION = (-10.0, 40.0)  # degrees
SCENES_A_PIECE = 100
PAIR_SHARE = 0.2  # of the scenes of the shape world
_AS_IT_IS = 0.3  # share of the things that keep their proportions
_STRETCH = 0.25  # standard deviation of the logarithm of the factor along each axis, of the others
_LEAN = 0.15  # and of the tangent of the angle by which they lean to the front or the back

Rgba = Float[Tensor, "V H W 4"]  # premultiplied, in [0, 1]
Light = tuple[float, float, float]


class Subject(NamedTuple):
    """What a scene shows. render: its pictures from cameras. caption: a text for it, without colours where they are
    not known."""

    render: Callable[[Cameras], Rgba]
    caption: str


class Rig:
    """The cameras of a scene: VIEWS_PER_SCENE around it, those of sources first."""

    count: ClassVar[int] = VIEWS_PER_SCENE
    stretches: ClassVar[bool] = True
    """Whether things are seen in other proportions than their own as well."""

    def angles(self, rng: np.random.Generator) -> Float[Tensor, "V 3"]:
        """Azimuth and elevation in degrees and distance of each view."""
        draw = torch.from_numpy(rng.random((3, VIEWS_PER_SCENE))).float()
        low, high = ELEVATION
        elevation = low + (high - low) * draw[1]
        low, high = SOURCE_ELEVATION
        elevation[:SOURCES_PER_SCENE] = low + (high - low) * draw[1, :SOURCES_PER_SCENE]
        azimuth = 360.0 * draw[0]
        # Half of the first sources see the front, from which most things are their own mirror image.
        if rng.random() < 0.5:
            azimuth[0] = 30.0 * draw[0, 0] - 15.0
        return torch.stack([azimuth, elevation, RADIUS[0] + (RADIUS[1] - RADIUS[0]) * draw[2]], dim=1)

    def cameras(self, angles: Float[Tensor, "V 3"], size: int, subject: Subject) -> Cameras:
        """The cameras of the views of `subject`."""
        del subject  # is where it is
        return cameras_of(angles, size)


class ScenePiece(ABC):
    """`count` scenes with the views of a rig each.

    name: unique in a bank; the random numbers depend on it. kind: its share of a batch. stamp: changes when the
    pictures do.
    """

    kind = ""

    def __init__(self, name: str, stamp: str, count: int, rig: Rig) -> None:
        self.name, self.count, self.rig = name, count, rig
        self.stamp = f"{code_stamp(__name__)} {stamp} {count}"
        if type(rig) is not Rig:
            self.stamp += f" {code_stamp(type(rig).__module__)}"

    @abstractmethod
    def subjects(self, draws: Sequence[np.random.Generator]) -> Iterator[Subject]:
        """What each scene shows, drawn from its numbers."""

    def shape(self, size: int) -> tuple[int, int, int, int]:
        """The shape of the layers, for pictures of `size` pixels."""
        return (self.count * self.rig.count, size, size, 4)

    def render(self, size: int, seed: int) -> Piece:
        """The piece, a function of the piece and the seed."""
        draws = [
            np.random.default_rng(derive_seed(seed, f"views {self.name}", index))
            for index in range(self.count)
        ]
        angles = [self.rig.angles(rng) for rng in draws]
        layers, captions = [], []
        for turned, subject in zip(angles, self.subjects(draws), strict=True):
            rgba = subject.render(self.rig.cameras(turned, size, subject))
            layers.append((rgba.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8))
            captions.append(subject.caption)
        return Piece(
            torch.cat(layers), torch.cat(angles), torch.zeros(self.count, 0), captions=tuple(captions)
        )


def _light(rng: np.random.Generator) -> Light:
    """The direction of a light from above (see `world.shade`)."""
    return float(rng.normal()), float(rng.uniform(0.2, 1.5)), float(rng.normal())


def _filled(layers: Float[Tensor, "V H W L"], colors: Float[Tensor, "P 3"]) -> Rgba:
    """Layers in the colours of their paints."""
    count = len(layers)
    shown = world.compose(layers, colors.expand(count, -1, -1), torch.zeros(count, 3))
    return torch.cat([shown, layers[..., -1:]], dim=-1)


def stretched(mesh: TriMesh, rng: np.random.Generator) -> TriMesh:
    """A mesh in other proportions, of the same radius about the origin: factors along the axes, and a lean to the
    front or the back, which leaves the left its right's mirror image.

    The objects of the catalogue are few, and a model learns them by heart: on others it then errs twice as much.
    """
    keeps, factors, lean = rng.random() < _AS_IT_IS, rng.normal(0.0, _STRETCH, 3), rng.normal(0.0, _LEAN)
    if keeps:
        return mesh
    shape = torch.diag(torch.from_numpy(np.exp(factors))).float()
    shape[2, 1] = float(lean) * shape[1, 1]
    vertices = mesh.vertices @ shape.T
    radii = [float(points.norm(dim=1).max()) for points in (mesh.vertices, vertices)]
    vertices = vertices * (radii[0] / radii[1])
    normals = mesh.normals
    if normals is not None:
        normals = torch.nn.functional.normalize(normals @ torch.linalg.inv(shape), dim=1)
    return replace(mesh, vertices=vertices, normals=normals)


class ClassScenes(ScenePiece):
    """Random things of the classes of a word, which take turns."""

    kind = "classes"

    def __init__(self, word: str, sources: Sequence[ThingSource], count: int, rig: Rig) -> None:
        super().__init__(f"class {word}", " ".join(source.stamp() for source in sources), count, rig)
        self.sources = sources

    def subjects(self, draws: Sequence[np.random.Generator]) -> Iterator[Subject]:
        for index, rng in enumerate(draws):
            source = self.sources[index % len(self.sources)]
            light = _light(rng)
            layered = world.layered([source.pieces(rng)], PAINTS, FIXED_PAINTS)
            if self.rig.stretches:
                layered = replace(layered, mesh=stretched(layered.mesh, rng))
            coat = draw_coat(source, rng)

            def render(
                cameras: Cameras, layered: LayeredMesh = layered, light: Light = light, coat: Coat = coat
            ) -> Rgba:
                layers = world.render_layers(layered, cameras, len(PAINTS), light)
                return _filled(layers, torch.tensor(coat.colors))

            yield Subject(render, phrase(source.word, coat.named))


class ObjectScenes(ScenePiece):
    """An object of the catalogue."""

    kind = "objects"

    def __init__(self, source: ThingSource, count: int, rig: Rig) -> None:
        super().__init__(f"object {source.name}", source.stamp(), count, rig)
        self.source = source

    def subjects(self, draws: Sequence[np.random.Generator]) -> Iterator[Subject]:
        item = load_object(self.source)  # once, because it takes longer than its pictures
        for rng in draws:
            light = _light(rng)
            colors, caption = draw_object(self.source, item.look, rng)
            shaped = item
            if self.rig.stretches:
                mesh = stretched(item.painted.mesh, rng)
                shaped = replace(item, painted=replace(item.painted, mesh=mesh))

            def render(
                cameras: Cameras, shaped: LoadedObject = shaped, light: Light = light, colors: Tensor = colors
            ) -> Rgba:
                return _filled(shaped.layers(cameras, light), colors)

            yield Subject(render, caption)


class AssemblyScenes(ScenePiece):
    """Random assemblies."""

    kind = "assemblies"

    def __init__(self, number: int, count: int, rig: Rig) -> None:
        super().__init__(f"assemblies {number}", code_stamp(assemblies.__name__), count, rig)

    def subjects(self, draws: Sequence[np.random.Generator]) -> Iterator[Subject]:
        for rng in draws:
            assembly = sample_assembly(rng)

            def render(cameras: Cameras, assembly: Assembly = assembly) -> Rgba:
                picture, alpha = render_assembly(assembly, cameras)
                return torch.cat([picture - (1.0 - alpha), alpha], dim=-1)

            yield Subject(render, "")


class ShapeScenes(ScenePiece):
    """Scenes of the shape world."""

    kind = "shapes"

    def __init__(self, number: int, count: int, rig: Rig) -> None:
        super().__init__(f"shapes {number}", code_stamp(world.__name__), count, rig)

    def subjects(self, draws: Sequence[np.random.Generator]) -> Iterator[Subject]:
        for rng in draws:
            pair = rng.random() < PAIR_SHARE
            scene = world.sample_pair(rng) if pair else Scene((world.sample_object(rng),))

            def render(cameras: Cameras, scene: Scene = scene) -> Rgba:
                picture, alpha = world.render(scene, cameras, (0.0, 0.0, 0.0))
                return torch.cat([picture, alpha], dim=-1)

            yield Subject(render, scene.caption)


def scene_pieces(things: ThingSet | None, config: SceneBankConfig, rig: Rig) -> list[ScenePiece]:
    """The pieces of a bank, as many scenes as `config` says, each with the views of `rig`."""
    pieces: list[ScenePiece] = []
    if things is not None:
        for word in things.words:
            if config.class_scenes and things.classes(word):
                pieces.append(ClassScenes(word, things.classes(word), config.class_scenes, rig))
            if config.object_scenes:
                pieces += [ObjectScenes(source, config.object_scenes, rig) for source in things.objects(word)]
    for kind, count in ((AssemblyScenes, config.assemblies), (ShapeScenes, config.shapes)):
        starts = range(0, count, SCENES_A_PIECE)
        pieces += [kind(n, min(SCENES_A_PIECE, count - start), rig) for n, start in enumerate(starts)]
    return pieces
