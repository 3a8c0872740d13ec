"""The view-conditioned prior that `threedgen train prior --kind picture` writes: a field that a picture decodes
to."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import turned
from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.base import DiffusersPrior
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.codec import Pixels, signed
from threedgen.guidance.priors.field_denoiser import field_answer, mean_picture
from threedgen.guidance.priors.folder.parts import PipelineParts
from threedgen.guidance.priors.folder.text import no_text
from threedgen.guidance.priors.picture_field import (
    DecodedPictures,
    PictureField,
    load_picture_field,
    seen_from,
)
from threedgen.guidance.priors.picture_side import settled_azimuth
from threedgen.guidance.priors.radiance_field import as_pictures

_SCALE = 1.0  # its views agree with one another: guidance would only exaggerate their colours


class DiffusersPictureFieldPrior(DiffusersPrior):
    """A PictureField of the reference picture, rendered from the cameras, and its closed-form answer (see
    `field_denoiser`).

    Texts are not read. The unconditional branch (Condition.dropped) is that of a white picture, the mean of
    everything.
    """

    parts = ("field",)
    image_condition = "reference"
    reads_text = False
    camera_conditioned = True
    needs_cameras = True
    network: PictureField

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seen: tuple[ReferenceView, DecodedPictures] | None = None
        self._shown: tuple[Condition, Tensor] | None = None

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersPictureFieldPrior:
        field = load_picture_field(parts.folder.path / "field").to(parts.device)
        process, form = parts.noise_table()
        if form != "v_prediction":
            raise UserError(f"prior '{parts.folder.path}' predicts '{form}', not v: copy the folder again")
        return cls(field, Pixels(field.architecture.size), no_text(), process, form, _SCALE)

    def prepare(self, prompts: Any) -> None:
        """There is nothing to embed, because no text is read."""

    def answer(
        self, network: Any, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        mean = mean_picture(self.rendered(condition).to(z), condition.background)
        return field_answer(z, mean, self.alpha(t), self.sigma(t))

    @torch.no_grad()
    def rendered(self, condition: Condition) -> Float[Tensor, "B 4 H W"]:
        """The picture of the field from each camera: premultiplied RGB and alpha. Raises UserError for a condition
        without a picture or without cameras."""
        if self._shown is not None and self._shown[0] is condition:
            return self._shown[1]
        reference = condition.reference
        if reference is None or condition.cameras is None:
            raise UserError(
                "this prior shows a picture from other sides: set `reference`, the picture and the pose of its "
                "camera"
            )
        decoded = self._decoded(reference)
        device = decoded.planes.device
        cameras = turned(condition.cameras.resized(self.image_size, self.image_size), -reference.azimuth)
        withheld = torch.tensor([int(dropped) for dropped in condition.drops()])
        views = seen_from(decoded, cameras.to(device), withheld)
        shown = as_pictures(self.network.render(decoded, views, withheld), cameras)
        self._shown = condition, shown
        return shown

    def _decoded(self, reference: ReferenceView) -> DecodedPictures:
        """The field of the reference and that of a white picture, computed once."""
        if self._seen is None or self._seen[0] is not reference:
            device = next(self.network.parameters()).device
            picture = signed(reference.image[None].to(device).float(), self.image_size)
            known = picture.new_tensor([[reference.elevation, reference.distance]]).expand(2, -1)
            both = torch.cat([picture, torch.ones_like(picture)])
            azimuth = self.network.decode(both, known).azimuth
            azimuth = torch.cat([settled_azimuth(self.network, picture, known[:1]), azimuth[1:]])
            decoded = self.network.decode(both, known, azimuth)
            self._seen = reference, self.network.with_occupancy(decoded)
        return self._seen[1]
