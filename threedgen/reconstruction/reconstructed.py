"""Gaussians that two networks make of a picture or a text in seconds: a multi-view prior draws views, and a
reconstructor turns them into Gaussians. Score distillation and the picture itself may refine them."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import field
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.cameras.reference import ReferencePose, cameras_of
from threedgen.core.errors import UserError
from threedgen.core.png import to_uint8
from threedgen.core.settings import at_least, between, settings
from threedgen.core.types import Cameras, GaussianCloud
from threedgen.datasets.background_removal import remove_background
from threedgen.datasets.cut_outs import read_cut_out
from threedgen.guidance.priors.base import Prior, ReferenceView, roles_of
from threedgen.guidance.priors.codec import signed
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.reconstruction.network import Reconstructor
from threedgen.reconstruction.sampling import MOST, Asked, Corrector, reconstruct, sample_views, spaced
from threedgen.reconstruction.store import load_reconstructor
from threedgen.representations.made_gaussians import MadeConfig, MadeGaussians


@settings
class ViewsConfig:
    """Views of an object that a multi-view prior draws.

    Attributes:
        image: File of the cut-out. `threedgen image-to-3d` writes it into the run and sets this.
        prompt: What the views show beside the picture, or without one.
        reference: Pose of the camera that saw the picture.
        prior: The multi-view prior that draws the views.
        views: Number of views around the object. A prior that draws all views in one picture, or a clip, has its
            own. Of more than eight, four are reconstructed.
        sampling (steps): Number of steps of the sampler.
        scale: Guidance scale at the first step for the view on the side of the picture. The default is that of the
            prior: 1.5 for the small one, 4 for Zero123++, 7.5 for MVDream.
        least: Guidance scale at the last step, and behind. The default is 1, and for a prior that draws all views
            in one picture the same as scale.
    """

    image: str = ""
    prompt: str = ""
    reference: ReferencePose = field(default_factory=ReferencePose)
    prior: PriorConfig = field(default_factory=lambda: PriorConfig(name="required"))
    views: Annotated[int, between(1, 24)] = 4
    sampling: Annotated[int, at_least(1)] = 20
    scale: Annotated[float | None, at_least(0.0)] = None
    least: Annotated[float | None, at_least(0.0)] = None


@settings
class Config(ViewsConfig, MadeConfig):
    """Gaussians that are made of a picture, of a text or of posed pictures in one pass.

    Attributes:
        pictures: Data set of posed pictures that are the views. `threedgen fit --feed-forward` sets this. At most
            eight of them are taken, and no prior draws any.
        holdout: Number of its pictures that are held out, as cameras.holdout.
        model: Folder of a reconstructor, model/ of a training with `threedgen train reconstructor`.
        trajectory: after makes Gaussians of the finished views; along makes them at every step of the sampler,
            which continues with what they show, so that the views agree; at does so at the steps of `places` only.
        places: Shares of the sampler after which `at` reconstructs.
    """

    pictures: str = ""
    holdout: Annotated[int, at_least(0)] = 0
    model: str = ""
    trajectory: Literal["after", "along", "at"] = "after"
    places: Annotated[tuple[float, ...], between(0.0, 1.0)] = (0.4, 0.6, 0.8)


class ReconstructedGaussians(MadeGaussians):
    """Gaussians, which begin as the networks make them."""

    Config = Config
    prior_setting = "prior"
    pose_setting = "reference"

    def make(self, config: Config, seed: int) -> GaussianCloud:
        return made_of(config, seed)


@torch.no_grad()
def made_of(config: Config, seed: int) -> GaussianCloud:
    """The Gaussians that the networks of a config make. Raises UserError."""
    if not config.model:
        raise UserError(
            "representation.model is empty: name a reconstructor, the folder model/ of `threedgen train "
            "reconstructor`"
        )
    reconstructor = load_reconstructor(config.model)
    if config.pictures:
        return of_pictures(config, reconstructor)
    check_asked(config)
    prior, given = load_prior(config.prior), None
    if config.image:
        image = read_cut_out(config.image)[0]
        given = image, cameras_of([config.reference], image.shape[0])
    return make(prior, reconstructor, asked_of(config, prior, reconstructor.size, seed), given, config)


def check_asked(config: ViewsConfig) -> None:
    """Raises UserError if there is nothing to draw views of."""
    if not config.image and not config.prompt:
        raise UserError("there is neither image nor prompt: give the object's picture or a text")


def asked_of(config: ViewsConfig, prior: Prior, size: int, seed: int) -> Asked:
    """What a prior is asked for; it embeds the prompt. size: pixels of the cameras. Raises UserError."""
    roles, pose, reference = roles_of(prior), config.reference, None
    layout = roles.layout
    if config.image:
        image, alpha = read_cut_out(config.image)
        shown = image if layout is None else layout.behind(image, alpha)
        reference = ReferenceView(shown, pose.azimuth, pose.elevation, pose.distance)
    front = pose.azimuth if config.image else 0.0
    views = roles.frames if roles.frames > 1 else config.views
    cameras = ring(views, front, size) if layout is None else layout.cameras(front, size)
    if layout is None and roles.frames == 1:
        roles.join(views)
    prior.prepare([config.prompt, ""])
    own = prior.default_scale if roles.sampling_scale is None else roles.sampling_scale
    scale = own if config.scale is None else config.scale
    least = config.least if config.least is not None else 1.0 if layout is None else scale
    return Asked(config.prompt, reference, cameras, config.sampling, scale, least, seed)


def of_pictures(config: Config, reconstructor: Reconstructor) -> GaussianCloud:
    """The Gaussians of posed pictures that are not held out, at most MOST of them, spread evenly over the others.
    Raises UserError as `read_pictures` does."""
    from threedgen.datasets.given import held_out, read_pictures

    size = reconstructor.size
    pictures = read_pictures(config.pictures)
    total = len(pictures.images)
    apart = set(held_out(total, config.holdout).tolist())
    free = [index for index in range(total) if index not in apart]
    chosen = sorted({free[index * len(free) // MOST] for index in range(MOST)}) if len(free) > MOST else free
    images, cameras = square(pictures.images[chosen], pictures.cameras[torch.tensor(chosen)])
    return reconstruct(reconstructor, signed(images, size), cameras.resized(size, size))


def square(images: Float[Tensor, "V H W 3"], cameras: Cameras) -> tuple[Float[Tensor, "V S S 3"], Cameras]:
    """Pictures with white at both ends of their shorter side, so that they are square, and their cameras."""
    height, width = images.shape[1:3]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    padded = images.new_ones(len(images), side, side, 3)
    padded[:, top : top + height, left : left + width] = images
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 2] += left
    intrinsics[:, 1, 2] += top
    return padded, dataclasses.replace(cameras, intrinsics=intrinsics, height=side, width=side)


def make(
    prior: Prior,
    reconstructor: Reconstructor,
    asked: Asked,
    picture: tuple[Float[Tensor, "S S 3"], Cameras] | None,
    config: Config,
) -> GaussianCloud:
    """The Gaussians of what is asked for. picture: in [0, 1] on white, with its camera. config: how."""
    size = reconstructor.size
    given = None if picture is None else (signed(picture[0][None], size), picture[1].resized(size, size))
    layout = roles_of(prior).layout
    if layout is not None and config.trajectory != "after":
        raise UserError(
            "this prior draws all views in one picture, whose background renders do not have: set "
            "representation.trajectory=after, as the recipe hunyuan3d does"
        )
    if config.trajectory == "along":
        corrector = Corrector(prior, reconstructor, asked.cameras, given)
        sample_views(prior, asked, corrector)
        assert corrector.cloud is not None
        return corrector.cloud
    corrector = None
    if config.trajectory == "at":
        corrector = Corrector(prior, reconstructor, asked.cameras, given, config.places, each=True)
    views, cameras = sample_views(prior, asked, corrector), asked.cameras
    if layout is not None and layout.background != 1.0:
        views, cameras = on_white(views, cameras, layout.background)
    chosen = spaced(len(views))
    return reconstruct(reconstructor, signed(views[chosen], size), cameras[chosen], given)


def on_white(
    views: Float[Tensor, "V H W 3"], cameras: Cameras, background: float
) -> tuple[Float[Tensor, "K H W 3"], Cameras]:
    """Views on a grey of `background` in [0, 1] as views on white, and their cameras. A view in which no object
    stands out is left out. Raises UserError if that is so in all."""
    found, kept = [], []
    for index, view in enumerate(views):
        try:
            alpha, _ = remove_background(to_uint8(view))
        except UserError:
            continue
        share = torch.from_numpy(alpha.astype("float32") / 255.0).to(view)[..., None]
        white = (view + (1.0 - share) * (1.0 - background)).clamp(0.0, 1.0)
        found.append(torch.where(share > 0.0, white, 1.0))
        kept.append(index)
    if not kept:
        raise UserError(
            "the multi-view prior drew no object in any view: take more steps (representation.sampling), another "
            "seed or another picture"
        )
    if len(kept) < len(views):
        left = len(views) - len(kept)
        warnings.warn(
            f"the multi-view prior drew no object in {left} of {len(views)} views, which are left out",
            stacklevel=2,
        )
    return torch.stack(found), cameras[torch.tensor(kept, device=cameras.device)]


def ring(views: int, azimuth: float, size: int) -> Cameras:
    """Level cameras around the object, evenly spaced, the first at `azimuth` degrees. size: pixels."""
    full = torch.ones(views)
    around = azimuth + 360.0 / views * torch.arange(views)
    return orbit(around, 0.0 * full, DISTANCE * full, FOV, size, size)
