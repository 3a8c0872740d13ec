"""The triplane of NerfDiff (Gu et al. 2023, section 3.1) as a representation: predicted from one picture, then
finetuned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.cameras.reference import cameras_of
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.settings import at_least, settings
from threedgen.core.transfer import Number
from threedgen.core.types import RadianceField, RenderOutput
from threedgen.nerfdiff.field import SourceFrame, camera_field, scene_radius, source_frame
from threedgen.nerfdiff.model import DECODER_LAYERS, NerfDiffModel
from threedgen.nerfdiff.source import Source, SourceConfig
from threedgen.representations import occupancy
from threedgen.representations.base import Representation, RowOptimizer


@settings
class LearningRates:
    """Initial learning rates of Adam.

    Attributes:
        planes: Learning rate of the triplane.
        decoder: Learning rate of the decoder.
    """

    planes: Annotated[float, at_least(0.0)] = 0.02
    decoder: Annotated[float, at_least(0.0)] = 0.001


class CameraTriplane(Representation):
    """A triplane in the frame of the source camera, with its own copy of the decoder.

    planes: [3, S, S, C]. weights, biases: of the layers of the decoder. All start as the model predicts them for
    the picture. The model itself does not change, so that the next scene starts from the same model.
    """

    renderer = "volume"
    model_setting = "model"
    pose_setting = "reference"

    @settings
    class Config(SourceConfig):
        """A triplane that a trained NerfDiff predicts from a picture.

        Attributes:
            occupancy: How the grid of empty cells follows the field.
            learning_rates: Initial learning rates of Adam.
        """

        occupancy: occupancy.Config = field(default_factory=lambda: occupancy.Config(resolution=32))
        learning_rates: LearningRates = field(default_factory=LearningRates)

    def __init__(self, config: Config, seed: int = 0, source: Source | None = None) -> None:
        """source: model, picture and camera, in place of those that the config names. Raises UserError."""
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
        self._find_empty_cells(generator(seed, "occupancy", -1))

    @classmethod
    def blank(cls, config: Config) -> CameraTriplane:
        """An empty scene to load a state into. It needs neither the model nor the picture."""
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
        """Loads a state, whose tensors give the sizes: a blank scene has no sizes of its own. Raises UserError if
        they do not fit one another."""
        _check_sizes(state_dict)
        for name, parameter in self.named_parameters():
            if name in state_dict and parameter.shape != state_dict[name].shape:
                parameter.data = torch.empty_like(state_dict[name], device=parameter.device)
        return super().load_state_dict(state_dict, strict, assign)

    @property
    def frame(self) -> SourceFrame:
        """The frame of the source camera, on the device of the planes."""
        return self._frame.to(self.planes.device)

    def at(self, time: Float[Tensor, " B"] | None = None) -> RadianceField:
        """The radiance field, differentiable in all parameters. `time` has no effect, because nothing moves."""
        return camera_field(self.planes, self.weights, self.biases, self.frame, self.occupancy.occupied)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The planes and the layers of the decoder, by group."""
        return {"planes": [self.planes], "decoder": [*self.weights, *self.biases]}

    def learning_rates(self) -> Mapping[str, float]:
        """Initial learning rates by group."""
        return dataclasses.asdict(self._rates)

    @torch.no_grad()
    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: RowOptimizer, seed: int
    ) -> dict[str, Number]:
        """Updates the grid of empty cells every `occupancy.interval` steps. Returns the share of occupied cells, to
        log."""
        everywhere = self._everywhere()
        return self.occupancy.follow(
            step, lambda points: everywhere.query(points, points)[0], everywhere.bounds, seed
        )

    def _everywhere(self) -> RadianceField:
        """The field without empty cells."""
        return camera_field(self.planes, self.weights, self.biases, self.frame)

    @torch.no_grad()
    def _find_empty_cells(self, rng: torch.Generator) -> None:
        """The first update of the grid."""
        everywhere = self._everywhere()
        self.occupancy.update(lambda points: everywhere.query(points, points)[0], everywhere.bounds, rng)


def _check_sizes(saved: Mapping[str, Any]) -> None:
    """Raises UserError unless each layer of the decoder takes what the one before gives, and the first the three
    planes."""
    planes = saved.get("planes")
    width = 3 * planes.shape[-1] if planes is not None and planes.ndim == 4 and len(planes) == 3 else 0
    for layer in range(DECODER_LAYERS):
        weight, bias = saved.get(f"weights.{layer}"), saved.get(f"biases.{layer}")
        fits = weight is not None and weight.ndim == 2 and weight.shape[1] == width
        if weight is None or bias is None or not fits or bias.shape != weight.shape[:1]:
            raise UserError(
                f"the saved triplane does not fit its decoder: layer {layer} or the planes are damaged"
            )
        width = len(weight)
    if width != 4:
        raise UserError(f"the saved triplane does not fit its decoder: it gives {width} numbers instead of 4")
