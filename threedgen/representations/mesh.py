"""A triangle mesh as a representation: vertices that move together, colours at vertices or in a texture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.core.types import Primitive, RenderOutput, TriMesh
from threedgen.representations.base import Representation, RowOptimizer
from threedgen.representations.smooth_offsets import Smoother

SPHERE_RADIUS = 0.6


@dataclass(frozen=True)
class LearningRates:
    """Initial Adam learning rates, tuned for runs of a few hundred steps. offsets: world units a step.

    colors, texture: in display-referred units, which span [0, 1].
    """

    offsets: float = 0.03
    colors: float = 0.02
    texture: float = 0.02


@dataclass(frozen=True)
class Config:
    """A mesh of fixed topology. Lengths are world units (the object fills the unit sphere).

    source: sphere, or a mesh file (glb, obj, ply, stl, off) with the colours it has. radius: of the sphere
    (default 0.6), or of the ball around the origin into which the file's mesh is scaled (default 0.9).
    subdivisions: of the sphere, 20 x 4^n faces. vertices: learn, or fixed. smoothness: how far a vertex takes
    its neighbours along (0: not at all; lambda of Nicolet et al. 2021). color: vertex or texture.
    texture_size: side in texels.
    """

    source: str = "sphere"
    radius: float | None = None
    subdivisions: int = 4
    vertices: Literal["learn", "fixed"] = "learn"
    smoothness: float = 10.0
    color: Literal["vertex", "texture"] = "vertex"
    texture_size: int = 256
    learning_rates: LearningRates = field(default_factory=LearningRates)

    def __post_init__(self) -> None:
        if self.radius is not None and not 0.0 < self.radius < math.inf:
            raise UserError(f"representation.radius is {self.radius}; it must be positive, or left out")
        if not 0 <= self.subdivisions <= 7:
            raise UserError(f"representation.subdivisions is {self.subdivisions}; it must be from 0 to 7")
        if self.vertices not in ("learn", "fixed"):
            raise UserError(f"representation.vertices is {self.vertices!r}; choose learn or fixed")
        if not 0.0 <= self.smoothness < math.inf:
            raise UserError(f"representation.smoothness is {self.smoothness}; it must be 0 or more")
        if self.color not in ("vertex", "texture"):
            raise UserError(f"representation.color is {self.color!r}; choose vertex or texture")
        if not 4 <= self.texture_size <= 8192:
            raise UserError(f"representation.texture_size is {self.texture_size}; it must be 4 to 8192")


class Mesh(Representation):
    """W places, V vertices (a place on a seam of the texture has several), F faces.

    Parameters: offsets [W, 3] (a buffer where vertices are fixed), and colors [W, 3] or texture [T, T, 3].
    Buffers: base [W, 3], place [V], faces [F, 3] of vertices, and with a texture uvs [V, 2]. Places are
    base + (I + smoothness L)^-1 offsets. A state with any numbers can be loaded.
    """

    Config = Config
    renderer = "mesh"
    starts_from = (TriMesh,)

    offsets: Float[Tensor, "W 3"]
    base: Float[Tensor, "W 3"]
    place: Int[Tensor, " V"]
    faces: Int[Tensor, "F 3"]
    uvs: Float[Tensor, "V 2"]

    def __init__(self, config: Config, seed: int = 0, asset: TriMesh | None = None) -> None:
        """asset: the mesh to start from in the place of `config.source`. Nothing is drawn from `seed`.

        Raises UserError where the source cannot be read, or color is texture and xatlas is not installed.
        """
        super().__init__()
        self.config = config
        self._smoother: Smoother | None = None
        mesh = _detached(_source(config) if asset is None else asset)
        if len(mesh.faces) == 0:
            raise UserError("cannot start from a mesh without faces")
        if config.color == "texture":
            mesh = _textured(mesh, config.texture_size)
        base, place = torch.unique(mesh.vertices, dim=0, return_inverse=True)
        self.register_buffer("base", base)
        self.register_buffer("place", place)
        self.register_buffer("faces", mesh.faces)
        if config.vertices == "learn":
            self.offsets = nn.Parameter(torch.zeros_like(base))
        else:
            self.register_buffer("offsets", torch.zeros_like(base))
        if config.color == "texture":
            assert mesh.uvs is not None
            assert mesh.texture is not None
            self.register_buffer("uvs", mesh.uvs)
            self.texture = nn.Parameter(mesh.texture.clamp(0.0, 1.0))
        else:
            colors = torch.full_like(base, 0.5)
            colors[place] = _vertex_colors(mesh).clamp(0.0, 1.0)
            self.colors = nn.Parameter(colors)

    @classmethod
    def blank(cls, config: Config) -> Self:
        """A scene to load a state into: as `config` says, but its source is not read."""
        size = config.texture_size
        triangle = TriMesh(
            torch.eye(3),
            torch.arange(3)[None],
            uvs=torch.zeros(3, 2),
            texture=torch.full((size, size, 3), 0.5),
        )
        return cls(config, asset=triangle)

    @classmethod
    def from_asset(cls, config: Config, seed: int, asset: Primitive) -> Self:
        """Goes on from an earlier stage's mesh; with color=texture it is unwrapped and its colours are baked.

        config.source and radius are not used. Raises UserError for another kind of asset, or an empty mesh.
        """
        if not isinstance(asset, TriMesh):
            raise UserError(f"a mesh cannot start from a {type(asset).__name__}: put a stage between them")
        return cls(config, seed, asset)

    def at(self, time: Float[Tensor, " B"] | None = None) -> TriMesh:
        """The mesh, differentiable; `time` is ignored (nothing moves). Its faces are the same tensor every
        time."""
        places = self.base
        if self.config.vertices == "learn":
            places = places + self._smooth(self.offsets)
        vertices = places.index_select(0, self.place)
        if self.config.color == "texture":
            return TriMesh(vertices, self.faces, uvs=self.uvs, texture=self.texture)
        return TriMesh(vertices, self.faces, vertex_colors=self.colors.index_select(0, self.place))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group a parameter, under its name."""
        return {name: [parameter] for name, parameter in self.named_parameters()}

    def learning_rates(self) -> Mapping[str, float]:
        """Initial learning rates by group."""
        rates = dataclasses.asdict(self.config.learning_rates)
        return {name: rates[name] for name in self.parameter_groups()}

    @torch.no_grad()
    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: RowOptimizer, seed: int
    ) -> dict[str, float]:
        """Keeps colours in [0, 1]."""
        (self.texture if self.config.color == "texture" else self.colors).clamp_(0.0, 1.0)
        return {}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As nn.Module's, for a mesh of any size; raises UserError where the tensors do not fit one another.

        Parameters become new objects when their size differs: build or load the optimizer afterwards.
        """
        own = dict([*self.named_parameters(), *self.named_buffers()])
        if set(own) != set(state_dict):
            wrong = sorted(set(own) ^ set(state_dict))
            raise UserError(f"saved mesh does not fit this recipe: {', '.join(wrong)} in one of them only")
        rows = {"base": "base", "offsets": "base", "colors": "base", "uvs": "place"}
        for name, value in own.items():
            given = state_dict[name]
            same_rank = given.ndim == value.ndim and given.shape[1:] == value.shape[1:]
            if not same_rank or (name in rows and len(given) != len(state_dict[rows[name]])):
                raise UserError(f"saved mesh does not fit this recipe: {name} is {list(given.shape)}")
            if given.shape != value.shape:
                empty = value.detach().new_empty(given.shape)
                if isinstance(value, nn.Parameter):
                    setattr(self, name, nn.Parameter(empty))
                else:
                    self.register_buffer(name, empty)
        loaded = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._smoother = None
        return loaded

    def _smooth(self, offsets: Float[Tensor, "W 3"]) -> Float[Tensor, "W 3"]:
        if self.config.smoothness == 0.0:
            return offsets
        if self._smoother is None:
            self._smoother = Smoother(self.place[self.faces], len(self.base), self.config.smoothness)
        return self._smoother(offsets)


def _source(config: Config) -> TriMesh:
    if config.source == "sphere":
        import trimesh

        ball = trimesh.creation.icosphere(
            subdivisions=config.subdivisions, radius=config.radius or SPHERE_RADIUS
        )
        return TriMesh(torch.tensor(ball.vertices).float(), torch.tensor(ball.faces).long())
    from threedgen.datasets.mesh_files import RADIUS, read_mesh

    return read_mesh(config.source, RADIUS if config.radius is None else config.radius)


def _detached(mesh: TriMesh) -> TriMesh:
    def copy(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.detach().to("cpu", torch.float32, copy=True)

    return TriMesh(
        mesh.vertices.detach().to("cpu", torch.float32, copy=True),
        mesh.faces.detach().to("cpu", torch.int64, copy=True),
        copy(mesh.vertex_colors),
        uvs=copy(mesh.uvs),
        texture=copy(mesh.texture),
    )


def _textured(mesh: TriMesh, size: int) -> TriMesh:
    """The mesh with uvs and a size x size texture of the colours it had."""
    if mesh.uvs is None or mesh.texture is None:
        from threedgen.representations.texture_atlas import bake_vertex_colors

        return bake_vertex_colors(mesh, size)
    picture = mesh.texture.permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(picture, (size, size), mode="bilinear", antialias=True)
    return dataclasses.replace(mesh, texture=resized[0].permute(1, 2, 0).contiguous())


def _vertex_colors(mesh: TriMesh) -> Float[Tensor, "V 3"]:
    if mesh.vertex_colors is not None:
        return mesh.vertex_colors
    if mesh.uvs is None or mesh.texture is None:
        return torch.full_like(mesh.vertices, 0.5)
    height, width = mesh.texture.shape[:2]
    column = (mesh.uvs[:, 0] * width).long().clamp(0, width - 1)
    row = (mesh.uvs[:, 1] * height).long().clamp(0, height - 1)
    return mesh.texture[row, column]
