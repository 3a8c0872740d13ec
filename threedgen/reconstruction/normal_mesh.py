"""A mesh with a texture that two multi-view priors make of a picture or a text in one pass (Direct2.5, Lu et al.
2024, arXiv:2311.15980): one draws normals, of which the shape is made, the other colours, which are baked in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras.reference import cameras_of
from threedgen.core.errors import UserError
from threedgen.core.settings import above, between, settings
from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets.cut_outs import read_cut_out
from threedgen.datasets.normal_maps import into_frame
from threedgen.export.painting import colored, paint
from threedgen.export.views import View
from threedgen.guidance.priors.base import Prior, roles_of
from threedgen.guidance.priors.codec import signed
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.reconstruction import normal_fusion
from threedgen.reconstruction.hull import foreground
from threedgen.reconstruction.normal_frame import renormalised
from threedgen.reconstruction.normal_fusion import fused
from threedgen.reconstruction.reconstructed import ViewsConfig, asked_of, check_asked, on_white
from threedgen.reconstruction.sampling import at_places, sample_views
from threedgen.renderers.mesh import MeshRenderer
from threedgen.representations import mesh
from threedgen.representations.mesh import Mesh

_TRUST = 30.0  # of the given picture, beside a view that was drawn


@settings
class Config(ViewsConfig):
    """A mesh that is made of a picture or of a text in one pass.

    Attributes:
        normals: Folder of the multi-view prior that draws the normals, pipeline/ of `threedgen train prior --kind
            multiview --shows normals`. `prior` draws the colours.
        fusion: How the normals become a mesh.
        places: Shares of the sampler of the colours after which its views are replaced by what the mesh shows in
            their colours, so that they agree with its shape. A prior that draws all views in one picture, or a
            clip, is not corrected.
        texture_size (texels): Width and height of the texture.
        rate (per step): Learning rate of the texels, which are compared with the picture.
    """

    normals: str = ""
    fusion: normal_fusion.Config = field(default_factory=normal_fusion.Config)
    places: Annotated[tuple[float, ...], between(0.0, 1.0)] = (0.4, 0.6, 0.8)
    texture_size: Annotated[int, between(4, 8192)] = 512
    rate: Annotated[float, above(0.0)] = 0.01

    def plain(self) -> mesh.Config:
        """The same settings of an ordinary mesh."""
        rates = mesh.LearningRates(texture=self.rate)
        return mesh.Config(
            vertices="fixed", color="texture", texture_size=self.texture_size, learning_rates=rates
        )


class NormalMesh(Mesh):
    """A mesh, which begins as the priors make it. Its texture is optimised, and its vertices stay."""

    Config = Config
    prior_setting = "prior"
    pose_setting = "reference"
    starts_from = ()

    def __init__(self, config: Config, seed: int = 0) -> None:
        """Raises UserError as `made_of` does."""
        super().__init__(config.plain(), asset=made_of(config, seed))

    @classmethod
    def blank(cls, config: Config) -> Self:
        """A scene of one triangle to load a state into. It needs neither the priors nor the picture."""
        scene = cls.__new__(cls)
        Mesh.__init__(scene, config.plain(), asset=mesh.triangle(config.texture_size))
        return scene


def made_of(config: Config, seed: int) -> TriMesh:
    """The mesh with a texture that the priors of a config make. Raises UserError."""
    if not config.normals:
        raise UserError(
            "representation.normals is empty: name a prior of normals, the folder pipeline/ of `threedgen train "
            "prior --kind multiview --shows normals`"
        )
    check_asked(config)
    drawn = load_prior(PriorConfig(path=config.normals), shows="normals")
    prior = load_prior(config.prior)  # before the work, so that a wrong one is reported at once
    shape = shape_of(drawn, config, seed)
    views = colours_on(shape, prior, config, seed)
    return paint(colored(shape, views), views, config.texture_size)


def shape_of(prior: Prior, config: Config, seed: int) -> TriMesh:
    """The mesh of the normals that a prior draws, without colours. Raises UserError for normals of no object."""
    asked = asked_of(config, prior, prior.image_size, seed)
    drawn = 2.0 * sample_views(prior, asked) - 1.0
    front = config.reference.azimuth if config.image else 0.0
    normals, alpha = renormalised(into_frame(drawn, drawn.new_tensor(-front)))
    try:
        return fused(normals, alpha, asked.cameras, config.fusion, seed)
    except UserError as error:
        raise UserError(
            f"the prior of normals drew no object ({error}): take another --seed or picture, or train the prior "
            "for longer"
        ) from error


@torch.no_grad()
def colours_on(shape: TriMesh, prior: Prior, config: Config, seed: int) -> list[View]:
    """Views in the colours that a prior draws, and the given picture, as they lie on a mesh."""
    given = []
    if config.image:
        image, alpha = read_cut_out(config.image)
        given = [View(cameras_of([config.reference], len(image)), image - (1.0 - alpha), alpha, _TRUST)]
    asked, roles = asked_of(config, prior, prior.image_size, seed), roles_of(prior)
    single = roles.layout is None and roles.frames == 1
    correction = OnMesh(prior, shape, asked.cameras, given, config.places) if single else None
    pictures, cameras = sample_views(prior, asked, correction), asked.cameras
    if roles.layout is not None and roles.layout.background != 1.0:
        pictures, cameras = on_white(pictures, cameras, roles.layout.background)
    return [*views_on(shape, pictures, cameras), *given]


def views_on(shape: TriMesh, pictures: Float[Tensor, "V H W 3"], cameras: Cameras) -> list[View]:
    """Pictures on white as views of a mesh, where both show the object. The pixels at outlines, which are mixed
    with white, are left out."""
    size = pictures.shape[1]
    cameras = cameras.resized(size, size)
    covered = MeshRenderer()(shape, cameras, torch.ones(3)).alpha
    both = foreground(signed(pictures, size))[..., None] & (covered > 0.99)
    outside = F.max_pool2d(1.0 - both.float().permute(0, 3, 1, 2), 3, stride=1, padding=1)
    alpha = 1.0 - outside.permute(0, 2, 3, 1)
    return [
        View(cameras[view : view + 1], pictures[view] * alpha[view], alpha[view])
        for view in range(len(pictures))
    ]


class OnMesh:
    """A Correction of the sampler: the estimates are laid on a mesh, and what that shows continues.

    prior: whose samples they are. cameras: of the views. given: further views of the mesh. places: shares of the
    sampler, in [0, 1], after which a step is corrected.
    """

    each = False

    def __init__(
        self, prior: Prior, shape: TriMesh, cameras: Cameras, given: Sequence[View], places: Sequence[float]
    ) -> None:
        self.prior, self.shape, self.given, self.places = prior, shape, given, places
        self.cameras = cameras
        self._renderer = MeshRenderer()

    def applies(self, step: int, steps: int) -> bool:
        return at_places(self.places, step, steps)

    def __call__(self, z: Tensor, estimate: Tensor, t: Tensor) -> Tensor:
        pictures = self.prior.decode(estimate).clamp(0.0, 1.0)
        painted = colored(self.shape, [*views_on(self.shape, pictures, self.cameras), *self.given])
        shown = self._renderer(painted, self.cameras.resized(*pictures.shape[1:3]), torch.ones(3)).rgb
        return self.prior.encode(shown.clamp(0.0, 1.0))
