"""A cloud of 3D Gaussians that a field of displacements moves (Align Your Gaussians, Ling et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed, generator
from threedgen.core.settings import SettingError, above, at_least, between, settings
from threedgen.core.spherical_harmonics import dc_from_rgb
from threedgen.core.transfer import Number, on_cpu, sent
from threedgen.core.transforms import quat_from_vector, quat_multiply
from threedgen.core.types import Frames, GaussianCloud, TriMesh
from threedgen.loop.regularizers import weigh
from threedgen.representations import deformation, extension, initialisers, motion_terms, trajectory
from threedgen.representations.base import Representation
from threedgen.representations.motion_terms import MovedPoints, nearest

_OPAQUE = 0.95  # opacity of Gaussians on a mesh
CLOUD = ("means", "quats", "scales", "opacities", "sh")


@settings
class Config:
    """A cloud of Gaussians in motion.

    Attributes:
        asset: Path of the file of what moves if no earlier stage makes it: Gaussians (.ply) or a mesh.
        deformation: The field of displacements.
        learning_rate: Learning rate of Adam for the field.
        trajectory: The motion of the cloud as a whole, which carries the displacements of the field along.
        neighbours: Number of neighbours of each Gaussian that the terms of the loss compare it with.
        count: Number of Gaussians into which a mesh is converted.
        regularizers: Weights of the terms of the loss on the motion, without that of the trajectory.
        after: An earlier motion of the same Gaussians that this one continues.
        closing: Share of the time, at its end, over which the motion returns to rest, so that it can be played in
            a loop; 0 for none.
    """

    asset: str | None = None
    deformation: deformation.Config = field(default_factory=deformation.Config)
    learning_rate: Annotated[float, above(0.0)] = 2e-3
    trajectory: trajectory.Config = field(default_factory=trajectory.Config)
    neighbours: Annotated[int, at_least(1)] = 12
    count: Annotated[int, at_least(1)] = 6000
    regularizers: motion_terms.Config = field(default_factory=motion_terms.Config)
    after: extension.Config = field(default_factory=extension.Config)
    closing: Annotated[float, between(0.0, 1.0)] = 0.0

    def __post_init__(self) -> None:
        overlap = self.after.overlap if self.after.run else 0.0
        if self.closing > 1.0 - overlap:
            raise SettingError(
                "closing",
                f"is {self.closing:g}; it must be at most {1.0 - overlap:g}, the share of the time after the "
                "overlap with the earlier motion",
            )
        if self.regularizers.handover != 0.0 and not self.after.run:
            raise SettingError(
                "regularizers.handover", "needs an earlier motion: set after.run to the folder of its run"
            )


class DynamicGaussians(Representation):
    """Gaussians at rest, which are frozen (buffers), and the field that moves their means.

    Opacities and colours never change. Rotations and sizes change only if deformation.turns, deformation.sizes or
    the trajectory say so. At time 0 the Gaussians are at rest unless they continue an earlier motion.
    """

    Config = Config
    renderer = "splatting"
    starts_from = (GaussianCloud, TriMesh)
    moves = True
    asset_setting = "asset"

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, " N"]
    sh: Float[Tensor, "N K 3"]

    def __init__(self, config: Config, seed: int = 0, cloud: GaussianCloud | None = None) -> None:
        """cloud: the Gaussians that move; None reads config.asset. The weights of an earlier motion (config.after)
        come from `continue_from` or from a state. Raises UserError if there is no cloud."""
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
        """Moves the Gaussians or the mesh of an earlier stage. Raises UserError if config.asset is set too."""
        if config.asset is not None:
            raise UserError(
                f"the asset of the representation is '{config.asset}', but an earlier stage makes what moves: "
                "leave one of them out"
            )
        return cls(
            config, seed, asset if isinstance(asset, GaussianCloud) else on_surface(asset, config.count, seed)
        )

    @classmethod
    def blank(cls, config: Config) -> Self:
        """A scene of one Gaussian to load a state into; no file is read."""
        one = torch.zeros(1, 3)
        cloud = GaussianCloud(
            one, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), one + 0.01, torch.ones(1), torch.zeros(1, 1, 3)
        )
        return cls(config, 0, cloud)

    def __len__(self) -> int:
        return len(self.means)

    @property
    def rest(self) -> GaussianCloud:
        """The cloud at rest."""
        return GaussianCloud(*(getattr(self, name) for name in CLOUD))

    def moved(self, times: Float[Tensor, " T"]) -> Float[Tensor, "T N 3"]:
        """The means at `times` in [0, 1]; exactly those at rest at time 0 unless it continues a motion."""
        return self.means + self.offsets(times)[..., :3]

    @property
    def outputs(self) -> int:
        """The number K of `offsets` per Gaussian."""
        return 9 if self.config.trajectory.moves else self.config.deformation.outputs

    def offsets(self, times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        """The outputs of the field, see `deformation`; `carried` takes them, or a blend of them with others."""
        return self.field(self.means, times.to(self.means))

    def carried(self, offsets: Float[Tensor, "T N K"]) -> tuple[GaussianCloud, ...]:
        """The clouds moved by the offsets of T moments; colours that depend on the direction do not turn."""
        rest, config = self.rest, self.config.deformation
        count, whole = len(offsets), self.config.trajectory.moves
        means, quats, scales = rest.means + offsets[..., :3], rest.quats, rest.scales
        if config.turns or whole:
            quats = quat_multiply(quat_from_vector(offsets[..., 3:6]), quats)
        if config.sizes or whole:
            scales = scales * offsets[..., -3:].exp()
        moments = zip(
            means.unbind(),
            quats.expand(count, -1, -1).unbind(),
            scales.expand(count, -1, -1).unbind(),
            strict=True,
        )
        return tuple(GaussianCloud(*moment, rest.opacities, rest.sh) for moment in moments)

    def at(self, time: Float[Tensor, " B"] | None = None) -> GaussianCloud | Frames:
        """The cloud at rest if `time` is None, else one cloud for each different time."""
        if time is None:
            return self.rest
        # On the CPU, which knows the times of a step: a GPU would be asked how many differ.
        different, index = torch.unique(on_cpu(time).to(self.means.dtype), return_inverse=True)
        times = sent(different, self.means.device)
        return Frames(self.carried(self.offsets(times)), index, times)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of the field, without those of an earlier motion, and of the trajectory."""
        groups: dict[str, list[nn.Parameter]] = {"deformation": []}
        for name, parameter in self.field.named_parameters():
            if parameter.requires_grad:
                group = "trajectory" if "trajectory." in name else "deformation"
                groups.setdefault(group, []).append(parameter)
        return groups

    def learning_rates(self) -> Mapping[str, float]:
        """The initial learning rate of each group."""
        rates = {"deformation": self.config.learning_rate, "trajectory": self.config.trajectory.learning_rate}
        return {name: rates[name] for name in self.parameter_groups()}

    def penalty(
        self, primitive: GaussianCloud | Frames, step: int, total: int
    ) -> tuple[Float[Tensor, ""] | float, Mapping[str, Number]]:
        """The weighted terms of `motion_terms`. Logs them and `motion`, the largest displacement among the moments
        of the step (mean over the Gaussians, in world units)."""
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
        else:  # the field is blended with another one: compute its own outputs again
            bent = self.means + carrier.own(self.means, primitive.times)[..., :3]
        points = MovedPoints(
            self.means, bent, self._neighbours, lambda: self.moved(moved.new_ones(1))[0], self._departure()
        )
        loss, values = weigh(motion_terms.TERMS, self._terms, points, step, total)
        far = torch.linalg.vector_norm(moved.detach() - self.means, dim=2).mean(1).max()
        return loss, {**values, "motion": far}

    @property
    def earlier_run(self) -> str:
        """The folder of the run whose motion this one continues; empty if there is none."""
        return self.config.after.run

    def continue_from(self, earlier: Any) -> None:
        """Starts from the end of the motion of `earlier`, the scene of the run that config.after names.

        Raises UserError unless that scene moves the same Gaussians in a way whose end can be continued.
        """
        run = f"'{self.config.after.run}', the run that this motion continues,"
        if not isinstance(earlier, DynamicGaussians):
            raise UserError(f"{run} holds no dynamic-gaussians: nothing moves in it")
        if len(earlier) != len(self) or not torch.allclose(earlier.means, self.means.cpu(), atol=1e-5):
            raise UserError(
                f"{run} moves other Gaussians: set the asset of the representation to the asset.ply of that run"
            )
        for name, theirs, ours in (
            ("deformation", earlier.config.deformation, self.config.deformation),
            ("trajectory", earlier.config.trajectory, self.config.trajectory),
        ):
            if theirs != ours:
                raise UserError(f"{run} has another {name}: use the same settings for both")
        if earlier.config.closing:
            raise UserError(
                f"{run} returns to rest at its end: make it with 0 for the closing of its representation"
            )
        handover = _handover(self.field)
        assert handover is not None
        handover.continue_from(_own_field(earlier, self.config.after))

    def goes_on_from(self, earlier: DynamicGaussians) -> bool:
        """Whether this motion continues exactly that of `earlier`, and moves exactly the same Gaussians."""
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
        """As that of nn.Module, for any number of Gaussians. Raises UserError if the tensors do not fit."""
        count = len(state_dict["means"]) if "means" in state_dict else -1
        for name in CLOUD:
            given, own = state_dict.get(name), getattr(self, name)
            free = 2 if name == "sh" else 1  # leading dimensions that may differ: rows, colour coefficients
            wanted = None if given is None else (*given.shape[:free], *own.shape[free:])
            if given is None or given.shape != wanted or len(given) != count:
                found = "missing" if given is None else f"{list(given.shape)}"
                raise UserError(f"the saved Gaussians do not fit one another: {name} is {found}")
        if count != len(self):
            for name in CLOUD:
                setattr(self, name, torch.empty_like(state_dict[name], device=self.means.device))
            if self.config.deformation.kind == "fourier":
                self.field = _make_field(self.config, count).to(self.means.device)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def on_surface(mesh: TriMesh, count: int, seed: int) -> GaussianCloud:
    """Opaque Gaussians on the surface of a mesh, in its colours, as large as the distances between them."""
    points, colors = initialisers.mesh_surface(mesh, count, generator(seed, "initialise", 0))
    size = initialisers.neighbour_distance(points).clamp(2.5e-3, 0.1)
    quats = points.new_tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(len(points), 1)
    opacities = torch.full_like(size, _OPAQUE)
    return GaussianCloud(points, quats, size[:, None].repeat(1, 3), opacities, dc_from_rgb(colors)[:, None])


