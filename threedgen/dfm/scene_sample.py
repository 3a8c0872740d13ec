"""A sample of what a picture may show, as a representation: 3D Gaussians on the surface of its field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from threedgen.cameras.reference import ReferencePose
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.png import to_uint8
from threedgen.core.settings import above, at_least, settings
from threedgen.core.types import GaussianCloud, RadianceField
from threedgen.datasets.cut_outs import read_cut_out
from threedgen.dfm.sampling import BACK, TOGETHER, sampled_scenes, shown
from threedgen.dfm.scene_field import DecodedScenes, SceneField, signed
from threedgen.dfm.store import load_scene_field
from threedgen.export.field_mesh import extract_field_mesh
from threedgen.export.mesh import MeshConfig, NoSurface
from threedgen.export.video import labelled
from threedgen.guidance.priors.radiance_field import EXTENT
from threedgen.representations.dynamic_gaussians import on_surface
from threedgen.representations.made_gaussians import MadeConfig, MadeGaussians
from threedgen.training.view_bank import on_white

_PIXELS = 128  # of a back on the sheet
_VOXELS = 64  # along the longest side of the surface: the field has hardly finer details


@settings
class Config(MadeConfig):
    """Gaussians of one of the scenes that a picture may show.

    Attributes:
        image: File of the cut-out. `threedgen image-to-3d` writes it into the run and sets this.
        reference: Pose of the camera that saw the picture.
        model: Folder of a diffusion model of scenes, model/ of a training with `threedgen train dfm`.
        sampling (steps): Number of steps of the sampler.
        guidance: Guidance scale of the picture. With 1, samples are as different as what the model holds for
            possible; more makes them follow the picture more closely than that.
        temperature: Standard deviation of the noise that the sampler begins with; below 1, samples are more alike.
        count: Number of Gaussians.
    """

    image: str = ""
    reference: ReferencePose = field(default_factory=ReferencePose)
    model: str = ""
    sampling: Annotated[int, at_least(1)] = 25
    guidance: Annotated[float, at_least(0.0)] = 1.0
    temperature: Annotated[float, above(0.0)] = 1.0
    count: Annotated[int, at_least(1)] = 6000


class SceneSample(MadeGaussians):
    """Gaussians, which begin on the surface of the scene that a seed gives."""

    Config = Config
    pose_setting = "reference"
    _backs: Sequence[UInt8[np.ndarray, "H W 3"]] = ()

    @torch.no_grad()
    def make(self, config: Config, seed: int) -> GaussianCloud:
        if not config.model:
            raise UserError(
                "representation.model is empty: name the folder model/ of `threedgen train dfm`, which makes it"
            )
        if not config.image:
            raise UserError("image is empty: give the object's picture with `threedgen image-to-3d PICTURE`")
        model, pose = load_scene_field(config.model), config.reference
        image = resize_images(read_cut_out(config.image)[0][None], model.architecture.size)
        known = torch.tensor([pose.elevation, pose.distance])
        seeds = range(seed, seed + TOGETHER)
        scenes = sampled_scenes(
            model,
            signed(image[0].permute(2, 0, 1)),
            known,
            seeds,
            config.sampling,
            config.guidance,
            config.temperature,
        )
        back = torch.tensor([[BACK, pose.elevation, pose.distance]])
        pictures = on_white(shown(model, scenes, back, _PIXELS)[:, 0])
        self._backs = [labelled(to_uint8(one), f"seed {of}") for one, of in zip(pictures, seeds, strict=True)]
        world = radiance_field(model, scenes, pose.azimuth)
        try:
            mesh = extract_field_mesh(world, MeshConfig(resolution=_VOXELS))
        except NoSurface as error:
            raise UserError(
                f"the sample of seed {seed} shows nothing that is solid: take another --seed or another picture"
            ) from error
        return on_surface(mesh, config.count, seed)

    @property
    def sheets(self) -> Mapping[str, Sequence[UInt8[np.ndarray, "H W 3"]]]:
        """The backs of the scenes of this seed and the next ones."""
        return {"backs": self._backs} if self._backs else {}


def radiance_field(model: SceneField, scenes: DecodedScenes, azimuth: float) -> RadianceField:
    """The first of some scenes in the world of the asset. azimuth: that of its picture there, in degrees."""
    one = scenes.each()[0]
    angle = torch.deg2rad(scenes.azimuth[0] - azimuth)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    to_field = torch.stack([cos, zero, sin, zero, torch.ones_like(angle), zero, -sin, zero, cos]).view(3, 3)

    def query(points: Float[Tensor, "M 3"], directions: Float[Tensor, "M 3"]) -> tuple[Tensor, Tensor]:
        colors, densities = model.shade_all(one, points @ to_field.T)
        return densities * (points.norm(dim=1) <= EXTENT), colors

    return RadianceField(query, torch.tensor([[-EXTENT] * 3, [EXTENT] * 3]))
