"""A cloud of 3D Gaussians that a field of displacements carries along (Align Your Gaussians, Ling et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed, generator
from threedgen.core.types import Frames, GaussianCloud, TriMesh
from threedgen.loop.regularizers import weigh
from threedgen.representations import deformation, extension, initialisers, motion_terms, trajectory
from threedgen.representations.base import Representation
from threedgen.representations.motion_terms import MovedPoints, nearest
from threedgen.representations.spherical_harmonics import dc_from_rgb
from threedgen.representations.transforms import quat_from_vector, quat_multiply

_OPAQUE = 0.95  # opacity of Gaussians on a mesh
CLOUD = ("means", "quats", "scales", "opacities", "sh")


@dataclass(frozen=True)
class Config:
    """asset: what moves, where no earlier stage makes it: a file with Gaussians (.ply) or a mesh.

    deformation: the field of displacements. learning_rate: of its Adam. trajectory: of the whole cloud, which
    carries the field's displacements along, Gaussians turning and growing with it; off as it is. neighbours: of
    each Gaussian, that the terms below look at. count: of Gaussians that a mesh becomes. regularizers: terms on the
    motion, without what the trajectory does. after: an earlier motion of the same Gaussians that this one goes on
    from. closing: the share of time, at its end, in which the motion comes back to rest, so that it can be played
    in a loop; 0 for none.
    """

    asset: str | None = None
    deformation: deformation.Config = field(default_factory=deformation.Config)
    learning_rate: float = 2e-3
    trajectory: trajectory.Config = field(default_factory=trajectory.Config)
    neighbours: int = 12
    count: int = 6000
    regularizers: motion_terms.Config = field(default_factory=motion_terms.Config)
    after: extension.Config = field(default_factory=extension.Config)
    closing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.learning_rate < float("inf"):
            raise UserError(f"representation.learning_rate is {self.learning_rate}; it must be positive")
        for name in ("neighbours", "count"):
            if getattr(self, name) < 1:
                raise UserError(f"representation.{name} is {getattr(self, name)}; it must be at least 1")
        overlap = self.after.overlap if self.after.run else 0.0
        if not 0.0 <= self.closing <= 1.0 - overlap:
            raise UserError(
                f"representation.closing is {self.closing}; it must be in [0, {1.0 - overlap:g}], a share of the "
                "motion's time outside its overlap with an earlier one"
            )
        if self.regularizers.handover != 0.0 and not self.after.run:
            raise UserError(
                "representation.regularizers.handover needs an earlier motion: representation.after.run"
            )


class DynamicGaussians(Representation):
    """Gaussians as they are at rest, frozen (buffers), and the field that moves their means.

    Opacities and colours stay, and turns and sizes, as in the paper, unless deformation.turns or .sizes say
    otherwise. They are at rest at time 0 but where they go on from an earlier motion.
    """

    Config = Config
    renderer = "splatting"
    starts_from = (GaussianCloud, TriMesh)
    moves = True

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, " N"]
    sh: Float[Tensor, "N K 3"]

    def __init__(self, config: Config, seed: int = 0, cloud: GaussianCloud | None = None) -> None:
        """cloud: the Gaussians that move; None: those of config.asset. The weights of an earlier motion
        (config.after) come from `continue_from`, or from a state. Raises UserError if neither names Gaussians."""
        super().__init__()
        self.config = config
        self._terms = config.regularizers
        cloud = _read(config, seed) if cloud is None else cloud
        for name in CLOUD:
            self.register_buffer(name, getattr(cloud, name).detach().clone())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "deformation", 0) % 2**31)
            self.field = _make_field(config, len(cloud))
        self._neighbours: Tensor | None = None

    @classmethod
    def from_asset(cls, config: Config, seed: int, asset: GaussianCloud | TriMesh) -> Self:
        """Goes on from an earlier stage's Gaussians or mesh. Raises UserError where the recipe names a file as
        well."""
        if config.asset is not None:
            raise UserError(
                "representation.asset is set, but an earlier stage makes what moves: leave one of them out"
            )
        return cls(
            config, seed, asset if isinstance(asset, GaussianCloud) else on_surface(asset, config.count, seed)
        )

    @classmethod
    def blank(cls, config: Config) -> Self:
        """A scene to load a state into; no file is read."""
        one = torch.zeros(1, 3)
        cloud = GaussianCloud(
            one, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), one + 0.01, torch.ones(1), torch.zeros(1, 1, 3)
        )
        return cls(config, 0, cloud)

    def __len__(self) -> int:
        return len(self.means)

    @property
    def rest(self) -> GaussianCloud:
        """The cloud without any motion."""
        return GaussianCloud(*(getattr(self, name) for name in CLOUD))

    def moved(self, times: Float[Tensor, " T"]) -> Float[Tensor, "T N 3"]:
        """Where the means are at `times` in [0, 1]; where they rest, exactly, at time 0 of a first motion."""
        return self.means + self.offsets(times)[..., :3]

    @property
    def outputs(self) -> int:
        """K of `offsets`."""
        return 9 if self.config.trajectory.moves else self.config.deformation.outputs

    def offsets(self, times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        """What the field says, see `deformation`; it may be blended with another's before `carried` takes it."""
        return self.field(self.means, times.to(self.means))

    def carried(self, offsets: Float[Tensor, "N K"]) -> GaussianCloud:
        """The cloud where a moment's offsets bring it; colours that depend on the direction do not turn."""
        rest, config = self.rest, self.config.deformation
        quats, scales, whole = rest.quats, rest.scales, self.config.trajectory.moves
        if config.turns or whole:
            quats = quat_multiply(quat_from_vector(offsets[:, 3:6]), quats)
        if config.sizes or whole:
            scales = scales * offsets[:, -3:].exp()
        return GaussianCloud(rest.means + offsets[:, :3], quats, scales, rest.opacities, rest.sh)

    def at(self, time: Float[Tensor, " B"] | None = None) -> GaussianCloud | Frames:
        """The cloud at rest for None, else a moment a different time."""
        if time is None:
            return self.rest
        times, index = torch.unique(time.to(self.means), return_inverse=True)
        return Frames(tuple(map(self.carried, self.offsets(times))), index, times)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The field's, without those of an earlier motion, and the trajectory's."""
        groups: dict[str, list[nn.Parameter]] = {"deformation": []}
        for name, parameter in self.field.named_parameters():
            if parameter.requires_grad:
                group = "trajectory" if "trajectory." in name else "deformation"
                groups.setdefault(group, []).append(parameter)
        return groups

    def learning_rates(self) -> Mapping[str, float]:
        """Of each group."""
        rates = {"deformation": self.config.learning_rate, "trajectory": self.config.trajectory.learning_rate}
        return {name: rates[name] for name in self.parameter_groups()}

    def penalty(
        self, primitive: GaussianCloud | Frames, step: int, total: int
    ) -> tuple[Float[Tensor, ""] | float, Mapping[str, float]]:
        """The weighted terms of `motion_terms`, and how far the means are from where they rest, at the farthest
        moment of the step (mean over the Gaussians, in world units)."""
        if not isinstance(primitive, Frames):
            return 0.0, {}
        moved = torch.stack([frame.means for frame in primitive.frames if isinstance(frame, GaussianCloud)])
        if self._neighbours is None or len(self._neighbours) != len(self):
            self._neighbours = nearest(self.means, self.config.neighbours)
        carrier = _learning_carrier(self.field)
        if carrier is None:
            bent = moved
        elif carrier is self.field:
            bent = carrier.undone(self.means, moved, primitive.times)
        else:  # blended with something else: what the field itself says is asked for again
            bent = self.means + carrier.own(self.means, primitive.times)[..., :3]
        points = MovedPoints(
            self.means, bent, self._neighbours, lambda: self.moved(moved.new_ones(1))[0], self._departure()
        )
        loss, values = weigh(motion_terms.TERMS, self._terms, points, step, total)
        far = torch.linalg.vector_norm(moved.detach() - self.means, dim=2).mean(1).max()
        return loss, {**values, "motion": float(far)}

    @property
    def earlier_run(self) -> str:
        """The run whose motion this one continues; empty if there is none."""
        return self.config.after.run

    def continue_from(self, earlier: Any) -> None:
        """Sets out from the end of the motion of `earlier`, the scene of the run that config.after names.

        Raises UserError unless that scene moves the same Gaussians in a way whose end can be continued.
        """
        where = f"'{self.config.after.run}', the run that this motion continues,"
        if not isinstance(earlier, DynamicGaussians):
            raise UserError(f"{where} does not hold dynamic-gaussians: nothing moves in it")
        if len(earlier) != len(self) or not torch.allclose(earlier.means, self.means.cpu(), atol=1e-5):
            raise UserError(f"{where} moves other Gaussians: set representation.asset to its asset.ply")
        for name, theirs, ours in (
            ("deformation", earlier.config.deformation, self.config.deformation),
            ("trajectory", earlier.config.trajectory, self.config.trajectory),
        ):
            if theirs != ours:
                raise UserError(f"{where} has another representation.{name}: use the same settings for both")
        if earlier.config.closing:
            raise UserError(f"{where} comes back to rest at its end: make it with representation.closing=0")
        handover = _handover(self.field)
        assert handover is not None
        handover.continue_from(_own_field(earlier, self.config.after))

    def goes_on_from(self, earlier: DynamicGaussians) -> bool:
        """Whether the motion that this one goes on from, and what moves, are exactly those of `earlier`."""
        both, own = _handover(self.field), _handover(earlier.field)
        if both is None:
            return False
        before = (earlier.field if own is None else own.own).state_dict()
        same = (torch.equal(value, before[name]) for name, value in both.earlier.state_dict().items())
        return torch.equal(self.means, earlier.means) and all(same)

    def _departure(self) -> Callable[[], Tensor] | None:
        both = _handover(self.field)
        return None if both is None else lambda: both.departure(self.means)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As nn.Module's, for any number of Gaussians."""
        count = len(state_dict["means"]) if "means" in state_dict else len(self)
        if count != len(self):
            for name in CLOUD:
                setattr(self, name, torch.empty_like(state_dict[name], device=self.means.device))
            if self.config.deformation.kind == "fourier":
                self.field = _make_field(self.config, count).to(self.means.device)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def on_surface(mesh: TriMesh, count: int, seed: int) -> GaussianCloud:
    """Opaque Gaussians on a mesh, as large as they are apart, in its colours."""
    points, colors = initialisers.mesh_surface(mesh, count, generator(seed, "initialise", 0))
    size = initialisers.neighbour_distance(points).clamp(2.5e-3, 0.1)
    quats = points.new_tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(len(points), 1)
    opacities = torch.full_like(size, _OPAQUE)
    return GaussianCloud(points, quats, size[:, None].repeat(1, 3), opacities, dc_from_rgb(colors)[:, None])


