"""The scene that a picture and a noisy view of it decode to: a PictureField which a second picture has a say in.

The field of a picture alone is the mean of what it may show (`threedgen.guidance.priors.picture_field`). A noisy
view from elsewhere says which one it is: the planes are mixed from what was seen in both pictures, and the features
of its pixels are added to those of the context where they show a point, with weights of their own (pixelNeRF has
one weight for all views, but a view of pure noise must be able to say nothing). With these weights at zero, where
they begin, the field is that of the context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.cameras.orbit import VIEW_FEATURES, view_features
from threedgen.core.types import Cameras
from threedgen.guidance.priors.picture_encoder import PictureArchitecture, PictureEncoder
from threedgen.guidance.priors.picture_field import (
    HIDDEN,
    PLACE,
    DecodedPicture,
    DecodedPictures,
    LookedAt,
    PictureField,
    places_of,
    values_at,
)
from threedgen.guidance.priors.processes import per_sample
from threedgen.kernels.field_rendering import FieldLayers
from threedgen.kernels.field_training import SeenPoints

CHANNELS = 4  # of an observation: premultiplied RGB and alpha, in [-1, 1]
ESTIMATE = 16  # pixels along each side of the estimate of the step before


@dataclass(frozen=True)
class NoisyViews:
    """Noisy views of B scenes.

    noisy: alpha x + sigma eps. estimate: of x at every so many pixels, see `thinned`; zero: there is none. alpha,
    sigma: of each. cameras: theirs, in the frame of the fields.
    """

    noisy: Float[Tensor, "B 4 H W"]
    estimate: Float[Tensor, "B 4 E E"]
    alpha: Float[Tensor, " B"]
    sigma: Float[Tensor, " B"]
    cameras: Cameras


class DecodedView(NamedTuple):
    """One noisy view. features, colors: of its pixels."""

    features: Float[Tensor, "F h w"]
    colors: Float[Tensor, "8 H W"]
    camera: Cameras


class DecodedScene(NamedTuple):
    """One scene; see DecodedScenes."""

    context: DecodedPicture
    view: DecodedView

    @property
    def occupied(self) -> Bool[Tensor, "G G G"] | None:
        return self.context.occupied


@dataclass(frozen=True)
class DecodedScenes:
    """B scenes. context: their fields as far as the context shows pixels of them. features, colors: of the pixels
    of the noisy views. cameras: those of the noisy views."""

    context: DecodedPictures
    features: Float[Tensor, "B F h w"]
    colors: Float[Tensor, "B 8 H W"]
    cameras: Cameras

    @property
    def occupied(self) -> Bool[Tensor, "B G G G"] | None:
        return self.context.occupied

    @property
    def azimuth(self) -> Float[Tensor, " B"]:
        """From which side of the object each context was taken, in degrees."""
        return self.context.azimuth

    def each(self) -> list[DecodedScene]:
        """The scenes one by one."""
        seen = zip(self.context.each(), self.features.unbind(), self.colors.unbind(), strict=True)
        return [
            DecodedScene(context, DecodedView(features, colors, self.cameras[index : index + 1]))
            for index, (context, features, colors) in enumerate(seen)
        ]


class SceneField(PictureField):
    """Context pictures and noisy views -> scenes -> premultiplied colours and alphas from any camera.

    `look` sees the context, `scenes` decodes both, and `decoded` what the context alone shows.
    """

    without_gradient = False  # that kernel looks at one picture only

    def __init__(self, architecture: PictureArchitecture) -> None:
        super().__init__(architecture)
        a = architecture
        self.noisy_encoder = PictureEncoder(a, 2 * CHANNELS + 2, VIEW_FEATURES + 2)
        self.heard = nn.Linear(a.seen, HIDDEN)
        self.second = nn.Linear(a.features + 2 * CHANNELS + PLACE, a.hidden, bias=False)
        for weights in (self.heard.weight, self.heard.bias, self.second.weight):
            nn.init.zeros_(weights)

    def alone(self, looked: LookedAt) -> DecodedPictures:
        """The fields of context pictures that were looked at."""
        return self.decoded(looked, self.mix(looked.told))

    def scenes(self, looked: LookedAt, views: NoisyViews) -> DecodedScenes:
        """The scenes of contexts that were looked at and of a noisy view of each."""
        size = self.architecture.size
        levels = torch.stack([views.alpha, views.sigma], dim=1)
        # What is lost in noise is not shown: the network between has no time of its own.
        estimate = F.interpolate(views.estimate, (size, size), mode="bilinear", align_corners=False)
        colors = torch.cat([per_sample(views.alpha, views.noisy) * views.noisy, estimate], dim=1)
        flat = levels[:, :, None, None].expand(-1, -1, size, size)
        told = torch.cat([view_features(views.cameras), levels], dim=1)
        vector, features = self.noisy_encoder(torch.cat([views.noisy, estimate, flat], dim=1), told)
        mixed = self.mix[1:](self.mix[0](looked.told) + self.heard(vector))
        return DecodedScenes(self.decoded(looked, mixed), features.float(), colors.float(), views.cameras)

    def raw(self, one: DecodedScene | DecodedPicture, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M 4"]:
        if isinstance(one, DecodedPicture):
            return super().raw(one, points)
        view = one.view
        place, pixel = (values[0] for values in places_of(view.camera, points[None]))
        seen = torch.cat([values_at(view.features, pixel), values_at(view.colors, pixel)]).transpose(0, 1)
        return self.answer(self.first(one.context, points) + self.second(torch.cat([seen, place], dim=1)))

    def layers(self, decoded: DecodedScenes | DecodedPictures | DecodedPicture) -> FieldLayers:
        return super().layers(decoded.context if isinstance(decoded, DecodedScenes) else decoded)

    def seen_points(
        self,
        decoded: DecodedScenes | DecodedPictures,
        owner: Int[Tensor, " B"],
        points: Float[Tensor, "B N S 3"],
    ) -> SeenPoints:
        if isinstance(decoded, DecodedPictures):
            return super().seen_points(decoded, owner, points)
        context = super().seen_points(decoded.context, owner, points)
        places, pixel = places_of(decoded.cameras[owner], points.flatten(1, 2))
        grid = pixel[:, None]
        seen = [
            F.grid_sample(values[owner], grid, padding_mode="border", align_corners=False)[:, :, 0]
            for values in (decoded.features, decoded.colors)
        ]
        numbers = torch.cat([torch.cat(seen, dim=1).transpose(1, 2), places], dim=2)
        return SeenPoints(context.pixels, context.added + self.second(numbers).view_as(context.added))


def thinned(size: int) -> Int[Tensor, " N"]:
    """The row-major pixels, of a picture of `size` pixels a side, of which an estimate is kept: one in each of
    ESTIMATE x ESTIMATE blocks."""
    block = size // ESTIMATE
    along = torch.arange(ESTIMATE) * block + block // 2
    return (along[:, None] * size + along).flatten()


def as_estimate(values: Float[Tensor, "B N 4"]) -> Float[Tensor, "B 4 E E"]:
    """Estimates in [-1, 1] at the pixels of `thinned`, as NoisyViews has them."""
    return values.transpose(1, 2).unflatten(2, (ESTIMATE, ESTIMATE))


def signed(shown: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What a field shows, in [0, 1], as an observation in [-1, 1]."""
    return 2.0 * shown - 1.0
