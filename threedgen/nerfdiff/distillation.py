"""NeRF-guided distillation as a guidance (NerfDiff, Gu et al. 2023, algorithm 1).

Every virtual view has an image estimate I and a noise estimate eps. The views come in turn, and one pass is over
when all have come. In the first pass the renders of the single-image NeRF are kept: the estimates start from them,
and the denoiser is given them from then on. Then, once in `repeats` passes, each view takes one DDIM step,

    Z = alpha_t I + sigma_t eps,   I^ = (Z - sigma_t eps_phi(Z)) / alpha_t,
    I <- I^ - gamma_t sigma_t^2 / alpha_t^2 (I^ - I_theta),   eps <- (Z - alpha_t I) / sigma_t,

with gamma_t = min(gamma, alpha_t^2 / sigma_t^2) (docs/methods.md, "NeRF-guided distillation"), and in every pass
the scene moves towards I. So the steps of a pass are steps of the inner loop of the paper, and the renders of these
steps serve as I_theta: nothing is rendered twice. The source view is compared with the picture in every step, and
it is never diffused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.cameras.reference import free_views, views_at
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.random import generator
from threedgen.core.roles import GuidanceRoles
from threedgen.core.settings import SettingError, at_least, between, settings
from threedgen.core.transfer import Number, on_cpu, rows, sent, sent_as, write
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.nerfdiff.sampling import levels, predict_clean, signed, unsigned
from threedgen.nerfdiff.source import Source, SourceConfig
from threedgen.nerfdiff.virtual_views import in_turn

STREAM = "guidance/nerf-guided-distillation"
Denoiser = Callable[[Tensor, float, Tensor, Int[Tensor, " B"]], Tensor]
"""(noisy [B, 3, S, S], t, first renders of the NeRF [B, 3, S, S], numbers of the views) -> x0 [B, 3, S, S]."""


class NerfGuidedDistillation(nn.Module, GuidanceRoles):
    """L = mean over views of |I_theta - I|^2 + source |I_theta,s - I_s|^2, with means over pixels.

    It is deterministic in (seed, step) and in the estimates, which are buffers and are saved with a run.
    """

    images: Float[Tensor, "V 3 S S"]
    noise: Float[Tensor, "V 3 S S"]
    shown: Float[Tensor, "V 3 S S"]
    done: Int[Tensor, " V"]

    model_setting = "model"
    picture_setting = "image"
    pose_setting = "reference"

    @settings
    class Config(SourceConfig):
        """Distillation of the views that a trained NerfDiff denoises.

        Attributes:
            count: Number of virtual views, which is that of the cameras (cameras.name=virtual-views).
            gamma: How strongly the NeRF corrects an estimate. It is capped at alpha^2 / sigma^2, where the render
                of the NeRF replaces the estimate.
            t: Times of the first and of the last DDIM step, [high, low]. The steps between them are evenly spaced.
            repeats: Number of passes over all views for each DDIM step.
            source: Weight of the source view.
        """

        count: Annotated[int, at_least(1)] = 12
        gamma: Annotated[float, at_least(0.0)] = 0.02
        t: Annotated[tuple[float, float], between(0.0, 1.0, open_low=True)] = (0.8, 0.02)
        repeats: Annotated[int, at_least(1)] = 2
        source: Annotated[float, at_least(0.0)] = 2.0

        def __post_init__(self) -> None:
            if self.t[1] > self.t[0]:
                raise SettingError("t", f"is {list(self.t)}; it must be [high, low] with low at most high")

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        source: Source | None = None,
        denoiser: Denoiser | None = None,
    ) -> None:
        """source: model, picture and camera, in place of those that the config names. denoiser: in place of that of
        the model. Raises UserError.
        """
        super().__init__()
        self.config = config
        source = Source.load(config, device) if source is None else source
        # Not through nn.Module, which would register the frozen model as parameters.
        object.__setattr__(self, "_source", source)
        self._denoise = denoiser or (
            lambda z, t, shown, views: predict_clean(source.model, z, t, shown, source.picture)
        )
        size = source.picture.shape[-1]
        for name in ("images", "noise", "shown"):
            self.register_buffer(name, torch.zeros(config.count, 3, size, size, device=device))
        self.register_buffer("done", sent(torch.full((config.count,), -1), device))

    _source: Source

    def forward(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """The distance of the renders of the virtual views of this step from their estimates, which are updated
        first.

        Differentiable in output.rgb. Metrics: t, change (root mean square of the change of the estimates by their
        DDIM step), gap (root mean square of renders minus estimates). Preview: the estimates. Raises UserError for
        cameras that do not come in turn, and for a run that is too short for one DDIM step.
        """
        free, views = free_views(output, cameras)
        count, config = len(views), self.config
        if config.count % count:
            raise UserError(
                f"count is {config.count}, which is not a multiple of the {count} views of a step: set it to "
                "cameras.count"
            )
        turn, now = in_turn(step, count, config.count)
        steps = self.ddim_steps(total, count)
        rgb = resize_images(free.rgb, self.images.shape[-1])
        now = sent(now, rgb.device)
        renders = signed(rgb.detach())
        if turn == 0:
            self._begin(now, renders, seed)
        level = min((turn - 1) // config.repeats, len(steps) - 1)
        change = self._advance(now, renders, level, steps[level]) if turn > 0 else 0.0
        gap = (rgb - unsigned(self.images[now])).square().mean()
        # In the first pass the estimates equal the renders, so only the source view has a gradient.
        loss = gap + config.source * self._source_gap(output, cameras)
        metrics = {"t": steps[max(level, 0)], "change": change, "gap": gap.detach().sqrt()}
        shown = self.images[now]
        return Signal(loss, metrics, lambda: torch.cat([*unsigned(shown)], dim=1))

    def ddim_steps(self, total: int, batch: int) -> list[float]:
        """The times of the DDIM steps of a run of `total` steps with `batch` views each. Raises UserError if there
        are none."""
        passes = total * batch // self.config.count
        count = (passes - 1) // self.config.repeats
        if count < 1:
            least = math.ceil((1 + self.config.repeats) * self.config.count / batch)
            raise UserError(
                f"NeRF-guided distillation needs at least {least} steps with these views, got {total}: set steps "
                f"to at least {least}"
            )
        return torch.linspace(*self.config.t, count).tolist()

    def _begin(self, now: Int[Tensor, " B"], renders: Float[Tensor, "B 3 S S"], seed: int) -> None:
        """Keeps the first renders of these views, and draws their noise."""
        self.shown[now] = renders
        self.images[now] = renders
        for view in on_cpu(now).tolist():
            noise = torch.randn(renders.shape[1:], generator=generator(seed, STREAM, view))
            self.noise[view] = sent_as(noise, renders)

    @torch.no_grad()
    def _advance(
        self, now: Int[Tensor, " B"], renders: Float[Tensor, "B 3 S S"], level: int, t: float
    ) -> Number:
        """Takes the DDIM step `level` of those views that have not taken it yet. Returns the root mean square of
        the change."""
        done, places = on_cpu(self.done), on_cpu(now)
        late = (done[places] < level).nonzero().squeeze(1)
        if len(late) == 0:
            return 0.0
        now, renders = rows(now, late), rows(renders, late)
        before = self.images[now]
        alpha, sigma = levels(t)
        z = alpha * before + sigma * self.noise[now]
        clean = self._denoise(z, t, self.shown[now], now)
        clean = corrected(clean, renders, alpha, sigma, self.config.gamma)
        self.images[now], self.noise[now] = clean, (z - alpha * clean) / sigma
        write(self.done, done.index_fill(0, places[late], level))
        return (clean - before).square().mean().sqrt()

    def _source_gap(self, output: RenderOutput, cameras: Cameras) -> Tensor:
        """The mean squared error of the source view; 0 if this step does not have it."""
        known = None if cameras.index is None else (on_cpu(cameras.index) == 0).nonzero().squeeze(1)
        if known is None or len(known) == 0 or self.config.source == 0.0:
            return output.rgb.new_zeros(())
        rendered, _ = views_at(output, cameras, known)
        picture = unsigned(self._source.picture)
        return (resize_images(rendered.rgb, picture.shape[1]) - picture).square().mean()


def corrected(clean: Tensor, renders: Tensor, alpha: float, sigma: float, gamma: float) -> Tensor:
    """I^ - gamma_t sigma^2 / alpha^2 (I^ - I_theta): moves an estimate to the render of the NeRF, at most all the
    way.

    It is the same as adding gamma_t (sigma / alpha) (I^ - I_theta) to the predicted noise (docs/methods.md,
    "NeRF-guided distillation").
    """
    share = min(gamma * sigma**2 / alpha**2, 1.0)
    return clean - share * (clean - renders)
