"""A cloud of 3D Gaussians that a field of displacements carries along (Align Your Gaussians, Ling et al. 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.errors import UserError
from threedgen.random import derive_seed, generator
from threedgen.regularizers import weigh
from threedgen.representations import deformation, initialisers, motion_terms
from threedgen.representations.base import Representation
from threedgen.representations.motion_terms import MovedPoints, nearest
from threedgen.representations.spherical_harmonics import dc_from_rgb
from threedgen.types import Frames, GaussianCloud, TriMesh

_OPAQUE = 0.95  # opacity of Gaussians on a mesh
CLOUD = ("means", "quats", "scales", "opacities", "sh")


@dataclass(frozen=True)
class Config:
    """asset: what moves, where no earlier stage makes it: a file with Gaussians (.ply) or a mesh.

    deformation: the field of displacements. learning_rate: of its Adam. neighbours: of each Gaussian, that the
    terms below look at. count: of Gaussians that a mesh becomes. regularizers: terms on the motion.
    """

    asset: str | None = None
    deformation: deformation.Config = field(default_factory=deformation.Config)
    learning_rate: float = 2e-3
    neighbours: int = 12
    count: int = 6000
    regularizers: motion_terms.Config = field(default_factory=motion_terms.Config)

    def __post_init__(self) -> None:
        if not 0.0 < self.learning_rate < float("inf"):
            raise UserError(f"representation.learning_rate is {self.learning_rate}; it must be positive")
        for name in ("neighbours", "count"):
            if getattr(self, name) < 1:
                raise UserError(f"representation.{name} is {getattr(self, name)}; it must be at least 1")


class DynamicGaussians(Representation):
    """Gaussians as they are at time 0, frozen (buffers), and the field that moves their means.

    Scales, turns, opacities and colours stay, as in the paper.
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
        """cloud: what moves; None: what config.asset names. Raises UserError where neither says it."""
        super().__init__()
        self.config = config
        self._terms = dataclasses.replace(config.regularizers)
        cloud = _read(config, seed) if cloud is None else cloud
        for name in CLOUD:
            self.register_buffer(name, getattr(cloud, name).detach().clone())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "deformation", 0) % 2**31)
            self.field = deformation.make_field(config.deformation, len(cloud))
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
        """The cloud at time 0."""
        return GaussianCloud(*(getattr(self, name) for name in CLOUD))

    def moved(self, times: Float[Tensor, " T"]) -> Float[Tensor, "T N 3"]:
        """Where the means are at `times` in [0, 1]; where they rest, exactly, at time 0."""
        return self.means + self.field(self.means, times.to(self.means))

    def at(self, time: Float[Tensor, " B"] | None = None) -> GaussianCloud | Frames:
        """The cloud at rest for None, else a moment a different time."""
        if time is None:
            return self.rest
        times, index = torch.unique(time.to(self.means), return_inverse=True)
        others = [getattr(self, name) for name in CLOUD[1:]]
        moved = self.moved(times)
        return Frames(tuple(GaussianCloud(means, *others) for means in moved), index)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group: the field's."""
        return {"deformation": list(self.field.parameters())}

    def learning_rates(self) -> Mapping[str, float]:
        """Of the one group."""
        return {"deformation": self.config.learning_rate}

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
        points = MovedPoints(self.means, moved, self._neighbours)
        loss, values = weigh(motion_terms.TERMS, self._terms, points, step, total)
        far = torch.linalg.vector_norm(moved.detach() - self.means, dim=2).mean(1).max()
        return loss, {**values, "motion": float(far)}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As nn.Module's, for any number of Gaussians."""
        count = len(state_dict["means"]) if "means" in state_dict else len(self)
        if count != len(self):
            for name in CLOUD:
                setattr(self, name, torch.empty_like(state_dict[name], device=self.means.device))
            if self.config.deformation.kind == "fourier":
                self.field = deformation.make_field(self.config.deformation, count).to(self.means.device)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def on_surface(mesh: TriMesh, count: int, seed: int) -> GaussianCloud:
    """Opaque Gaussians on a mesh, as large as they are apart, in its colours."""
    points, colors = initialisers.mesh_surface(mesh, count, generator(seed, "initialise", 0))
    size = initialisers.neighbour_distance(points).clamp(2.5e-3, 0.1)
    quats = points.new_tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(len(points), 1)
    opacities = torch.full_like(size, _OPAQUE)
    return GaussianCloud(points, quats, size[:, None].repeat(1, 3), opacities, dc_from_rgb(colors)[:, None])


def _read(config: Config, seed: int) -> GaussianCloud:
    if config.asset is None:
        raise UserError(
            "nothing to move: set representation.asset to a .ply with Gaussians or a mesh file, or let an earlier "
            "stage make it"
        )
    if config.asset.lower().endswith(".ply"):
        from threedgen.export.splat import read_splats

        return read_splats(config.asset).cloud()
    from threedgen.datasets.mesh_files import read_mesh

    return on_surface(read_mesh(config.asset), config.count, seed)
