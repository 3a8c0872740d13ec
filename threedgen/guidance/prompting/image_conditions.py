"""The pictures that some priors are told beside text: a reference that is turned, or one picture for each view."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras, RenderOutput
from threedgen.guidance.priors.base import Condition, Prior, Reference

_OF_RENDERS = ("render", "depth", "normal")


@dataclass(frozen=True)
class ReferenceConfig:
    """image: a picture file; where it is transparent it is put on white. azimuth, elevation: degrees, where it
    was seen from (0, 0: from the front). distance: world units; only differences to the views' count."""

    image: str = ""
    azimuth: float = 0.0
    elevation: float = 0.0
    distance: float = 2.85

    def __post_init__(self) -> None:
        if not math.isfinite(self.azimuth):
            raise UserError(f"reference.azimuth must be a number of degrees, got {self.azimuth}")
        if not -90.0 <= self.elevation <= 90.0:
            raise UserError(f"reference.elevation must lie between -90 and 90 degrees, got {self.elevation}")
        if not 0.0 < self.distance < math.inf:
            raise UserError(f"reference.distance must be a positive number, got {self.distance}")


@dataclass(frozen=True)
class Picturing:
    """What a prior is shown, the settings that all guidances share.

    reference: for priors that turn a picture (Zero-1-to-3).
    pictures:  for priors that follow a picture of each view (ControlNet, InstructPix2Pix, DeepFloyd IF stage II):
               render, depth or normal of the step, or the folder of given pictures that cameras.path names.
               "": none, or the render where the prior enlarges it.
    """

    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    pictures: str = ""


class ImageConditions:
    """Adds to a Condition what the prior is shown.

    Raises UserError when the prior needs what the config lacks, or the config has what the prior does not read.
    """

    def __init__(self, prior: Prior, config: Picturing) -> None:
        wanted = getattr(prior, "image_condition", "none")
        self._kind = config.pictures or ("render" if wanted == "render" else "")
        if wanted == "reference" and not config.reference.image:
            raise UserError(
                "this prior turns a picture: set reference.image to a file, and reference.azimuth and "
                "reference.elevation to where it was seen from"
            )
        if wanted == "pictures" and not config.pictures:
            raise UserError(
                "this prior follows a picture of each view: set pictures to render, depth, normal, or the folder "
                "of given pictures"
            )
        if wanted == "render" and config.pictures not in ("", "render"):
            raise UserError(
                f"this prior sharpens the render itself, not '{config.pictures}': leave `pictures` out"
            )
        unread = "reference" if config.reference != ReferenceConfig() and wanted != "reference" else ""
        unread = unread or ("pictures" if config.pictures and wanted not in ("pictures", "render") else "")
        if unread:
            raise UserError(f"this prior reads no {unread}: take '{unread}' out, or choose another prior")
        self._reference = read_reference(config.reference) if wanted == "reference" else None
        self._given: Tensor | None = None
        if self._kind and self._kind not in _OF_RENDERS:
            from threedgen.datasets.given import read_pictures

            self._given = read_pictures(self._kind).images

    def __call__(self, condition: Condition, cameras: Cameras, output: RenderOutput | None) -> Condition:
        """`condition` with the reference, and with pictures of the views of `output`, detached."""
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
            return self._given[cameras.index.to(self._given.device)].to(output.rgb)
        if self._kind == "render":
            return output.rgb.detach()
        picture = depth_picture(output) if self._kind == "depth" else normal_picture(output, cameras)
        if picture is None:
            raise UserError(
                f"`pictures` asks for {self._kind}, which this renderer does not give: render meshes (or volumes "
                "with renderer.normals=true), or choose other pictures and a prior that follows them"
            )
        return picture


def depth_picture(output: RenderOutput) -> Float[Tensor, "B H W 3"] | None:
    """Nearness: 1 at the nearest and 0 at the farthest point of the object and behind it, in each picture."""
    if output.depth is None:
        return None
    solid = output.alpha > 0.5
    depth = output.depth / output.alpha.clamp_min(1e-6)
    near = torch.where(solid, depth, torch.inf).amin((1, 2, 3), keepdim=True)
    far = torch.where(solid, depth, -torch.inf).amax((1, 2, 3), keepdim=True)
    nearness = (far - depth) / (far - near).clamp_min(1e-6)
    return torch.where(solid, nearness.clamp(0.0, 1.0), 0.0).expand(-1, -1, -1, 3)


def normal_picture(output: RenderOutput, cameras: Cameras) -> Float[Tensor, "B H W 3"] | None:
    """Normals as the ControlNets for them see them: red to the right, green up, blue to the camera, grey behind."""
    if output.normal is None:
        return None
    seen = torch.einsum(
        "bij,bhwi->bhwj", cameras.world_from_camera[:, :3, :3].to(output.normal), output.normal
    )
    towards = torch.nn.functional.normalize(seen, dim=-1) * seen.new_tensor([1.0, -1.0, -1.0])
    return 0.5 + 0.5 * towards * (output.alpha > 0.5)


def read_reference(config: ReferenceConfig) -> Reference:
    """The picture of a file, square, on white. Raises UserError when it cannot be read or is not square."""
    import imageio.v3 as iio
    import numpy as np

    path = Path(config.image).expanduser()
    try:
        array = np.asarray(iio.imread(path))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"reference.image '{path}' cannot be read ({reason[0]}): name a PNG or JPEG"
        ) from error
    if array.ndim != 3 or array.shape[2] not in (3, 4) or array.dtype != np.uint8:
        raise UserError(f"reference.image '{path}' is not an 8-bit RGB or RGBA picture")
    if array.shape[0] != array.shape[1]:
        raise UserError(
            f"reference.image '{path}' is {array.shape[1]} x {array.shape[0]}: crop it to a square"
        )
    picture = torch.from_numpy(array.astype(np.float32) / 255.0)
    alpha = picture[..., 3:] if picture.shape[2] == 4 else torch.ones(1)
    image = picture[..., :3] * alpha + (1.0 - alpha)
    return Reference(image, config.azimuth, config.elevation, config.distance)
