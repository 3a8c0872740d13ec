"""What a scene of NerfDiff starts from: a trained model, the source picture, and the camera that saw it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.reference import ReferencePose, cameras_of
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.settings import settings
from threedgen.core.types import Cameras
from threedgen.nerfdiff.field import scene_radius
from threedgen.nerfdiff.model import NerfDiffModel
from threedgen.nerfdiff.sampling import signed
from threedgen.nerfdiff.store import load_model

EMBEDDED = Path(__file__).parent / "weights"


@settings
class SourceConfig:
    """The trained model and the picture of a scene.

    Attributes:
        model: Folder of a training with `threedgen train nerfdiff`. The default is the small model that ships,
        which
            has learnt cars and chairs of the shape world.
        image: File of the cut-out. `threedgen image-to-3d` writes it into the run and sets this.
        reference: Pose of the camera that saw the picture.
    """

    model: str = ""
    image: str = ""
    reference: ReferencePose = field(default_factory=ReferencePose)


@dataclass(frozen=True)
class Source:
    """A loaded source.

    picture: [1, 3, S, S] in [-1, 1] on white. camera: its view. radius: of the sphere of the scene, in world units.
    """

    model: NerfDiffModel
    picture: Float[Tensor, "1 3 S S"]
    camera: Cameras
    radius: float

    @classmethod
    def load(cls, config: SourceConfig, device: torch.device | str = "cpu") -> Source:
        """The source that a config names. Raises UserError if a file is missing."""
        from threedgen.datasets.cut_outs import read_cut_out

        if not config.image:
            raise UserError(
                "image is empty, and must name a cut-out: `threedgen image-to-3d PICTURE` makes one"
            )
        image, _ = read_cut_out(config.image)
        camera = cameras_of([config.reference], 1).to(device)
        return cls.of(load_model(config.model or EMBEDDED, device), image[None].to(device), camera)

    @classmethod
    def of(cls, model: NerfDiffModel, image: Float[Tensor, "1 H W 3"], camera: Cameras) -> Source:
        """The source of a picture in [0, 1] on white and its view, of any size."""
        size = model.architecture.size
        return cls(
            model, signed(resize_images(image, size)), camera.resized(size, size), scene_radius(camera)
        )
