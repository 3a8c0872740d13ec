"""Pictures of things in layers, what their paints are, and the true pictures of the canonical thing of a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core.types import Cameras
from threedgen.datasets import world
from threedgen.datasets.cut_outs import framing, moved
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.painted_mesh import PaintedMesh
from threedgen.datasets.things.captions import Palette, palette
from threedgen.datasets.things.catalogue import read_thing
from threedgen.datasets.things.painted_layers import Paints, find_paints, painted_layers
from threedgen.datasets.things.thing_class import COLORS, FIXED_PAINTS, PAINTS, ThingClass
from threedgen.datasets.things.thing_set import ThingSource

GIVEN = (
    30.0,
    15.0,
)  # azimuth and elevation in degrees of the picture of which a view prior shows other sides
SIDES = tuple(GIVEN[0] + 22.5 + 45.0 * side for side in range(8))  # degrees, azimuths of these


@dataclass(frozen=True)
class ObjectLook:
    """The own colours of a catalogue object.

    colors: [2, 3], of its paints, display-referred; zero for a paint that it does not have. palette: the names and
    the shares of its colours.
    """

    colors: Float[Tensor, "2 3"]
    palette: Palette

    @property
    def paints(self) -> int:
        """How many paints can have other colours: 0, 1 or 2."""
        return sum(name is not None for name in self.palette.own)


def class_layers(
    source: ThingSource,
    cameras: Cameras,
    rng: np.random.Generator | None = None,
    light: Sequence[float] = world.LIGHT,
) -> Float[Tensor, "B H W 6"]:
    """Layers (see `world.render_layers`) of a random thing of a class, or of the canonical one. light: see
    `world.shade`."""
    layered = world.layered([source.pieces(rng)], PAINTS, FIXED_PAINTS)
    return world.render_layers(layered, cameras, len(PAINTS), light)


@dataclass(frozen=True)
class LoadedObject:
    """A catalogue object that was read. look: its own colours."""

    painted: PaintedMesh
    paints: Paints
    look: ObjectLook

    def layers(self, cameras: Cameras, light: Sequence[float] = world.LIGHT) -> Float[Tensor, "B H W 6"]:
        """See `world.render_layers`. light: see `world.shade`."""
        return painted_layers(self.painted, self.paints, cameras, light)


def load_object(source: ThingSource, unpacked: Path | None = None) -> LoadedObject:
    """Reads a catalogue object. unpacked: a folder that keeps unpacked models. Raises UserError as `read_thing`
    does."""
    assert source.item is not None
    painted = read_thing(source.item, unpacked)
    paints = find_paints(painted, source.item.words.recolored)
    return LoadedObject(painted, paints, ObjectLook(paints.colors, palette(painted, paints)))


def object_layers(source: ThingSource, cameras: Cameras) -> tuple[Float[Tensor, "B H W 6"], ObjectLook]:
    """Layers of a catalogue object and its own colours. Raises UserError as `read_thing` does."""
    item = load_object(source)
    return item.layers(cameras), item.look


def natural_colors(
    thing: ThingClass, color: str | None = None, second: str | None = None
) -> Float[Tensor, "2 3"]:
    """The colours of the two paints of a class: those named, else the first natural ones that differ. Raises
    KeyError for a colour that is not in COLORS."""
    main = color or thing.natural[0]
    others = [name for name in thing.second if name != main] or ["white"]
    return torch.tensor([COLORS[main], COLORS[second or others[0]]])


def true_views(
    source: ThingSource,
    azimuths: Sequence[float],
    elevation: float,
    size: int,
    color: str | None = None,
    second: str | None = None,
) -> PosedPictures:
    """The pictures on white that measure a model: of the canonical thing of a class, or of a catalogue object.

    azimuths, elevation: degrees. size: pixels. color, second: names of COLORS for the two paints; None means the
    first natural colour of a class and the own colours of an object. Raises KeyError for another colour.
    """
    count = len(azimuths)
    cameras = orbit(
        torch.tensor([float(azimuth) for azimuth in azimuths]),
        torch.full((count,), float(elevation)),
        torch.full((count,), DISTANCE),
        FOV,
        size,
        size,
    )
    if source.thing is not None:
        layers = class_layers(source, cameras)
        colors = natural_colors(source.thing, color, second)
    else:
        layers, look = object_layers(source, cameras)
        colors = look.colors.clone()
        for paint, name in enumerate((color, second)):
            if name is not None:
                colors[paint] = torch.tensor(COLORS[name])
    images = world.compose(layers, colors.expand(count, -1, -1), torch.ones(count, 3))
    return PosedPictures(images.clamp(0.0, 1.0), layers[..., -1:].clamp(0.0, 1.0), cameras)


def unseen_sides(source: ThingSource, size: int) -> PosedPictures:
    """The picture of a catalogue object that a view prior is given to be measured, framed as the cut-out of it is,
    and after it the true pictures of SIDES, from the same height. size: pixels. Raises UserError as `read_thing`
    does."""
    item, azimuths = load_object(source), torch.tensor([GIVEN[0], *SIDES])
    full = torch.ones_like(azimuths)
    cameras = orbit(azimuths, GIVEN[1] * full, DISTANCE * full, FOV, size, size)
    shift, scale = framing(cameras[:1], lambda camera: item.layers(camera)[0, ..., -1])
    layers = item.layers(moved(cameras, shift, scale))
    images = world.compose(layers, item.look.colors.expand(len(full), -1, -1), torch.ones(len(full), 3))
    return PosedPictures(images.clamp(0.0, 1.0), layers[..., -1:].clamp(0.0, 1.0), cameras)
