"""3D Gaussians as a representation: raw parameters, their activations and bounds, statistics of density control.

Kerbl et al. 2023, "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (3DGS).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.settings import SettingError, above, at_least, between, settings
from threedgen.core.spherical_harmonics import DC, dc_from_rgb
from threedgen.core.transfer import Number, on_cpu, write
from threedgen.core.types import GaussianCloud, RenderOutput
from threedgen.loop.regularizers import weigh
from threedgen.representations import density_control, gaussian_terms, initialisers
from threedgen.representations.base import Representation, RowOptimizer

# Colours stay slightly above zero: at zero the renderer's max(0, .) stops the gradient for good.
DARKEST = 1.0 / 512.0
_FILES = ("mesh", "points")  # values of init that read the file of the setting of that name
PARAMETERS = ("means", "quats", "log_scales", "opacity_logits", "sh", "sh_rest")


@settings
class LearningRates:
    """Initial learning rates of Adam for each group of parameters, tuned for runs of a few hundred steps.

    Attributes:
        means (world units per step): Rate of the centres.
        quats: Rate of the quaternions that turn the Gaussians.
        log_scales: Rate of the natural logarithms of the standard deviations.
        opacity_logits: Rate of the logits of the opacities.
        sh: Rate of the constant coefficient of the colour; 0.07 moves a colour by 0.02 per step.
        sh_rest: Rate of the coefficients of the view-dependent colour; the default is a 20th of sh, as in 3DGS.
    """

    means: float = 0.006
    quats: float = 0.02
    log_scales: float = 0.015
    opacity_logits: float = 0.05
    sh: float = 0.07
    sh_rest: float = 0.0035


@settings
class Config:
    """3D Gaussians; the object is meant to fill the unit sphere.

    Attributes:
        count: Number of Gaussians at the start.
        init: Where they start: ball spreads them evenly over the volume of a ball, sphere over the surface of a
            sphere, mesh over the surface of a mesh file, points at those of a file; colours are those of the file.
        radius (world units): Radius of that ball or sphere, or of the bounding sphere to which the mesh is scaled.
        mesh: Path of the mesh file if init is mesh (glb, obj, ply, stl or off).
        points: Path of the point cloud (ply) if init is points. If it has fewer than count points, the rest are
            spread over the ball; if it has more, they are drawn from it.
        opacity: Opacity of every Gaussian at the start.
        color_noise: Standard deviation of the colours around mid grey at the start, if they come from no file.
        sh_degree: Highest degree of the spherical harmonics of the colour; 0 is a colour that is the same from
            all sides.
        sh_full: Fraction of the run at which the last of these degrees is switched on; they are switched on one
            after the other, evenly spaced.
        scales (world units): Smallest and largest standard deviation of a Gaussian along an axis, kept after
            every step.
        learning_rates: Initial learning rate of each group of parameters.
        density: When Gaussians are copied, split and removed.
        regularizers: Weights of the terms of the loss on the Gaussians themselves.
    """

    count: Annotated[int, at_least(1)] = 4096
    init: Literal["ball", "sphere", "mesh", "points"] = "ball"
    radius: Annotated[float, above(0.0)] = 0.75
    mesh: str | None = None
    points: str | None = None
    opacity: Annotated[float, between(0.0, 1.0, open_low=True, open_high=True)] = 0.1
    color_noise: Annotated[float, at_least(0.0)] = 0.05
    sh_degree: Annotated[int, between(0, 3)] = 0
    sh_full: Annotated[float, between(0.0, 1.0)] = 0.5
    scales: Annotated[tuple[float, float], above(0.0)] = (0.0025, 0.3)
    learning_rates: LearningRates = field(default_factory=LearningRates)
    density: density_control.Config = field(default_factory=density_control.Config)
    regularizers: gaussian_terms.Config = field(default_factory=gaussian_terms.Config)

    def __post_init__(self) -> None:
        if not self.scales[0] < self.scales[1]:
            raise SettingError("scales", f"is {list(self.scales)}; the first number must be the smaller one")
        if self.init not in ("ball", "sphere", *_FILES):
            raise SettingError("init", f"is {self.init!r}; it must be ball, sphere, mesh or points")
        for kind in _FILES:
            named = getattr(self, kind) is not None
            if self.init == kind and not named:
                raise SettingError(kind, f"names no file although init is {kind}: set it to a file")
            if self.init != kind and named:
                raise SettingError(kind, f"is set although init is {self.init}: set init to {kind} as well")


class Gaussians(Representation):
    """N anisotropic Gaussians with raw parameters, which `at` activates.

    means: [N, 3], world units. quats: [N, 4], (w, x, y, z). log_scales: [N, 3], natural logarithms of world units.
    opacity_logits: [N]. sh: [N, 1, 3], the constant coefficient of the colour. sh_rest: [N, K - 1, 3], the other
    coefficients, of which there are none at degree 0. Buffers are gradient_sum and view_count, the statistics of
    density control, and active_degree. A state with any number of Gaussians can be loaded.
    """

    Config = Config
    renderer = "splatting"

    means: nn.Parameter
    quats: nn.Parameter
    log_scales: nn.Parameter
    opacity_logits: nn.Parameter
    sh: nn.Parameter
    sh_rest: nn.Parameter
    gradient_sum: Float[Tensor, " N"]
    view_count: Int[Tensor, " N"]
    active_degree: Int[Tensor, ""]

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self._rates = config.learning_rates
        self._density = config.density
        self._terms = config.regularizers
        self._limits = (math.log(config.scales[0]), math.log(config.scales[1]))
        points, colors = _starting_points(config, seed)
        coefficients = (config.sh_degree + 1) ** 2
        log_scales = initialisers.neighbour_distance(points).log().clamp(*self._limits)
        self._set_rows(
            {
                "means": points,
                "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(points), 1),
                "log_scales": log_scales[:, None].repeat(1, 3),
                "opacity_logits": torch.logit(torch.full_like(points[:, 0], config.opacity)),
                "sh": dc_from_rgb(colors)[:, None, :],
                "sh_rest": points.new_zeros(len(points), coefficients - 1, 3),
            }
        )
        self.register_buffer("gradient_sum", points.new_zeros(len(points)))
        self.register_buffer("view_count", torch.zeros(len(points), dtype=torch.int64))
        self.register_buffer("active_degree", torch.tensor(config.sh_degree if config.sh_full == 0.0 else 0))

    @classmethod
    def blank(cls, config: Config) -> Self:
        """A scene of one Gaussian to load a state or a cloud into; the file of `config` is not read."""
        return cls(dataclasses.replace(config, count=1, init="ball", mesh=None, points=None))

    @classmethod
    def from_cloud(cls, cloud: GaussianCloud, config: Config | None = None) -> Self:
        """Raw parameters whose `at()` is `cloud`, up to rounding and the open intervals of the activations.

        The active degree is that of the cloud. config: learning rates and density control of the scene; its
        sh_degree may be higher than that of the cloud, its count and init are not used.
        """
        config = config or Config()
        degree = max(cloud.sh_degree, config.sh_degree)
        scene = cls.blank(dataclasses.replace(config, sh_degree=degree))
        tiny = 1e-6
        rest = cloud.sh[:, 1:]
        missing = (degree + 1) ** 2 - 1 - rest.shape[1]
        padded = torch.cat([rest, rest.new_zeros(len(cloud), missing, 3)], dim=1)
        rows = {
            "means": cloud.means,
            "quats": cloud.quats,
            "log_scales": cloud.scales.log(),
            "opacity_logits": torch.logit(cloud.opacities.clamp(tiny, 1.0 - tiny)),
            "sh": cloud.sh[:, :1],
            "sh_rest": padded,
        }
        scene._set_rows({name: value.detach().clone() for name, value in rows.items()})
        scene._forget_statistics()
        scene.active_degree.fill_(cloud.sh_degree)
        return scene

    def __len__(self) -> int:
        return len(self.means)

    def at(self, time: Float[Tensor, " B"] | None = None) -> GaussianCloud:
        """The activated cloud, differentiable; `time` is ignored because nothing moves."""
        coefficients = (int(on_cpu(self.active_degree)) + 1) ** 2
        sh = (
            self.sh if coefficients == 1 else torch.cat([self.sh, self.sh_rest[:, : coefficients - 1]], dim=1)
        )
        return GaussianCloud(
            self.means, self.quats, self.log_scales.exp(), torch.sigmoid(self.opacity_logits), sh
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group per parameter, under its name."""
        return {name: [getattr(self, name)] for name in PARAMETERS}

    def learning_rates(self) -> Mapping[str, float]:
        """The initial learning rate of each group."""
        return dataclasses.asdict(self._rates)

    def penalty(
        self, primitive: GaussianCloud, step: int, total: int
    ) -> tuple[Float[Tensor, ""] | float, Mapping[str, Number]]:
        """The weighted terms of `gaussian_terms`."""
        return weigh(gaussian_terms.TERMS, self._terms, primitive, step, total)

    @torch.no_grad()
    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: RowOptimizer, seed: int
    ) -> dict[str, float]:
        """Enforces the bounds, raises the colour degree, gathers statistics and, if it is time, refines.

        Call it after the step of the optimizer and before gradients are cleared: it reads the gradient of
        output.screen.means2d. Logs the number of Gaussians, and how many a refinement copied, split and removed.
        """
        self.constrain()
        self._raise_degree(step, total)
        self._observe(output)
        plan = density_control.refinement_at(self._density, step, total)
        if plan is None:
            return {"gaussians": float(len(self))}
        statistic = self.gradient_sum / self.view_count.clamp(min=1) if plan.grow else None
        edit = density_control.refine(
            self.means,
            self.quats,
            self.log_scales,
            self.opacity_logits,
            statistic,
            self._density,
            generator(seed, "density", step),
        )
        self._edit_rows(edit, optimizer)
        self._forget_statistics()
        if plan.reset:
            self._reset_opacity(optimizer)
        return {
            "gaussians": float(len(self)),
            "cloned": float(edit.cloned),
            "split": float(edit.split),
            "pruned": float(edit.pruned),
        }

    @torch.no_grad()
    def constrain(self) -> None:
        """Brings scales within their bounds, quaternions to length 1 and the constant colour into [1/512, 1]."""
        self.log_scales.clamp_(*self._limits)
        length = torch.linalg.vector_norm(self.quats, dim=-1, keepdim=True)
        self.quats.div_(length.clamp(min=1e-12))
        self.sh.clamp_((DARKEST - 0.5) / DC, 0.5 / DC)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As that of nn.Module, for any number of Gaussians. Raises UserError if the tensors do not fit.

        Parameters become new objects if the number differs: build or load the optimizer afterwards.
        """
        count = len(state_dict["means"]) if "means" in state_dict else -1
        for name, value in [*self.named_parameters(), *self.named_buffers()]:
            given = state_dict.get(name)
            wanted = (count, *value.shape[1:]) if value.ndim else ()
            if given is None or tuple(given.shape) != wanted:
                found = "missing" if given is None else f"{list(given.shape)}"
                raise UserError(
                    f"the saved Gaussians do not fit this recipe: {name} is {found}, it must be {list(wanted)}"
                )
        if count != len(self):
            sizes = {name: getattr(self, name) for name in PARAMETERS}
            self._set_rows({name: value.new_empty(count, *value.shape[1:]) for name, value in sizes.items()})
            self._forget_statistics()
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _set_rows(self, rows: Mapping[str, Tensor]) -> None:
        for name in PARAMETERS:
            setattr(self, name, nn.Parameter(rows[name].detach()))

    def _forget_statistics(self) -> None:
        self.gradient_sum = self.means.detach().new_zeros(len(self))
        self.view_count = torch.zeros(len(self), dtype=torch.int64, device=self.means.device)

    def _raise_degree(self, step: int, total: int) -> None:
        """Switches degree d of D on if the next step is past the fraction sh_full * d / D of the run."""
        done = (step + 1) / max(total, 1)
        if self.config.sh_degree == 0:
            return
        full = self.config.sh_full
        reached = self.config.sh_degree if done >= full else int(self.config.sh_degree * done / full)
        if reached > int(on_cpu(self.active_degree)):
            write(self.active_degree, torch.tensor(reached))

    def _observe(self, output: RenderOutput) -> None:
        if output.screen is None or not self._density.enabled:
            return
        seen = density_control.relative_gradient(output.screen)
        if seen is not None:
            self.gradient_sum += seen[0].to(self.gradient_sum)
            self.view_count += seen[1]

    def _edit_rows(self, edit: density_control.Edit, optimizer: RowOptimizer) -> None:
        source = torch.where(edit.fresh, torch.full_like(edit.parents, -1), edit.parents)
        for name in PARAMETERS:
            old = getattr(self, name)
            rows = (
                getattr(edit, name)
                if name in ("means", "log_scales", "opacity_logits")
                else old[edit.parents]
            )
            new = nn.Parameter(rows.detach())
            setattr(self, name, new)
            optimizer.replace_rows(old, new, source)

    def _reset_opacity(self, optimizer: RowOptimizer) -> None:
        """The reset of 3DGS: no opacity stays above twice the threshold of pruning."""
        opacity = max(2.0 * self._density.prune_opacity, 1e-6)
        self.opacity_logits.clamp_(max=math.log(opacity / (1.0 - opacity)))
        optimizer.zero_moments(self.opacity_logits)


def _starting_points(config: Config, seed: int) -> initialisers.Points:
    draw = generator(seed, "initialise", 0)
    if config.init == "mesh":
        from threedgen.datasets.mesh_files import read_mesh

        mesh = read_mesh(str(config.mesh), config.radius)
        return initialisers.mesh_surface(mesh, config.count, draw)
    known, shades = torch.zeros(0, 3), torch.zeros(0, 3)
    if config.init == "points":
        from threedgen.datasets.point_files import read_points

        known, shades = read_points(Path(str(config.points)))
        chosen = torch.randperm(len(known), generator=draw)[: config.count]
        known, shades = known[chosen], shades[chosen]
    place = initialisers.sphere if config.init == "sphere" else initialisers.ball
    points = place(config.count - len(known), config.radius, draw)
    colors = 0.5 + config.color_noise * torch.randn(len(points), 3, generator=draw)
    return torch.cat([known, points]), torch.cat([shades, colors]).clamp(DARKEST, 1.0)
