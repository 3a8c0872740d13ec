"""A picture prior on single frames of what moves: each must look like the thing that the prompt names.

Clips are seen from further away than still objects, because what moves needs room, and off the middle. A picture
prior is shown what a nearer camera that looks at the object would see: the frame around it, magnified.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras.orbit import spherical
from threedgen.cameras.reference import free_views, views_at
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.reference_film import places
from threedgen.guidance.score_distillation import ScoreDistillation

STREAM = "guidance/single-frames"


class SingleFrames(ScoreDistillation):
    """Score distillation of `frames` random views of a step, whichever moments they show (the image term of Align
    Your Gaussians' second stage; METHODS 7.2). The prior is told no camera: what it sees may have turned."""

    single_frames = True

    @dataclass(frozen=True)
    class Config(ScoreDistillation.Config):
        """See ScoreDistillation.Config. frames: views that are looked at, a step. distance: of the camera that a
        view is magnified to, in world units; what the prior was trained with. view_prompts: as there, but off: what
        is seen from the front may have turned its back by then."""

        view_prompts: Literal["auto", "always", "never", "interpolated"] = "never"
        frames: int = 2
        distance: float = 2.85

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.frames < 1:
                raise UserError(f"frames is {self.frames}: a step looks at 1 view at least")
            if not 0.0 < self.distance < float("inf"):
                raise UserError(f"distance is {self.distance}: it must be positive")

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
    """The pictures magnified by `zoom` >= 1 around the middle of what they show (the mean place of alpha, taken as
    given); differentiable in rgb. Beyond the border, the border's colours."""
    height, width = rgb.shape[1:3]
    rows = (torch.arange(height, device=rgb.device) + 0.5) * (2.0 / height) - 1.0
    columns = (torch.arange(width, device=rgb.device) + 0.5) * (2.0 / width) - 1.0
    middle = places(alpha.detach())[0]
    share = 1.0 / zoom.to(rgb)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2)
    seen = middle[:, None, None] + share[:, None, None, None] * grid
    picture = F.grid_sample(rgb.permute(0, 3, 1, 2), seen.to(rgb), padding_mode="border", align_corners=False)
    return picture.permute(0, 2, 3, 1)
