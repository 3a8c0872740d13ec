"""Groups of views around objects, for models of several views at once: a picture, a ring, and other views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.random import generator
from threedgen.datasets.normal_maps import mirrored
from threedgen.training.ring_rig import FIRST, OTHER, OTHERS, RING, NormalRingRig, RingRig
from threedgen.training.view_bank import SceneBank, ViewBatch, on_white

_PICTURE = 0.6  # chance that the picture of a pair is the one by which its scene is framed
GROUPS = (4, 6, 12)
"""Numbers of views of a group, which are a whole turn of the ring."""
GROUP_SIZES = f"{', '.join(map(str, GROUPS[:-1]))} or {GROUPS[-1]}"


@dataclass(frozen=True)
class RingBatch:
    """A batch of B groups of V views, with O other views of each object.

    picture: of each object, taken from the azimuth of the first view of its group; premultiplied RGB and alpha, as
    all pictures here. picture_angles: its azimuth and elevation in degrees and distance. views, angles: of the
    group. others, other_angles: from anywhere. captions: a text for each object, "" where there is none.
    """

    picture: Float[Tensor, "B H W 4"]
    picture_angles: Float[Tensor, "B 3"]
    views: Float[Tensor, "B V H W 4"]
    angles: Float[Tensor, "B V 3"]
    others: Float[Tensor, "B O H W 4"]
    other_angles: Float[Tensor, "B O 3"]
    captions: tuple[str, ...]


class RingBank(SceneBank):
    """Views of scenes from the cameras of a RingRig; see SceneBank."""

    rig = RingRig()

    def batch(self, count: int, seed: int, step: int, views: int = 4, free: bool = False) -> RingBatch:
        """`count` random groups of `views` views, as a function of (seed, step).

        Scenes are mirrored at random, and where no caption names their colours, channels are exchanged. free: the
        captions are left out, and the colours of all scenes are exchanged. Raises ValueError for a number of views
        that is not in GROUPS.
        """
        if views not in GROUPS:
            raise ValueError(f"a group has {GROUP_SIZES} views, not {views}")
        rng = generator(seed, "ring-batch", step)
        scene = self.drawn(count, rng)
        captions = tuple("" if free else self.captions[index] for index in scene.tolist())
        ring = FIRST + torch.arange(0, RING, RING // views)
        shown = torch.cat([torch.tensor([0]), ring, torch.arange(OTHER, OTHER + OTHERS)])
        channels = _exchanged(count, rng)
        named = torch.tensor([bool(text) for text in captions])
        channels = torch.where(named[:, None], torch.arange(4), channels)
        flip = torch.rand(count, generator=rng) < 0.5

        layers, angles = self.seen(scene, shown, channels, flip)
        # Mirrored, the ring runs the other way round: its views are put into rising order again.
        order = torch.arange(len(shown)).repeat(count, 1)
        order[flip, 2 : 1 + views] = order[flip, 2 : 1 + views].flip(1)
        layers = torch.gather(layers, 1, order[:, :, None, None, None].expand_as(layers))
        angles = torch.gather(angles, 1, order[:, :, None].expand_as(angles))
        return RingBatch(
            layers[:, 0],
            angles[:, 0],
            layers[:, 1 : 1 + views],
            angles[:, 1 : 1 + views],
            layers[:, 1 + views :],
            angles[:, 1 + views :],
            captions,
        )


class NormalRingBank(RingBank):
    """The same with normals in the frame of the object in place of the colours of all views but the pictures; see
    `threedgen.datasets.normal_maps`."""

    rig = NormalRingRig()

    def seen(
        self,
        scene: Int[Tensor, " B"],
        shown: Int[Tensor, "B V"] | Int[Tensor, " V"],
        channels: Int[Tensor, "B 4"],
        flip: Bool[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B V H W 4"], Float[Tensor, "B V 3"]]:
        """As that of SceneBank. The channels of normals stay as they are, and mirrored ones change their sign along
        x. The first of `shown` is the picture."""
        picture, first = super().seen(scene, shown[..., :1], channels, flip)
        as_they_are = torch.arange(4).expand_as(channels)
        maps, others = super().seen(scene, shown[..., 1:], as_they_are, flip)
        maps = torch.where(flip[:, None, None, None, None], mirrored(maps), maps)
        return torch.cat([picture, maps], dim=1), torch.cat([first, others], dim=1)


class FramedViewBank(SceneBank):
    """The views of a RingBank as pairs of a picture and other views of what it shows; see ViewBatch."""

    rig = RingRig()

    def batch(self, count: int, seed: int, step: int, views: int = 1) -> ViewBatch:
        """`count` random pictures, each with `views` of the other views of its scene, as a function of (seed,
        step). A picture is the one by which the scene is framed, or one of the ring, of which most fill as much.

        Colour channels are exchanged and scenes are mirrored at random: then the azimuths relative to the picture
        change their sign.
        """
        rng = generator(seed, "framed-view-batch", step)
        scene = self.drawn(count, rng)
        source = torch.randint(FIRST, FIRST + RING, (count,), generator=rng)
        source = torch.where(torch.rand(count, generator=rng) < _PICTURE, 0, source)
        likes = torch.rand(count, self.rig.count, generator=rng)
        likes[:, OTHER:] += 0.5  # they are fewer, and show what is above and below
        likes[torch.arange(count), source] = -1.0
        shown = torch.cat([source[:, None], likes.argsort(dim=1, descending=True)[:, :views]], dim=1)
        flip = torch.rand(count, generator=rng) < 0.5
        layers, angles = self.seen(scene, shown, _exchanged(count, rng), flip)
        known, relative = angles[:, 0].clone(), angles[:, 1:]
        relative[..., 0] -= known[:, :1]
        return ViewBatch(on_white(layers[:, 0]), known, layers[:, 1:], relative)


def _exchanged(count: int, rng: torch.Generator) -> Int[Tensor, "B 4"]:
    """Colour channels in random orders, alpha in its place."""
    channels = torch.argsort(torch.rand(count, 3, generator=rng), dim=1)
    return torch.cat([channels, torch.full((count, 1), 3)], dim=1)
