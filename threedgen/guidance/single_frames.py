"""A text-to-image prior on single frames of a moving scene: each frame should look like the object of the prompt.

Cameras of clips are further away than those of still objects, because motion needs room, and the object is not in
the middle of the picture. The prior receives the view of a nearer camera that looks at the object: the frame around
it, magnified.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras.orbit import spherical
from threedgen.cameras.reference import free_views, views_at
from threedgen.core.random import generator
from threedgen.core.settings import above, at_least, settings
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.reference_film import places
from threedgen.guidance.score_distillation import ScoreDistillation

STREAM = "guidance/single-frames"


class SingleFrames(ScoreDistillation):
    """Score distillation of `frames` random views of each step at their moments (the image term of the second
    stage of Align Your Gaussians, Ling et al. 2024). The prior receives no camera, because the object may have
    turned."""

    single_frames = True

    @settings
    class Config(ScoreDistillation.Config):
        """Settings of score distillation on single frames; view prompts are off, because the object may have
        turned.

        Attributes:
            frames: Number of views per step that the prior judges.
            distance (world units): Distance of the camera to which views are magnified, that of the training of the
                prior.
        """

        view_prompts: Literal["auto", "always", "never", "interpolated"] = "never"
        frames: Annotated[int, at_least(1)] = 2
        distance: Annotated[float, above(0.0)] = 2.85

    config: Config

    def forward(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        output, cameras = free_views(output, cameras)
        chosen = torch.randperm(len(cameras), generator=generator(seed, STREAM, step))[: self.config.frames]
        output, cameras = views_at(output, cameras, chosen)
        zoom = (spherical(cameras)[2] / self.config.distance).clamp_min(1.0)
        near = close_ups(output.rgb, output.alpha, zoom)
        return super().forward(replace(output, rgb=near), cameras, prompt, step, total, seed)

    def _condition(
        self, prompt: str, cameras: Cameras, step: int, total: int, output: RenderOutput
    ) -> Condition:
        return replace(super()._condition(prompt, cameras, step, total, output), cameras=None)


def close_ups(
    rgb: Float[Tensor, "B H W 3"], alpha: Float[Tensor, "B H W 1"], zoom: Float[Tensor, " B"]
) -> Float[Tensor, "B H W 3"]:
    """The pictures magnified by `zoom` >= 1 around the mean position of alpha, which is treated as constant.

    Differentiable in rgb. Beyond the border the colours of the border are repeated.
    """
    height, width = rgb.shape[1:3]
    rows = (torch.arange(height, device=rgb.device) + 0.5) * (2.0 / height) - 1.0
    columns = (torch.arange(width, device=rgb.device) + 0.5) * (2.0 / width) - 1.0
    middle = places(alpha.detach())[0]
    share = 1.0 / zoom.to(rgb)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2)
    seen = middle[:, None, None] + share[:, None, None, None] * grid
    picture = F.grid_sample(rgb.permute(0, 3, 1, 2), seen.to(rgb), padding_mode="border", align_corners=False)
    return picture.permute(0, 2, 3, 1)
