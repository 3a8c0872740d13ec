"""NerfDiff's answers to "one view in, other views out": what `threedgen eval` and the benchmark compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch

from threedgen.background import Background
from threedgen.datasets.multiview import PosedPictures
from threedgen.distill import distill
from threedgen.evaluation.benchmark import Predictor
from threedgen.nerfdiff.distillation import NerfGuidedDistillation
from threedgen.nerfdiff.field import source_frame
from threedgen.nerfdiff.model import NerfDiffModel
from threedgen.nerfdiff.sampling import sample_views, signed, unsigned
from threedgen.nerfdiff.source import Source
from threedgen.nerfdiff.store import load_model
from threedgen.nerfdiff.virtual_views import ViewsInTurn, around
from threedgen.renderers.volume import VolumeRenderer
from threedgen.representations.camera_triplane import CameraTriplane, LearningRates
from threedgen.types import Cameras, RadianceField, RenderOutput

_RENDERER = VolumeRenderer.Config(samples=96)


def _source(model: NerfDiffModel, given: PosedPictures) -> Source:
    device = next(model.parameters()).device
    return Source.of(model, given.images[:1].to(device), given.cameras[:1].to(device))


def _seen(field: RadianceField, cameras: Cameras, device: torch.device) -> RenderOutput:
    """Every view on white, one at a time: memory does not grow with their number."""
    renderer, white = VolumeRenderer(_RENDERER), torch.ones(3, device=device)
    views = [renderer(field, cameras[i : i + 1], white) for i in range(len(cameras))]
    rgb, alpha = torch.cat([view.rgb for view in views]), torch.cat([view.alpha for view in views])
    depths = [view.depth for view in views if view.depth is not None]
    return RenderOutput(rgb=rgb, alpha=alpha, depth=torch.cat(depths) if depths else None)


@dataclass(frozen=True)
class FeedForward:
    """The single-image NeRF as the network predicts it: NerfDiff without distillation."""

    model: NerfDiffModel

    @torch.no_grad()
    def __call__(self, given: PosedPictures, cameras: Cameras, seed: int = 0) -> RenderOutput:
        source = _source(self.model, given)
        field = self.model.field(
            self.model.planes(source.picture)[0], source_frame(source.camera, source.radius)
        )
        return _seen(field, cameras, source.picture.device)


@dataclass(frozen=True)
class FreeViews:
    """The denoiser alone: every view sampled from noise by itself, seeing the single-image NeRF from there. At the
    model's size; there is no scene behind the pictures, so they have no depth."""

    model: NerfDiffModel
    steps: int = 24

    @torch.no_grad()
    def __call__(self, given: PosedPictures, cameras: Cameras, seed: int = 0) -> RenderOutput:
        size = self.model.architecture.size
        seen = FeedForward(self.model)(given, cameras.resized(size, size), seed)
        picture = _source(self.model, given).picture
        views = unsigned(sample_views(self.model, signed(seen.rgb), picture, seed, self.steps))
        return RenderOutput(rgb=views, alpha=seen.alpha)


@dataclass(frozen=True)
class Distilled:
    """The single-image NeRF finetuned by NeRF-guided distillation: the project's loop, one run an object.

    views, batch: virtual views, and how many of them a step. steps: of the loop. See NerfGuidedDistillation.Config
    and CameraTriplane for the rest.
    """

    model: NerfDiffModel
    views: int = 12
    batch: int = 4
    steps: int = 75
    gamma: float = 0.02
    t: tuple[float, float] = (0.8, 0.02)
    repeats: int = 2
    source: float = 2.0
    elevation: tuple[float, float] = (0.0, 60.0)
    learning_rates: LearningRates = field(default_factory=LearningRates)

    def __call__(self, given: PosedPictures, cameras: Cameras, seed: int = 0) -> RenderOutput:
        source = _source(self.model, given)
        scene = CameraTriplane(CameraTriplane.Config(learning_rates=self.learning_rates), seed, source)
        guidance = NerfGuidedDistillation(
            NerfGuidedDistillation.Config(
                count=self.views, gamma=self.gamma, t=self.t, repeats=self.repeats, source=self.source
            ),
            source.picture.device,
            source,
        )
        views = ViewsInTurn(around(source.camera, self.views, self.elevation), source.camera, self.batch)
        white = Background(Background.Config(random=0.0))
        renderer = VolumeRenderer(VolumeRenderer.Config(samples=64))
        distill(
            scene,
            renderer,
            views,
            [guidance],
            "",
            steps=self.steps,
            seed=seed,
            background=white,
            listeners=(),
        )
        with torch.no_grad():
            return _seen(scene.at(), cameras, source.picture.device)


ANSWERS: Mapping[str, Callable[[NerfDiffModel], Predictor]] = MappingProxyType(
    {"feed-forward": FeedForward, "views": FreeViews, "ngd": Distilled}
)


def load_predictor(
    folder: str | Path, answer: str = "feed-forward", device: torch.device | str = "cpu"
) -> Predictor:
    """One of ANSWERS of a trained folder. Raises UserError."""
    return ANSWERS[answer](load_model(folder, device))
