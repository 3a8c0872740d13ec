"""A triangle mesh as a representation: vertices that move together, colours at the vertices or in a texture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.core.settings import SettingError, above, at_least, between, settings
from threedgen.core.types import Primitive, RenderOutput, TriMesh
from threedgen.representations.base import Representation, RowOptimizer
from threedgen.representations.smooth_offsets import Smoother

SPHERE_RADIUS = 0.6


@settings
class LearningRates:
    """Initial learning rates of Adam for each group of parameters, tuned for runs of a few hundred steps.

    Attributes:
        offsets (world units per step): Rate of the offsets of the vertices, before they are smoothed.
        colors (per step): Rate of the colours of the vertices, which are display-referred in [0, 1].
        texture (per step): Rate of the colours of the texels, which are display-referred in [0, 1].
    """

    offsets: float = 0.03
    colors: float = 0.02
    texture: float = 0.02


@settings
class Config:
    """A mesh whose faces never change; the object is meant to fill the unit sphere.

    Attributes:
        source: sphere, or the path of a mesh file (glb, obj, ply, stl or off), whose colours are kept.
        radius (world units): Radius of the sphere, or of the ball around the origin to which the mesh of the file
            is scaled; null is 0.6 for the sphere and 0.9 for a file.
        subdivisions: Number n of times that each face of the sphere is divided into 4; it has 20 x 4^n faces.
        vertices: Whether the positions of the vertices are learned (learn) or stay as they are (fixed).
        smoothness: How strongly a vertex moves its neighbours along with it, the lambda of Nicolet et al. 2021; 0
            is not at all.
        color: Whether the colours are stored at the vertices (vertex) or in a texture (texture).
        texture_size (texels): Width and height of the texture.
        learning_rates: Initial learning rate of each group of parameters.
    """

    source: str = "sphere"
    radius: Annotated[float | None, above(0.0)] = None
    subdivisions: Annotated[int, between(0, 7)] = 4
    vertices: Literal["learn", "fixed"] = "learn"
    smoothness: Annotated[float, at_least(0.0)] = 10.0
    color: Literal["vertex", "texture"] = "vertex"
    texture_size: Annotated[int, between(4, 8192)] = 256
    learning_rates: LearningRates = field(default_factory=LearningRates)

    def __post_init__(self) -> None:
        if self.vertices not in ("learn", "fixed"):
            raise SettingError("vertices", f"is {self.vertices!r}; it must be learn or fixed")
        if self.color not in ("vertex", "texture"):
            raise SettingError("color", f"is {self.color!r}; it must be vertex or texture")


class Mesh(Representation):
    """A mesh of W positions, V vertices (several share a position on a seam of the texture) and F faces.

    Parameters: offsets [W, 3] (a buffer if vertices are fixed), and colors [W, 3] or texture [T, T, 3]. Buffers:
    base [W, 3], place [V], the position of each vertex as an index, faces [F, 3] of vertices, and uvs [V, 2] if
    there is a texture. The positions are base + (I + smoothness L)^-1 offsets, with L the Laplacian of the mesh
    (Nicolet et al. 2021). A state of a mesh of any size can be loaded.
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
        """asset: the mesh to start from, instead of `config.source`. Nothing is drawn from `seed`.

        Raises UserError if the source cannot be read, has no faces, or cannot be unwrapped for a texture.
        """
        super().__init__()
        self.config = config
        self._smoother: Smoother | None = None
        mesh = _detached(_source(config) if asset is None else asset)
        if len(mesh.faces) == 0:
            raise UserError("the mesh to start from has no faces: give a surface mesh")
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
        """A scene of one triangle to load a state into; the source of `config` is not read."""
        return cls(config, asset=triangle(config.texture_size))

    @classmethod
    def from_asset(cls, config: Config, seed: int, asset: Primitive) -> Self:
        """Starts from the mesh of an earlier stage; if color is texture, it is unwrapped and its colours are baked.

        config.source and radius are not used. Raises UserError for another kind of asset, and if there is no
        face.
        """
        if not isinstance(asset, TriMesh):
            raise UserError(
                f"a mesh cannot start from a {type(asset).__name__}: add a stage between them that makes a mesh"
            )
        return cls(config, seed, asset)

    def at(self, time: Float[Tensor, " B"] | None = None) -> TriMesh:
        """The mesh, differentiable; `time` is ignored because nothing moves. The tensor of faces is always the
        same."""
        places = self.base
        if self.config.vertices == "learn":
            places = places + self._smooth(self.offsets)
        vertices = places.index_select(0, self.place)
        if self.config.color == "texture":
            return TriMesh(vertices, self.faces, uvs=self.uvs, texture=self.texture)
        return TriMesh(vertices, self.faces, vertex_colors=self.colors.index_select(0, self.place))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group per parameter, under its name."""
        return {name: [parameter] for name, parameter in self.named_parameters()}

    def learning_rates(self) -> Mapping[str, float]:
        """The initial learning rate of each group."""
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
        """As that of nn.Module, for a mesh of any size. Raises UserError if the tensors do not fit one another.

        Parameters become new objects if their size differs: build or load the optimizer afterwards.
        """
        own = dict([*self.named_parameters(), *self.named_buffers()])
        if set(own) != set(state_dict):
            wrong = sorted(set(own) ^ set(state_dict))
            raise UserError(
                f"the saved mesh does not fit this recipe: only one of them has {', '.join(wrong)}"
            )
        rows = {"base": "base", "offsets": "base", "colors": "base", "uvs": "place"}
        for name, value in own.items():
            given = state_dict[name]
            same_rank = given.ndim == value.ndim and given.shape[1:] == value.shape[1:]
            if not same_rank or (name in rows and len(given) != len(state_dict[rows[name]])):
                raise UserError(f"the saved mesh does not fit this recipe: {name} is {list(given.shape)}")
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


def triangle(size: int) -> TriMesh:
    """One face with a texture of size x size texels, in the place of a mesh that a state will replace."""
    return TriMesh(
        torch.eye(3),
        torch.arange(3)[None],
        uvs=torch.zeros(3, 2),
        texture=torch.full((size, size, 3), 0.5),
    )


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
    """The mesh with uvs and a texture of size x size texels of the colours that it had."""
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
