"""Zero-1-to-3 (Liu et al. 2023, arXiv:2303.11328) and Stable-Zero123: a pictured object from other sides."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import spherical
from threedgen.core.errors import UserError
from threedgen.core.settings import settings
from threedgen.core.transfer import constant
from threedgen.core.types import Cameras
from threedgen.guidance.priors.adapters.base import DiffusersPrior, unet_arguments
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.codec import Latents
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.libraries import or_user_error
from threedgen.guidance.priors.folder.parts import PipelineParts
from threedgen.guidance.priors.folder.text import no_text
from threedgen.guidance.priors.folder.weights import require_safe_weights, weight_set

_SCALE = 5.0  # of DreamGaussian
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PROJECTIONS = ("cc_projection", "clip_camera_projection")
"""Names of the layer over image embedding and pose in the two folder layouts that are in use."""


class DiffusersViewPrior(DiffusersPrior):
    """An 8-channel UNet2DConditionModel: z and the unscaled latent of the reference picture, with cross-attention
    to one token that is made of the CLIP embedding of the reference and the relative pose.

    Texts are not read. In the unconditional branch (Condition.dropped) token and latent are zeros.
    """

    @settings
    class Config:
        """Options of Zero-1-to-3.

        Attributes:
            pose: Meaning of the fourth number of the relative pose, which no file of the folder contains. zero123
                is the distance of the view minus that of the reference. stable-zero123 is the angle between the
                camera of the reference and the upward direction.
        """

        pose: Literal["zero123", "stable-zero123"] = "zero123"

    parts = ("unet", "image_encoder")
    image_condition = "reference"
    reads_text = False
    camera_conditioned = True
    needs_cameras = True
    codec: Latents

    def __init__(self, *arguments: Any, clip: Any, projection: torch.nn.Linear, pose: str) -> None:
        super().__init__(*arguments)
        self._clip, self._projection, self._pose = clip, projection, pose
        self._seen: tuple[ReferenceView, Tensor, Tensor] | None = None

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersViewPrior:
        network = parts.network("UNet2DConditionModel", "unet")
        process, form = parts.noise_table()
        codec = parts.codec()
        clip = parts.encoder("image_encoder")
        projection = load_projection(parts.folder).to(device=parts.device, dtype=torch.float32)
        common = (network, codec, no_text(), process, form, _SCALE)
        return cls(*common, clip=clip, projection=projection, pose=options.pose)

    def prepare(self, prompts: Any) -> None:
        """There is nothing to embed, because no text is read."""

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        if condition.reference is None or condition.cameras is None:
            raise UserError(
                "this prior shows a picture from other sides (Zero-1-to-3): set `reference`, the picture and the "
                "pose of its camera"
            )
        embedding, latent = self._look_at(condition.reference, z)
        pose = relative_pose(condition.cameras, condition.reference, self._pose).to(z)
        tokens = self._projection(torch.cat([embedding.expand(len(z), -1), pose.float()], dim=1))
        kept = 1.0 - constant(condition.drops(), z)
        both = torch.cat([z, latent * kept[:, None, None, None]], dim=1)
        states = (tokens.to(z) * kept[:, None])[:, None]
        return unet_arguments(self.dtype, both, self.process.timestep(t), states)

    def _look_at(self, reference: ReferenceView, z: Tensor) -> tuple[Tensor, Tensor]:
        """CLIP embedding [1, C] and latent [1, c, h, w] of the reference, computed once."""
        if self._seen is None or self._seen[0] is not reference:
            image = reference.image.to(z)[None]
            embedding = picture_embedding(self._clip, image).to(device=z.device, dtype=torch.float32)
            self._seen = reference, embedding, self.codec.unscaled(image).to(z)
        return self._seen[1], self._seen[2]


def picture_embedding(clip: Any, image: Float[Tensor, "1 H W 3"]) -> Float[Tensor, "1 D"]:
    """The embedding of a picture in [0, 1] of any size by a CLIP image encoder with a projection."""
    return clip(clip_pixels(clip, image)).image_embeds


def clip_pixels(clip: Any, image: Float[Tensor, "1 H W 3"]) -> Float[Tensor, "1 3 S S"]:
    """What a CLIP image encoder takes of a picture in [0, 1] of any size."""
    size = clip.config.image_size
    pixels = F.interpolate(
        image.permute(0, 3, 1, 2), (size, size), mode="bicubic", antialias=True, align_corners=False
    )
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
    return ((pixels - mean) / std).to(device=clip.device, dtype=clip.dtype)


def relative_pose(cameras: Cameras, reference: ReferenceView, pose: str) -> Float[Tensor, "B 4"]:
    """(polar angle minus that of the reference, sin and cos of the azimuth difference, fourth number), in radians.

    The polar angle falls as the elevation rises, so the first number is the elevation of the reference minus that
    of the view. (The orbit of DreamGaussian has positive elevations below the horizon and so needs no change of
    sign.)
    """
    azimuth, elevation, distance = spherical(cameras)
    turn = torch.deg2rad(azimuth - reference.azimuth)
    polar = torch.deg2rad(reference.elevation - elevation)
    if pose == "zero123":
        last = distance - reference.distance
    else:
        last = torch.deg2rad(torch.full_like(distance, 90.0 - reference.elevation))
    return torch.stack([polar, turn.sin(), turn.cos(), last], dim=1)


def load_projection(folder: PipelineFolder) -> torch.nn.Linear:
    """The frozen linear layer [C + 4 -> C] over embedding and pose, from the folder named by one of PROJECTIONS.

    Raises UserError if it is missing or has another shape.
    """
    names = [name for name in PROJECTIONS if (folder.path / name).is_dir()]
    if not names:
        raise UserError(
            f"prior folder '{folder.path}' lacks the part {' or '.join(PROJECTIONS)}: copy it again"
        )
    part = folder.path / names[0]
    require_safe_weights(part)

    def load() -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(weight_set(part).files[0])

    tensors = {name.rsplit(".", 1)[-1]: tensor.float() for name, tensor in or_user_error(load, part).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    width = len(tensors["bias"]) if "bias" in tensors else 0
    if shapes != {"weight": (width, width + 4), "bias": (width,)}:
        raise UserError(f"prior part '{part}' is not a linear layer from C + 4 to C numbers: copy it again")
    layer = torch.nn.Linear(width + 4, width)
    layer.load_state_dict(tensors)
    return layer.requires_grad_(False)
