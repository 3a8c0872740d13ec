"""The multi-view prior that `threedgen train prior --kind multiview` writes: views of an object that are denoised
together, from a text, a picture or both."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras.orbit import (
    RELATIVE_VIEW_FEATURES,
    VIEW_FEATURES,
    relative_view_features,
    turned,
    view_features,
)
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.guidance.priors import field_guide
from threedgen.guidance.priors.adapters.base import DiffusersPrior, unet_arguments
from threedgen.guidance.priors.adapters.multiview import require_groups, set_views
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.codec import Pixels, signed
from threedgen.guidance.priors.executors.deferred import loaded
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.parts import PipelineParts
from threedgen.guidance.priors.picture_field import DecodedPictures, PictureField, load_picture_field
from threedgen.guidance.priors.picture_side import settled_azimuth

FOLD = 2
"""Pixels along each side of a block whose values are channels of one pixel of the UNet."""
CHANNELS = (3 + 3 + field_guide.CHANNELS) * FOLD**2
"""Of the input of the UNet: z, the picture and the guide."""
_SCALE = 1.5  # measured, for the small one


def read_picture(pictures: Float[Tensor, "B C H W"], kept: Float[Tensor, " B"]) -> Float[Tensor, "B D h w"]:
    """What the UNet sees of pictures in [-1, 1] or of guides: blocks, zero where they are withheld (kept is 0)."""
    return F.pixel_unshuffle(pictures, FOLD) * kept.to(pictures)[:, None, None, None]


def colours_of(guide: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 12 h w"]:
    """The colours, without alpha, of guides as blocks: what the UNet says is added to them, so that it begins with
    the mean of what a picture leaves open and learns only what differs."""
    return guide[:, : 3 * FOLD**2]


def _kept(condition: Condition, z: Tensor) -> Float[Tensor, " B"]:
    """0 for each sample whose picture is withheld, else 1."""
    return 1.0 - torch.tensor(condition.drops(), device=z.device, dtype=z.dtype)


class Folded(Pixels):
    """Pictures as blocks of FOLD x FOLD pixels, which are the channels of their samples."""

    def __init__(self, side: int) -> None:
        super().__init__(FOLD * side)

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 12 h w"]:
        return F.pixel_unshuffle(super().encode(images), FOLD)

    def decode(self, x: Float[Tensor, "B 12 h w"]) -> Float[Tensor, "B H W 3"]:
        return super().decode(F.pixel_shuffle(x, FOLD))


class DiffusersPixelMultiViewPrior(DiffusersPrior):
    """A UNet2DConditionModel over blocks of pixels of z, of a reference picture, and of what a PictureField shows
    of that from the side of each view (see `field_guide`).

    Its self-attention runs over the views of a group, `group` consecutive ones of a batch with rising azimuths,
    and its class embedding takes the pose relative to the picture or, without a picture, to the front of what the
    text says.

    In the unconditional branch (Condition.dropped) the picture is withheld, and the text is the negative one.
    """

    image_condition = "optional-reference"
    camera_conditioned = True
    needs_cameras = True
    field: PictureField

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._decoded: tuple[ReferenceView, DecodedPictures] | None = None
        self._shown: tuple[Cameras, Tensor] | None = None

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersPixelMultiViewPrior:
        network = loaded(parts.network("UNet2DConditionModel", "unet"))
        process, form = parts.noise_table()
        text = encoders.one_encoder(parts, pixels=True)
        prior = cls(network, Folded(parts.side("unet")), text, process, form, _SCALE)
        prior.join(int(parts.folder.config("unet")["num_views"]))
        prior.field = load_picture_field(field_guide.folder_of(parts.folder.path)).to(parts.device)
        return prior

    def join(self, views: int) -> None:
        """Makes groups of `views` views: it was trained with GROUPS of `threedgen.training.ring_bank`."""
        self.group = views
        set_views(self.network, views)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        require_groups(self.group, z)
        cameras, reference = condition.cameras, condition.reference
        if cameras is None:
            raise UserError(
                "this prior needs the camera of each view and is given none: take another guidance"
            )
        poses = torch.cat([view_features(cameras), z.new_zeros(len(z), _PICTURE)], dim=1)
        guide, given = self._guide(z, condition), torch.zeros_like(z)
        if reference is not None:
            kept = _kept(condition, z)
            seen = signed(reference.image[None].to(z), self.image_size).expand(len(z), -1, -1, -1)
            given = read_picture(seen, kept)
            relative = relative_view_features(
                cameras, reference.azimuth, reference.elevation, reference.distance
            )
            poses = relative_poses(relative, kept)
        states = self.text(condition.prompts)["states"]
        both = torch.cat([z, given, guide], dim=1)
        arguments = unet_arguments(self.dtype, both, self.process.timestep(t), states)
        arguments["class_labels"] = poses.to(device=z.device, dtype=self.dtype)
        return arguments

    def answer(self, network: Any, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().answer(network, z, t, condition) + colours_of(self._guide(z, condition))

    def _guide(self, z: Tensor, condition: Condition) -> Float[Tensor, "B D h w"]:
        """Blocks of what the field shows from each camera, zero where the picture is withheld or there is none."""
        if condition.reference is None or condition.cameras is None:
            return z.new_zeros(len(z), field_guide.CHANNELS * FOLD**2, *z.shape[2:])
        return read_picture(self.guides(condition.reference, condition.cameras).to(z), _kept(condition, z))

    @torch.no_grad()
    def guides(self, reference: ReferenceView, cameras: Cameras) -> Float[Tensor, "V 4 H W"]:
        """What the field shows of a picture from cameras; see `field_guide.guide_views`."""
        if self._decoded is None or self._decoded[0] is not reference:
            device = next(self.field.parameters()).device
            picture = signed(reference.image[None].to(device).float(), self.field.architecture.size)
            known = picture.new_tensor([[reference.elevation, reference.distance]])
            azimuth = settled_azimuth(self.field, picture, known)
            self._decoded = reference, field_guide.decoded_guide(self.field, picture, known, azimuth)
            self._shown = None
        if self._shown is None or self._shown[0] is not cameras:  # a sampler asks at each step
            side = self.image_size
            relative = turned(cameras.resized(side, side), -reference.azimuth)
            decoded = self._decoded[1]
            shown = field_guide.guide_views(self.field, decoded, relative.to(decoded.planes.device))
            self._shown = cameras, shown
        return self._shown[1]


_PICTURE = RELATIVE_VIEW_FEATURES - VIEW_FEATURES


def relative_poses(relative: Float[Tensor, "B 20"], kept: Float[Tensor, " B"]) -> Float[Tensor, "B 20"]:
    """The poses of views relative to a picture; how the picture was taken is withheld with it (kept is 0)."""
    views, picture = relative.split([VIEW_FEATURES, _PICTURE], dim=1)
    return torch.cat([views, picture * kept.to(picture)[:, None]], dim=1)