def _own_field(earlier: DynamicGaussians, after: extension.Config) -> nn.Module:
    """The field that an earlier motion ends in. UserError if its own handover is not over when its end begins."""
    if not isinstance(earlier.field, extension.Handover):
        return earlier.field
    if earlier.config.after.overlap > 1.0 - after.last + 1e-6:
        raise UserError(
            f"the motion of '{after.run}' is still blended with the one before it when the new motion begins: "
            "lower representation.after.last"
        )
    return earlier.field.own


def _make_field(config: Config, count: int) -> nn.Module:
    """The field of a config, blended with an earlier one (whose weights come later) and closed if it says so."""

    def own() -> nn.Module:
        local = deformation.make_field(config.deformation, count)
        if not config.trajectory.moves:
            return local
        of = config.deformation
        return trajectory.CarriedField(config.trajectory, local, of.turns, of.sizes)

    moving = own()
    if config.after.run:
        moving = extension.Handover(config.after, own(), moving)
    return extension.Closed(moving, config.closing) if config.closing else moving


def _learning_carrier(moving: nn.Module) -> trajectory.CarriedField | None:
    carriers = (part for part in moving.modules() if isinstance(part, trajectory.CarriedField))
    return next((one for one in carriers if one.trajectory.coefficients.requires_grad), None)


def _handover(moving: nn.Module) -> extension.Handover | None:
    return next((part for part in moving.modules() if isinstance(part, extension.Handover)), None)


def _read(config: Config, seed: int) -> GaussianCloud:
    if config.asset is None:
        raise UserError(
            "nothing to move: set representation.asset to a .ply with Gaussians or a mesh file, or let an earlier "
            "stage make it"
        )
    if config.asset.lower().endswith(".ply"):
        from threedgen.datasets.splat_files import read_splats

        return read_splats(config.asset).cloud()
    from threedgen.datasets.mesh_files import read_mesh

    return on_surface(read_mesh(config.asset), config.count, seed)
