"""What a NerfDiff scene starts from: a trained model, the source picture, and the camera that saw it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.reference import ReferencePose, cameras_of
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.types import Cameras
from threedgen.nerfdiff.field import scene_radius
from threedgen.nerfdiff.model import NerfDiffModel
from threedgen.nerfdiff.sampling import signed
from threedgen.nerfdiff.store import load_model

EMBEDDED = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class SourceConfig:
    """model: a folder that `threedgen train nerfdiff` left; "": the small one that ships, which knows the shape
    world's cars and chairs. image: the cut-out; `threedgen image-to-3d` puts it into the run. reference: where it
    was seen from."""

    model: str = ""
    image: str = ""
    reference: ReferencePose = field(default_factory=ReferencePose)


@dataclass(frozen=True)
class Source:
    """picture: [1, 3, S, S] in [-1, 1] on white. camera: the one view of it. radius: of the scene's sphere."""

    model: NerfDiffModel
    picture: Float[Tensor, "1 3 S S"]
    camera: Cameras
    radius: float

    @classmethod
    def load(cls, config: SourceConfig, device: torch.device | str = "cpu") -> Source:
        """What the config names. Raises UserError where something is not there."""
        from threedgen.datasets.cut_outs import read_cut_out

        if not config.image:
            raise UserError("image names no cut-out: `threedgen image-to-3d PICTURE` makes one")
        image, _ = read_cut_out(config.image)
        camera = cameras_of([config.reference], 1).to(device)
        return cls.of(load_model(config.model or EMBEDDED, device), image[None].to(device), camera)

    @classmethod
    def of(cls, model: NerfDiffModel, image: Float[Tensor, "1 H W 3"], camera: Cameras) -> Source:
        """From a picture in [0, 1] on white and its view, of any size."""
        size = model.architecture.size
        return cls(
            model, signed(resize_images(image, size)), camera.resized(size, size), scene_radius(camera)
        )
