"""The ways in which a NerfDiff predicts other views from one view, for `threedgen eval` and the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch

from threedgen.core.types import Cameras, RadianceField, RenderOutput
from threedgen.datasets.multiview import PosedPictures
from threedgen.evaluation.benchmark import Predictor
from threedgen.loop.background import ColorBackground
from threedgen.loop.distill import distill
from threedgen.nerfdiff.camera_triplane import CameraTriplane, LearningRates
from threedgen.nerfdiff.distillation import NerfGuidedDistillation
from threedgen.nerfdiff.field import source_frame
from threedgen.nerfdiff.model import NerfDiffModel
from threedgen.nerfdiff.sampling import sample_views, signed, unsigned
from threedgen.nerfdiff.source import Source
from threedgen.nerfdiff.store import load_model
from threedgen.nerfdiff.virtual_views import ViewsInTurn, VirtualViews, around
from threedgen.renderers.base import on_white
from threedgen.renderers.volume import VolumeRenderer

_RENDERER = VolumeRenderer(VolumeRenderer.Config(samples=96))


def _source(model: NerfDiffModel, given: PosedPictures) -> Source:
    device = next(model.parameters()).device
    return Source.of(model, given.images[:1].to(device), given.cameras[:1].to(device))


def _predicted(source: Source) -> RadianceField:
    """The NeRF that the network predicts from the picture."""
    frame = source_frame(source.camera, source.radius)
    return source.model.field(source.model.planes(source.picture)[0], frame)


@dataclass(frozen=True)
class FeedForward:
    """Renders the NeRF that the network predicts from the picture: NerfDiff without distillation."""

    model: NerfDiffModel

    @torch.no_grad()
    def __call__(self, given: PosedPictures, cameras: Cameras, seed: int = 0) -> RenderOutput:
        source = _source(self.model, given)
        return on_white(_RENDERER, _predicted(source), cameras.to(source.picture.device))


@dataclass(frozen=True)
class FreeViews:
    """Samples every view from noise with the denoiser alone, conditioned on a render of the predicted NeRF.

    The pictures have the size of the model. They show no common scene, so they have no depth. steps: of the
    sampler.
    """

    model: NerfDiffModel
    steps: int = 24

    @torch.no_grad()
    def __call__(self, given: PosedPictures, cameras: Cameras, seed: int = 0) -> RenderOutput:
        source, size = _source(self.model, given), self.model.architecture.size
        views = cameras.resized(size, size).to(source.picture.device)
        seen = on_white(_RENDERER, _predicted(source), views)
        drawn = sample_views(self.model, signed(seen.rgb), source.picture, seed, self.steps)
        return RenderOutput(rgb=unsigned(drawn), alpha=seen.alpha)


@dataclass(frozen=True)
class Distilled:
    """Renders the predicted NeRF after NeRF-guided distillation, with one run of the loop for each object.

    batch: number of virtual views in a step. steps: of the loop. elevation: lowest and highest virtual view, in
    degrees. guidance: how many virtual views there are and how they are distilled. learning_rates: of the NeRF.
    """

    model: NerfDiffModel
    batch: int = VirtualViews.Config.batch
    steps: int = 75
    elevation: tuple[float, float] = VirtualViews.Config.elevation
    guidance: NerfGuidedDistillation.Config = field(default_factory=NerfGuidedDistillation.Config)
    learning_rates: LearningRates = field(default_factory=LearningRates)

    def __call__(self, given: PosedPictures, cameras: Cameras, seed: int = 0) -> RenderOutput:
        source = _source(self.model, given)
        scene = CameraTriplane(CameraTriplane.Config(learning_rates=self.learning_rates), seed, source)
        virtual = around(source.camera, self.guidance.count, self.elevation)
        distill(
            scene,
            VolumeRenderer(VolumeRenderer.Config(samples=64)),
            ViewsInTurn(virtual, source.camera, self.batch),
            [NerfGuidedDistillation(self.guidance, source.picture.device, source)],
            "",
            steps=self.steps,
            seed=seed,
            background=ColorBackground(ColorBackground.Config(random=0.0)),
            listeners=(),
        )
        with torch.no_grad():
            return on_white(_RENDERER, scene.at(), cameras.to(source.picture.device))


ANSWERS: Mapping[str, Callable[[NerfDiffModel], Predictor]] = MappingProxyType(
    {"feed-forward": FeedForward, "views": FreeViews, "ngd": Distilled}
)


def load_predictor(
    folder: str | Path, answer: str = "feed-forward", device: torch.device | str = "cpu"
) -> Predictor:
    """The predictor called `answer`, one of ANSWERS, with the model of a trained folder. Raises UserError."""
    return ANSWERS[answer](load_model(folder, device))
