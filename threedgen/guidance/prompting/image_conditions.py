"""Pictures as conditions of a prior: a reference picture to show from other sides, or one picture for each view."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.core.settings import above, between, finite, settings
from threedgen.core.transfer import rows
from threedgen.core.types import Cameras, RenderOutput
from threedgen.datasets.picture import size_of
from threedgen.guidance.priors.base import Condition, Prior, ReferenceView, roles_of
from threedgen.guidance.priors.folder.files import first_line

_OF_RENDERS = ("render", "depth", "normal")


@settings
class ReferenceConfig:
    """A reference picture and the pose of its camera.

    Attributes:
        image: File of the picture, a square; transparent pixels become white.
        azimuth (degrees): Azimuth of its camera; 0 is the front.
        elevation (degrees): Elevation of its camera; 0 is horizontal.
        distance (world units): Distance of its camera, of which only the difference to that of a view matters.
    """

    image: str = ""
    azimuth: Annotated[float, finite] = 0.0
    elevation: Annotated[float, between(-90.0, 90.0)] = 0.0
    distance: Annotated[float, above(0.0)] = 2.85


@settings
class Picturing:
    """Common settings of guidances with a prior: the pictures that it receives.

    Attributes:
        reference: Reference picture, for priors that show it from other sides (Zero-1-to-3).
        pictures: Picture of each view, for priors that need one (ControlNet, InstructPix2Pix, DeepFloyd IF stage
            II). It is render, depth or normal of the step, or the folder of given pictures that cameras.path
            names. Empty is none, or the render if the prior enlarges it.
    """

    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    pictures: str = ""


class ImageConditions:
    """Adds pictures to a Condition.

    Raises UserError if the prior needs a picture that the config lacks, or does not use one that the config has.
    """

    def __init__(self, prior: Prior, config: Picturing) -> None:
        roles = roles_of(prior)
        wanted = roles.image_condition
        if roles.layout is not None:
            raise UserError(
                "this prior draws all views of an object as one picture (Zero123++), which score distillation "
                "cannot compare with a render: use it as --prior of image-to-3d with --recipe hunyuan3d"
            )
        self._kind = config.pictures or ("render" if wanted == "render" else "")
        if wanted == "reference" and not config.reference.image:
            raise UserError(
                "this prior shows a given picture from other sides and reads no prompt: name it with --prior of "
                "image-to-3d, or a text-to-image model here; in a recipe set reference.image to a file, and "
                "reference.azimuth and reference.elevation to the pose of its camera"
            )
        if wanted == "pictures" and not config.pictures:
            raise UserError(
                "this prior needs a picture of each view: set pictures to render, depth, normal, or the folder of "
                "given pictures"
            )
        if wanted == "render" and config.pictures not in ("", "render"):
            raise UserError(
                f"this prior sharpens the render itself, not '{config.pictures}': leave `pictures` out"
            )
        takes = wanted in ("reference", "optional-reference")
        unused = "reference" if config.reference != ReferenceConfig() and not takes else ""
        unused = unused or ("pictures" if config.pictures and wanted not in ("pictures", "render") else "")
        if unused == "reference":
            raise UserError(
                "this prior uses no reference, a picture that it shows from other sides: image-to-3d needs a "
                "view-conditioned model as --prior, and a text-to-image model is for text-to-3d, or for "
                "--text-prior of recipes such as magic123; in a recipe leave 'reference' out"
            )
        if unused:
            raise UserError(f"this prior uses no {unused}: leave '{unused}' out, or choose another prior")
        self._reference = read_reference(config.reference) if takes and config.reference.image else None
        self._given: Tensor | None = None
        if self._kind and self._kind not in _OF_RENDERS:
            from threedgen.datasets.given import read_pictures

            self._given = read_pictures(self._kind).images

    def __call__(self, condition: Condition, cameras: Cameras, output: RenderOutput | None) -> Condition:
        """`condition` with the reference picture, or with detached pictures of the views of `output`."""
        if self._reference is not None:
            return replace(condition, reference=self._reference)
        if not self._kind or output is None:
            return condition
        return replace(condition, pictures=self._pictures(cameras, output))

    @torch.no_grad()
    def _pictures(self, cameras: Cameras, output: RenderOutput) -> Float[Tensor, "B H W 3"]:
        if self._given is not None:
            if cameras.index is None:
                raise UserError("these cameras have no pictures: set pictures=render, or cameras.name=given")
            return rows(self._given, cameras.index).to(output.rgb)
        if self._kind == "render":
            return output.rgb.detach()
        picture = depth_picture(output) if self._kind == "depth" else normal_picture(output, cameras)
        if picture is None:
            raise UserError(
                f"`pictures` is {self._kind}, which this renderer does not give: render meshes (or volumes with "
                "renderer.normals=true), or choose other pictures and a prior for them"
            )
        return picture


def depth_picture(output: RenderOutput) -> Float[Tensor, "B H W 3"] | None:
    """Nearness: in each picture 1 at the nearest point of the object, 0 at the farthest and in the background."""
    if output.depth is None:
        return None
    solid = output.alpha > 0.5
    depth = output.depth / output.alpha.clamp_min(1e-6)
    near = torch.where(solid, depth, torch.inf).amin((1, 2, 3), keepdim=True)
    far = torch.where(solid, depth, -torch.inf).amax((1, 2, 3), keepdim=True)
    nearness = (far - depth) / (far - near).clamp_min(1e-6)
    return torch.where(solid, nearness.clamp(0.0, 1.0), 0.0).expand(-1, -1, -1, 3)


def normal_picture(output: RenderOutput, cameras: Cameras) -> Float[Tensor, "B H W 3"] | None:
    """Normals in the colours of ControlNets: red to the right, green up, blue to the camera, a grey background."""
    if output.normal is None:
        return None
    seen = torch.einsum(
        "bij,bhwi->bhwj", cameras.world_from_camera[:, :3, :3].to(output.normal), output.normal
    )
    towards = torch.nn.functional.normalize(seen, dim=-1) * seen.new_tensor([1.0, -1.0, -1.0])
    return 0.5 + 0.5 * towards * (output.alpha > 0.5)


def read_reference(config: ReferenceConfig) -> ReferenceView:
    """The picture of a file on white. Raises UserError if it cannot be read, is too large, not square or has no
    8-bit colours."""
    import imageio.v3 as iio
    import numpy as np

    path = existing(config.image, "there is no reference picture '{path}'")
    size_of(path, smallest=1)
    try:
        array = np.asarray(iio.imread(path))
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: of Pillow, for a broken chunk
        raise UserError(
            f"the reference picture '{path}' cannot be read ({first_line(error)}): name a PNG or JPEG"
        ) from error
    if array.ndim != 3 or array.shape[2] not in (3, 4) or array.dtype != np.uint8:
        raise UserError(
            f"the reference picture '{path}' is not an 8-bit RGB or RGBA picture: save it as a PNG"
        )
    if array.shape[0] != array.shape[1]:
        raise UserError(
            f"the reference picture '{path}' has {array.shape[1]} x {array.shape[0]} pixels: crop it to a square"
        )
    picture = torch.from_numpy(array.astype(np.float32) / 255.0)
    alpha = picture[..., 3:] if picture.shape[2] == 4 else torch.ones(1)
    image = picture[..., :3] * alpha + (1.0 - alpha)
    return ReferenceView(image, config.azimuth, config.elevation, config.distance)
