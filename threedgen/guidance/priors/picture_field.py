"""A radiance field that a picture decodes to: what a view prior takes the object in the picture for.

An encoder looks at the picture. Three feature planes (EG3D, Chan et al. 2022, arXiv:2112.07945), which are shares
of learnt ones as in `text_field`, hold the whole object, also where the picture does not show it; features of the
pixel at which the picture shows a point hold what it does show (pixelNeRF, Yu et al. 2021, arXiv:2012.02190).

The field stands in the frame of the object, whose front is towards azimuth 0, and the encoder also guesses from
which side the picture was taken. In the frame of the picture instead, every side would be an object of its own to
learn, and one that is askew to the planes: eight objects took four times as many steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.cameras.orbit import FOV, orbit, picture_features, turned
from threedgen.core.transfer import constant, rows
from threedgen.core.types import Cameras
from threedgen.guidance.priors import radiance_field
from threedgen.guidance.priors.picture_encoder import PictureArchitecture, PictureEncoder
from threedgen.guidance.priors.radiance_field import (
    DENSITY,
    EXTENT,
    RadianceField,
    doubled_planes,
    premultiplied,
)
from threedgen.kernels.field_rendering import FieldLayers, FieldPart, Seen
from threedgen.kernels.field_training import SeenPoints
from threedgen.kernels.plane_sampling import sample_planes

_WAVES = (1.0, 2.0, 4.0)  # of the depth of a point behind its pixel, in units of pi a world unit
PLACE = 6 + 2 * len(_WAVES)  # numbers that say where a point is
HIDDEN = 384  # width between a picture and the shares of the learnt planes
BINS = 36  # azimuths among which that of a picture is guessed
_SIDE = 12  # numbers that say from which side a picture was taken


class DecodedPicture(NamedTuple):
    """One picture, decoded; see DecodedPictures."""

    planes: Float[Tensor, "3 P P C"]
    features: Float[Tensor, "F h w"]
    picture: Float[Tensor, "3 H W"]
    scale: Float[Tensor, " N"]
    offset: Float[Tensor, " N"]
    camera: Cameras
    occupied: Bool[Tensor, "G G G"] | None


@dataclass(frozen=True)
class DecodedPictures:
    """B pictures, decoded.

    planes: in the layout of `sample_planes`. features: of pixels. pictures: in [-1, 1]. scale, offset: of the
    hidden layer. cameras: those of the pictures. azimuth: theirs in degrees. sides: logits of BINS azimuths, of
    what it looks like. occupied: see `radiance_field.One`.
    """

    planes: Float[Tensor, "B 3 P P C"]
    features: Float[Tensor, "B F h w"]
    pictures: Float[Tensor, "B 3 H W"]
    scale: Float[Tensor, "B N"]
    offset: Float[Tensor, "B N"]
    cameras: Cameras
    azimuth: Float[Tensor, " B"]
    sides: Float[Tensor, "B S"]
    occupied: Bool[Tensor, "B G G G"] | None = None

    def each(self) -> list[DecodedPicture]:
        """The pictures one by one."""
        occupied = [None] * len(self.planes) if self.occupied is None else self.occupied.unbind()
        tensors = zip(
            self.planes.unbind(),
            self.features.unbind(),
            self.pictures.unbind(),
            self.scale.unbind(),
            self.offset.unbind(),
            strict=True,
        )
        return [
            DecodedPicture(*values, self.cameras[index : index + 1], cells)
            for index, (values, cells) in enumerate(zip(tensors, occupied, strict=True))
        ]


@dataclass(frozen=True)
class LookedAt:
    """B pictures that an encoder has looked at.

    told: what was seen in them, and from which side. known: elevation in degrees and distance of their cameras.
    features: of pixels. pictures, cameras, azimuth, sides: see DecodedPictures.
    """

    told: Float[Tensor, "B S"]
    known: Float[Tensor, "B 2"]
    features: Float[Tensor, "B F h w"]
    pictures: Float[Tensor, "B 3 H W"]
    cameras: Cameras
    azimuth: Float[Tensor, " B"]
    sides: Float[Tensor, "B A"]

    def __getitem__(self, index: Int[Tensor, " n"]) -> LookedAt:
        values = {item.name: getattr(self, item.name)[index] for item in fields(self)}
        return LookedAt(**values)


class PictureField(RadianceField):
    """Pictures of objects -> premultiplied colours and alphas from any camera."""

    architecture: PictureArchitecture
    blob = (-1.0, 3.0)  # one that is opaque everywhere stays so: nothing behind its surface has a gradient

    def __init__(self, architecture: PictureArchitecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.encoder = PictureEncoder(a)
        self.azimuth = nn.Linear(a.seen, BINS)
        self.mix = nn.Sequential(
            nn.Linear(a.seen + _SIDE, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, a.rank), nn.SiLU()
        )
        self.texels = nn.Linear(a.rank, 3 * a.channels * a.side**2)
        nn.init.normal_(self.texels.weight, std=0.5 / a.rank**0.5)
        nn.init.normal_(self.texels.bias, std=0.1)
        self.modulation = nn.Linear(a.rank, 2 * a.hidden)
        # Sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158): the work is done before the texels are doubled.
        self.refine = nn.Sequential(
            nn.Conv2d(a.channels, 2 * a.channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * a.channels, 4 * a.channels, 3, padding=1),
            nn.PixelShuffle(2),
        )
        known = 3 * a.channels + a.features + 3 + PLACE
        self.inner = nn.Linear(known, a.hidden)
        self.between = nn.Linear(a.hidden, a.hidden)
        self.outer = nn.Linear(a.hidden, 4)

    def forward(
        self,
        pictures: Float[Tensor, "B 3 H W"],
        known: Float[Tensor, "B 2"],
        cameras: Cameras,
        owner: Int[Tensor, " V"] | None = None,
        pixels: Int[Tensor, "V N"] | None = None,
        shift: Float[Tensor, "V N S"] | None = None,
    ) -> Float[Tensor, "V N 4"]:
        """See `decode`, `seen_from` and `RadianceField.render`."""
        decoded = self.decode(pictures, known)
        return self.render(decoded, seen_from(decoded, cameras, owner), owner, pixels, shift)

    def decode(
        self,
        pictures: Float[Tensor, "B 3 H W"],
        known: Float[Tensor, "B 2"],
        azimuth: Float[Tensor, " B"] | None = None,
        kept: Float[Tensor, "B S"] | None = None,
    ) -> DecodedPictures:
        """The fields of pictures in [-1, 1] on white; see `look`."""
        looked = self.look(pictures, known, azimuth, kept)
        return self.decoded(looked, self.mix(looked.told))

    def look(
        self,
        pictures: Float[Tensor, "B 3 H W"],
        known: Float[Tensor, "B 2"],
        azimuth: Float[Tensor, " B"] | None = None,
        kept: Float[Tensor, "B S"] | None = None,
    ) -> LookedAt:
        """What the encoder sees in pictures in [-1, 1] on white.

        known: the elevation in degrees and the distance of the camera of each. azimuth: from which side of the
        object each was taken, in degrees; None: from where it looks as if it was. kept: factors of the vectors of
        what was seen, for dropout (Srivastava et al. 2014) in a training.
        """
        a = self.architecture
        elevation, distance = known.float().unbind(1)
        pose = picture_features(elevation, distance, 0.5 / math.tan(math.radians(0.5 * FOV)), 1)
        seen, features = self.encoder(pictures, pose)
        if kept is not None:
            seen = seen * kept.to(seen)
        sides = self.azimuth(seen).float()
        if azimuth is None:
            azimuth = likely(sides)
        told = torch.cat([seen, _waves_of(azimuth).to(seen)], dim=1)
        cameras = orbit(azimuth, elevation, distance, FOV, a.size, a.size)
        return LookedAt(told, known, features.float(), pictures.float(), cameras, azimuth, sides)

    def decoded(self, looked: LookedAt, mixed: Float[Tensor, "B R"]) -> DecodedPictures:
        """The fields of pictures that were looked at. mixed: shares of the learnt planes, see `mix`."""
        a = self.architecture
        planes = doubled_planes(self.texels(mixed).view(-1, 3 * a.channels, a.side, a.side), self.refine)
        scale, offset = self.modulation(mixed).float().chunk(2, dim=1)
        seen = looked.features, looked.pictures, scale, offset
        return DecodedPictures(planes, *seen, looked.cameras, looked.azimuth, looked.sides)

    def raw(self, one: DecodedPicture, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M 4"]:
        return self.answer(self.first(one, points))

    def first(self, one: DecodedPicture, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M N"]:
        """What the first layer says of points."""
        place, pixel = (values[0] for values in places_of(one.camera, points[None]))
        seen = torch.cat([values_at(one.features, pixel), values_at(one.picture, pixel)]).transpose(0, 1)
        planes = sample_planes(one.planes, points / EXTENT).flatten(1)
        return self.inner(torch.cat([planes, seen, place], dim=1)) * (1.0 + one.scale) + one.offset

    def answer(self, first: Float[Tensor, "M N"]) -> Float[Tensor, "M 4"]:
        """Raw colours and raw densities of points of which the first layer has spoken."""
        return self.outer(F.silu(self.between(F.silu(first))))

    def layers(self, decoded: DecodedPictures | DecodedPicture) -> FieldLayers:
        planes, features, _ = self._first_layer(decoded)
        return FieldLayers(
            planes=premultiplied(decoded.planes, planes.unflatten(-2, (3, -1))),
            first=self.inner.bias * (1.0 + decoded.scale) + decoded.offset,
            outer=self.outer.weight,
            last=self.outer.bias,
            blob=(*self.blob, DENSITY),
            between=(self.between.weight, self.between.bias),
            features=premultiplied(decoded.features.movedim(-3, -1), features),
        )

    def part(self, one: DecodedPicture) -> FieldPart:
        colors, place = self._first_layer(one)[2].split((3, PLACE))
        k = one.camera.intrinsics[0]
        seen = Seen(
            colors=premultiplied(one.picture.movedim(-3, -1), colors),
            world_from_camera=one.camera.world_from_camera[0],
            focal=torch.stack([k[0, 0], k[1, 1]]) * (2.0 / one.camera.width),
            waves=place.new_tensor(_WAVES) * torch.pi,
            place=place,
        )
        return FieldPart(self.layers(one), one.occupied, seen)

    def seen_points(
        self, decoded: DecodedPictures, owner: Int[Tensor, " B"], points: Float[Tensor, "B N S 3"]
    ) -> SeenPoints:
        places, pixel = places_of(decoded.cameras[owner], points.flatten(1, 2))
        colors = F.grid_sample(
            decoded.pictures[owner], pixel[:, None], padding_mode="border", align_corners=False
        )
        numbers = torch.cat([colors[:, :, 0].transpose(1, 2), places], dim=2)
        added = numbers @ self._first_layer(decoded)[2][owner]
        shape = points.shape[:-1]
        return SeenPoints(pixel.view(*shape, 2), added.view(*shape, -1))

    def _first_layer(self, decoded: DecodedPictures | DecodedPicture) -> tuple[Tensor, ...]:
        """The rows of the modulated first layer, [*T, J, H], for the planes, for the features of pixels, and for
        the colours of pixels and the places of points."""
        a, weight = self.architecture, self.inner.weight * (1.0 + decoded.scale).unsqueeze(-1)
        return weight.mT.split((3 * a.channels, a.features, 3 + PLACE), dim=-2)


class FromASide(Protocol):
    """What was seen from a side of an object each."""

    @property
    def azimuth(self) -> Float[Tensor, " B"]:
        """That side, in degrees."""
        ...


def seen_from(decoded: FromASide, cameras: Cameras, owner: Int[Tensor, " V"] | None = None) -> Cameras:
    """Cameras in the frame of a picture, whose own camera is at azimuth 0, in that of the field. owner: see
    `RadianceField.render`."""
    azimuth = decoded.azimuth.to(cameras.device)
    return turned(cameras, azimuth if owner is None else rows(azimuth, owner))


def likely(sides: Float[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """The azimuths in degrees that logits make most likely: the mean direction of the best bin and its
    neighbours."""
    chance = sides.softmax(1)
    best = chance.argmax(1, keepdim=True)
    near = (best + torch.arange(-1, 2, device=sides.device)) % BINS
    angle = torch.deg2rad(near * (360.0 / BINS))
    weight = chance.gather(1, near)
    return torch.rad2deg(torch.atan2((weight * angle.sin()).sum(1), (weight * angle.cos()).sum(1)))


def soft_bins(azimuth: Float[Tensor, " B"]) -> Float[Tensor, "B S"]:
    """The shares of BINS azimuths in an azimuth in degrees, which lies between two of them."""
    place = torch.remainder(azimuth * (BINS / 360.0), BINS)
    low = place.floor()
    share = (place - low)[:, None]
    first = F.one_hot(low.long() % BINS, BINS)
    return first * (1.0 - share) + first.roll(1, 1) * share


def _waves_of(azimuth: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
    angle = torch.deg2rad(azimuth)[:, None] * torch.arange(1, _SIDE // 2 + 1, device=azimuth.device)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def places_of(
    cameras: Cameras, points: Float[Tensor, "B M 3"]
) -> tuple[Float[Tensor, "B M P"], Float[Tensor, "B M 2"]]:
    """Where points are in the world and behind the pixels of a camera of theirs, and these pixels in [-1, 1]."""
    pose, k = cameras.world_from_camera, cameras.intrinsics
    local = (points - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    depth = local[..., 2:].clamp_min(1e-3)
    focal = k.diagonal(dim1=1, dim2=2)[:, None, :2] * (2.0 / cameras.width)
    pixel = local[..., :2] / depth * focal
    behind = depth - pose[:, :3, 3].norm(dim=1)[:, None, None]
    waves = behind * constant(_WAVES, points) * torch.pi
    return torch.cat([points, pixel, behind, waves.sin(), waves.cos()], dim=-1), pixel


def values_at(values: Float[Tensor, "C h w"], pixel: Float[Tensor, "M 2"]) -> Float[Tensor, "C M"]:
    """Bilinear values at places in [-1, 1]; beyond the border those of the border."""
    found = F.grid_sample(values[None], pixel[None, None], padding_mode="border", align_corners=False)
    return found[0, :, 0]


def load_picture_field(folder: Path) -> PictureField:
    """See `radiance_field.load_field`."""
    return radiance_field.load_field(folder, PictureField, PictureArchitecture)
