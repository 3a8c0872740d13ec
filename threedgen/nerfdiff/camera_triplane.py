"""NerfDiff's triplane as an asset of the loop: predicted from one picture, then finetuned (METHODS 3.1, 3.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.cameras.reference import cameras_of
from threedgen.core.random import generator
from threedgen.core.types import RadianceField, RenderOutput
from threedgen.nerfdiff.field import SourceFrame, camera_field, scene_radius, source_frame
from threedgen.nerfdiff.model import DECODER_LAYERS, NerfDiffModel
from threedgen.nerfdiff.source import Source, SourceConfig
from threedgen.representations import occupancy
from threedgen.representations.base import Representation, RowOptimizer


@dataclass(frozen=True)
class LearningRates:
    """Initial Adam learning rates by group."""

    planes: float = 0.02
    decoder: float = 0.001


class CameraTriplane(Representation):
    """planes: [3, S, S, C] in the frame of the source camera. weights, biases: the decoder's layers. Both start as
    the model predicts them for the picture; the model itself stays as it was, so the next scene starts afresh.
    """

    renderer = "volume"
    model_setting = "model"
    pose_setting = "reference"

    @dataclass(frozen=True)
    class Config(SourceConfig):
        """See SourceConfig. occupancy: how the grid of empty cells follows the field."""

        occupancy: occupancy.Config = field(default_factory=lambda: occupancy.Config(resolution=32))
        learning_rates: LearningRates = field(default_factory=LearningRates)

    def __init__(self, config: Config, seed: int = 0, source: Source | None = None) -> None:
        """source: model, picture and camera to use instead of loading those of the config. Raises UserError."""
        super().__init__()
        source = Source.load(config) if source is None else source
        self.config, self._rates = config, config.learning_rates
        self._frame = source_frame(source.camera, source.radius)
        model: NerfDiffModel = source.model
        with torch.no_grad():
            self.planes = nn.Parameter(model.planes(source.picture)[0])
        weights, biases = model.decoder_parameters()
        self.weights = nn.ParameterList([nn.Parameter(value.detach().clone()) for value in weights])
        self.biases = nn.ParameterList([nn.Parameter(value.detach().clone()) for value in biases])
        self.occupancy = occupancy.OccupancyGrid(config.occupancy)
        self._look_for_matter(generator(seed, "occupancy", -1))

    @classmethod
    def blank(cls, config: Config) -> CameraTriplane:
        """One to load a state into, for which neither the model nor the picture has to be there any more."""
        scene = cls.__new__(cls)
        Representation.__init__(scene)
        scene.config, scene._rates = config, config.learning_rates
        camera = cameras_of([config.reference], 1)
        scene._frame = source_frame(camera, scene_radius(camera))
        scene.planes = nn.Parameter(torch.zeros(0))
        scene.weights, scene.biases = (
            nn.ParameterList([nn.Parameter(torch.zeros(0)) for _ in range(DECODER_LAYERS)]) for _ in range(2)
        )
        scene.occupancy = occupancy.OccupancyGrid(config.occupancy)
        return scene

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Sizes come from the state: a blank scene has none of its own."""
        for name, parameter in self.named_parameters():
            if name in state_dict and parameter.shape != state_dict[name].shape:
                parameter.data = torch.empty_like(state_dict[name], device=parameter.device)
        return super().load_state_dict(state_dict, strict, assign)

    @property
    def frame(self) -> SourceFrame:
        """Of the source camera, on the device of the planes."""
        return self._frame.to(self.planes.device)

    def at(self, time: Float[Tensor, " B"] | None = None) -> RadianceField:
        """The field, differentiable in all parameters; `time` is ignored (nothing moves)."""
        return camera_field(self.planes, self.weights, self.biases, self.frame, self.occupancy.occupied)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The planes, and the decoder."""
        return {"planes": [self.planes], "decoder": [*self.weights, *self.biases]}

    def learning_rates(self) -> Mapping[str, float]:
        """Initial learning rates by group."""
        return dataclasses.asdict(self._rates)

    @torch.no_grad()
    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: RowOptimizer, seed: int
    ) -> dict[str, float]:
        """Every `occupancy.interval` steps a look at what is empty. Logs the share of the box that is not."""
        everywhere = self._everywhere()
        return self.occupancy.follow(
            step, lambda points: everywhere.query(points, points)[0], everywhere.bounds, seed
        )

    def _everywhere(self) -> RadianceField:
        """The field as if nothing were known to be empty."""
        return camera_field(self.planes, self.weights, self.biases, self.frame)

    @torch.no_grad()
    def _look_for_matter(self, rng: torch.Generator) -> None:
        everywhere = self._everywhere()
        self.occupancy.update(lambda points: everywhere.query(points, points)[0], everywhere.bounds, rng)