def _own_field(earlier: DynamicGaussians, after: extension.Config) -> nn.Module:
    """The field with which an earlier motion ends. Raises UserError if its own overlap with the motion before it is
    not over when the overlap with the new motion begins."""
    if not isinstance(earlier.field, extension.Handover):
        return earlier.field
    if earlier.config.after.overlap > 1.0 - after.last + 1e-6:
        raise UserError(
            f"the motion of '{after.run}' is still blended with the one before it when the new motion begins: "
            "lower last in the section after of the representation"
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
    carriers = (module for module in moving.modules() if isinstance(module, trajectory.CarriedField))
    return next((one for one in carriers if one.trajectory.coefficients.requires_grad), None)


def _handover(moving: nn.Module) -> extension.Handover | None:
    return next((module for module in moving.modules() if isinstance(module, extension.Handover)), None)


def _read(config: Config, seed: int) -> GaussianCloud:
    if config.asset is None:
        raise UserError(
            "there is nothing to move: set the asset of the representation to a file of Gaussians or to a "
            "mesh file, or let an earlier stage make it"
        )
    asset = read_asset(config.asset)
    return asset if isinstance(asset, GaussianCloud) else on_surface(asset, config.count, seed)


def read_asset(path: str | Path) -> GaussianCloud | TriMesh:
    """The Gaussians or the mesh of a file, in its place in the world (`read_asset_splats`).

    Raises UserError if it cannot be read.
    """
    return describe_asset(path)[0]


def describe_asset(path: str | Path) -> tuple[GaussianCloud | TriMesh, str]:
    """What `read_asset` reads, and a line for the user about it: how many parts it has and where it was put."""
    from threedgen.datasets.mesh_files import RADIUS, read_mesh
    from threedgen.datasets.splat_files import holds_splats, read_asset_splats

    if holds_splats(path):
        splats, about = read_asset_splats(path, RADIUS)
        return splats.cloud(), about
    mesh = read_mesh(path)
    placed = f"centred and scaled into a ball of radius {RADIUS:g}"
    return mesh, f"{Path(path).name}: {len(mesh.faces)} triangles, {placed}"
