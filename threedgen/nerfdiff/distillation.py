"""NeRF-guided distillation as a guidance (NerfDiff, Gu et al. 2023, Algorithm 1; METHODS 3.3).

Every virtual view has an image estimate I and a noise estimate eps. Views come in turn; when all have been
seen, one pass is over. In the first pass the renders of the single-image NeRF are kept: they start the
estimates and are what the denoiser is shown from then on. Then, once every `repeats` passes, each view takes
one DDIM step,

    Z = alpha_t I + sigma_t eps,   I^ = (Z - sigma_t eps_phi(Z)) / alpha_t,
    I <- I^ - gamma_t sigma_t^2 / alpha_t^2 (I^ - I_theta),   eps <- (Z - alpha_t I) / sigma_t,

with gamma_t = min(gamma, alpha_t^2 / sigma_t^2), and in every pass the scene is drawn towards I. So a pass is N
steps of the paper's inner loop, and the views' own renders serve as I_theta: nothing is rendered twice. The
source view is compared with the picture in every step and never diffused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.cameras.reference import free_views, views_at
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.random import generator
from threedgen.core.roles import GuidanceRoles
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.nerfdiff.sampling import levels, predict_clean, signed, unsigned
from threedgen.nerfdiff.source import Source, SourceConfig
from threedgen.nerfdiff.virtual_views import in_turn

STREAM = "guidance/nerf-guided-distillation"
Denoiser = Callable[[Tensor, float, Tensor, Int[Tensor, " B"]], Tensor]
"""(noisy [B, 3, S, S], t, what the NeRF showed at first [B, 3, S, S], which views) -> x0 [B, 3, S, S]."""


class NerfGuidedDistillation(nn.Module, GuidanceRoles):
    """L = mean over views of |I_theta - I|^2 + source |I_theta,s - I_s|^2 (means over pixels).

    Deterministic in (seed, step) and in the estimates, which are buffers: they are saved with a run.
    """

    images: Float[Tensor, "V 3 S S"]
    noise: Float[Tensor, "V 3 S S"]
    shown: Float[Tensor, "V 3 S S"]
    done: Int[Tensor, " V"]

    model_setting = "model"
    picture_setting = "image"
    pose_setting = "reference"

    @dataclass(frozen=True)
    class Config(SourceConfig):
        """See SourceConfig. count: of the virtual views, that of the cameras (cameras.name=virtual-views).

        gamma:   how strongly the NeRF corrects an estimate; capped at alpha^2 / sigma^2, where it would replace it.
        t:       [high, low] of the DDIM steps, evenly spaced, in [0, 1].
        repeats: passes a DDIM step.
        source:  weight of the source view.
        """

        count: int = 12
        gamma: float = 0.02
        t: tuple[float, float] = (0.8, 0.02)
        repeats: int = 2
        source: float = 2.0

        def __post_init__(self) -> None:
            if self.count < 1 or self.repeats < 1:
                raise UserError(f"count and repeats must be at least 1, got {self.count} and {self.repeats}")
            if not 0.0 <= self.gamma < math.inf:
                raise UserError(f"gamma must be a number >= 0, got {self.gamma}")
            if not 0.0 < self.t[1] <= self.t[0] <= 1.0:
                raise UserError(f"t must be [high, low] with 0 < low <= high <= 1, got {list(self.t)}")
            if not 0.0 <= self.source < math.inf:
                raise UserError(f"source must be a weight >= 0, got {self.source}")

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        source: Source | None = None,
        denoiser: Denoiser | None = None,
    ) -> None:
        """source: to use instead of loading that of the config. denoiser: to use instead of the source's model.

        Raises UserError.
        """
        super().__init__()
        self.config = config
        source = Source.load(config, device) if source is None else source
        # Past nn.Module, which would take the frozen model for something that learns.
        object.__setattr__(self, "_source", source)
        self._denoise = denoiser or (
            lambda z, t, shown, views: predict_clean(source.model, z, t, shown, source.picture)
        )
        size = source.picture.shape[-1]
        for name in ("images", "noise", "shown"):
            self.register_buffer(name, torch.zeros(config.count, 3, size, size, device=device))
        self.register_buffer("done", torch.full((config.count,), -1, device=device))

    _source: Source

    def forward(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """How far the renders of this step's virtual views are from their estimates, which are renewed first.

        Differentiable in output.rgb. Metrics: t, change (root mean square of what the views' DDIM step changed),
        gap (of the renders to the estimates). Preview: the estimates. Raises UserError for cameras that are not
        in turn, and for a run too short for one DDIM step.
        """
        free, views = free_views(output, cameras)
        count, config = len(views), self.config
        if config.count % count:
            raise UserError(
                f"{count} views a step do not divide {config.count}: set guidance's count to the cameras'"
            )
        turn, now = in_turn(step, count, config.count)
        steps = self.ddim_steps(total, count)
        rgb = resize_images(free.rgb, self.images.shape[-1])
        now = now.to(rgb.device)
        renders = signed(rgb.detach())
        if turn == 0:
            self._begin(now, renders, seed)
        level = min((turn - 1) // config.repeats, len(steps) - 1)
        change = self._advance(now, renders, level, steps[level]) if turn > 0 else 0.0
        gap = (rgb - unsigned(self.images[now])).square().mean()
        # In the first pass the estimates are the renders: only the source view has something to say.
        loss = gap + config.source * self._source_gap(output, cameras)
        metrics = {"t": steps[max(level, 0)], "change": change, "gap": gap.detach().sqrt().item()}
        shown = self.images[now]
        return Signal(loss, metrics, lambda: torch.cat([*unsigned(shown)], dim=1))

    def ddim_steps(self, total: int, batch: int) -> list[float]:
        """t of each DDIM step of a run of `total` steps. Raises UserError where there is time for none."""
        passes = total * batch // self.config.count
        count = (passes - 1) // self.config.repeats
        if count < 1:
            least = math.ceil((1 + self.config.repeats) * self.config.count / batch)
            raise UserError(
                f"NeRF-guided distillation needs at least {least} steps with these views, got {total}"
            )
        return torch.linspace(*self.config.t, count).tolist()

    def _begin(self, now: Int[Tensor, " B"], renders: Float[Tensor, "B 3 S S"], seed: int) -> None:
        """First sight of these views: their renders are kept, and their noise is drawn."""
        self.shown[now] = renders
        self.images[now] = renders
        for view in now.tolist():
            noise = torch.randn(renders.shape[1:], generator=generator(seed, STREAM, view))
            self.noise[view] = noise.to(renders)

    @torch.no_grad()
    def _advance(
        self, now: Int[Tensor, " B"], renders: Float[Tensor, "B 3 S S"], level: int, t: float
    ) -> float:
        """The DDIM step `level` of those views that have not taken it yet; how far it moved them."""
        late = self.done[now] < level
        now, renders = now[late], renders[late]
        if len(now) == 0:
            return 0.0
        before = self.images[now]
        alpha, sigma = levels(t)
        z = alpha * before + sigma * self.noise[now]
        clean = self._denoise(z, t, self.shown[now], now)
        clean = corrected(clean, renders, alpha, sigma, self.config.gamma)
        self.images[now], self.noise[now] = clean, (z - alpha * clean) / sigma
        self.done[now] = level
        return (clean - before).square().mean().sqrt().item()

    def _source_gap(self, output: RenderOutput, cameras: Cameras) -> Tensor:
        """Mean squared error of the source view, where this step has it."""
        known = None if cameras.index is None else (cameras.index == 0).nonzero().squeeze(1)
        if known is None or len(known) == 0 or self.config.source == 0.0:
            return output.rgb.new_zeros(())
        seen, _ = views_at(output, cameras, known)
        picture = unsigned(self._source.picture)
        return (resize_images(seen.rgb, picture.shape[1]) - picture).square().mean()


def corrected(clean: Tensor, renders: Tensor, alpha: float, sigma: float, gamma: float) -> Tensor:
    """I^ - gamma_t sigma^2 / alpha^2 (I^ - I_theta): a share of the way to the NeRF, at most all of it.

    The same as adding gamma_t (sigma / alpha) (I^ - I_theta) to the predicted noise (METHODS 3.3).
    """
    share = min(gamma * sigma**2 / alpha**2, 1.0)
    return clean - share * (clean - renders)
