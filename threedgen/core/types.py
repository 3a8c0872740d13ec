"""The values that packages exchange: cameras, three primitives, a render, a signal.

They are frozen dataclasses that check their own invariants and do nothing else. Conventions everywhere in
threedgen: the world is right-handed with +Y up, and the front of an object is at +Z; cameras have OpenCV's axes (x
right, y down, z forward); pictures are channels-last RGB in [0, 1] with linear alpha; pixel centres are at
integer + 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.material import Material
from threedgen.core.transfer import Number, constant, on_cpu, rows, sent


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras.

    world_from_camera: [B, 4, 4] rigid camera-to-world matrices, OpenCV axes.
    intrinsics:        [B, 3, 3] in pixels, ((fx, 0, cx), (0, fy, cy), (0, 0, 1)).
    height, width:     image size in pixels.
    time:              [B] in [0, 1]; zeros for a static scene.
    near, far:         clipping distances along the camera's z axis, world units.
    index:             [B] the number of the given picture that shows each view (-1: no picture does), or None.

    Raises ValueError for other shapes, sizes below 1, or distances that are not 0 < near < far.
    """

    world_from_camera: Float[Tensor, "B 4 4"]
    intrinsics: Float[Tensor, "B 3 3"]
    height: int
    width: int
    time: Float[Tensor, " B"]
    near: float = 0.05
    far: float = 100.0
    index: Int[Tensor, " B"] | None = None

    def __post_init__(self) -> None:
        count = self.world_from_camera.shape[0]
        _require(
            tuple(self.world_from_camera.shape) == (count, 4, 4),
            f"world_from_camera must be [B, 4, 4], got {tuple(self.world_from_camera.shape)}",
        )
        _require(
            tuple(self.intrinsics.shape) == (count, 3, 3),
            f"intrinsics must be [{count}, 3, 3], got {tuple(self.intrinsics.shape)}",
        )
        _require(
            tuple(self.time.shape) == (count,),
            f"time must be [{count}], got {tuple(self.time.shape)}",
        )
        _require(
            self.index is None or tuple(self.index.shape) == (count,),
            f"index must be [{count}] or None",
        )
        _require(self.height > 0 and self.width > 0, "image size must be positive")
        _require(0.0 < self.near < self.far, f"need 0 < near < far, got {self.near}, {self.far}")

    def __len__(self) -> int:
        return self.world_from_camera.shape[0]

    @property
    def device(self) -> torch.device:
        return self.world_from_camera.device

    @property
    def camera_from_world(self) -> Float[Tensor, "B 4 4"]:
        """World-to-camera matrices (inverse of a rigid transform: transpose and rotate back)."""
        rotation = self.world_from_camera[:, :3, :3].transpose(1, 2)
        translation = -(rotation @ self.world_from_camera[:, :3, 3:])
        matrix = torch.cat([rotation, translation], dim=2)
        last = constant([0.0, 0.0, 0.0, 1.0], matrix).expand(len(self), 1, 4)
        return torch.cat([matrix, last], dim=1)

    @property
    def centers(self) -> Float[Tensor, "B 3"]:
        """Camera positions in the world."""
        return self.world_from_camera[:, :3, 3]

    def resized(self, height: int, width: int) -> Cameras:
        """The same views with another size in pixels; the intrinsics are scaled to it."""
        scale = constant([width / self.width, height / self.height, 1.0], self.intrinsics).reshape(1, 3, 1)
        return replace(self, intrinsics=self.intrinsics * scale, height=height, width=width)

    def __getitem__(self, index: slice | Int[Tensor, " n"]) -> Cameras:
        return replace(
            self,
            world_from_camera=rows(self.world_from_camera, index),
            intrinsics=rows(self.intrinsics, index),
            time=rows(self.time, index),
            index=None if self.index is None else rows(self.index, index),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Cameras:
        """Copies of the tensors on another device (and in another floating type, if given)."""
        return replace(
            self,
            world_from_camera=sent(self.world_from_camera, device, dtype),
            intrinsics=sent(self.intrinsics, device, dtype),
            time=sent(self.time, device, dtype),
            index=None if self.index is None else sent(self.index, device),
        )


@dataclass(frozen=True)
class RadianceField:
    """A volume: query(points [M, 3], directions [M, 3]) -> (density [M], rgb [M, 3]).

    Density is per world unit of length and not negative; rgb is display-referred in [0, 1]; directions are unit
    vectors from the camera into the scene.
    bounds: [2, 3], lower and upper corner of the box outside which the density is zero.
    occupancy: [G, G, G] over the box, indexed [x, y, z]; False if a cell is known to be empty, so that a
    renderer can skip it. None: no cell is known to be empty.

    Raises ValueError for other shapes, or corners in the wrong order.
    """

    query: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    bounds: Float[Tensor, "2 3"]
    occupancy: Bool[Tensor, "G G G"] | None = None

    def __post_init__(self) -> None:
        _require(tuple(self.bounds.shape) == (2, 3), f"bounds must be [2, 3], got {tuple(self.bounds.shape)}")
        low, high = on_cpu(self.bounds)
        _require(bool((low < high).all()), "bounds must have the lower corner first")
        if self.occupancy is not None:
            cells = tuple(self.occupancy.shape)
            _require(
                len(cells) == 3 and len(set(cells)) == 1 and self.occupancy.dtype == torch.bool,
                f"occupancy must be a boolean [G, G, G], got {cells} of {self.occupancy.dtype}",
            )


@dataclass(frozen=True)
class GaussianCloud:
    """N anisotropic 3D Gaussians (Kerbl et al. 2023) with activated parameters, ready to render.

    means: [N, 3] in the world. quats: [N, 4] rotations as wxyz, of any length. scales: [N, 3] standard
    deviations in world units (linear and positive). opacities: [N] in [0, 1]. sh: [N, K, 3] spherical-harmonic
    coefficients of the colour max(0, 0.5 + sum_k sh_k Y_k(direction)), K = (degree + 1)^2 in {1, 4, 9, 16}.

    Raises ValueError for other shapes.
    """

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, " N"]
    sh: Float[Tensor, "N K 3"]

    def __post_init__(self) -> None:
        count = self.means.shape[0]
        for name, shape in (("means", (3,)), ("quats", (4,)), ("scales", (3,)), ("opacities", ())):
            got = tuple(getattr(self, name).shape)
            _require(got == (count, *shape), f"{name} must be {(count, *shape)}, got {got}")
        _require(
            self.sh.ndim == 3
            and self.sh.shape[0] == count
            and self.sh.shape[1] in (1, 4, 9, 16)
            and self.sh.shape[2] == 3,
            f"sh must be [{count}, 1|4|9|16, 3], got {tuple(self.sh.shape)}",
        )

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        return {1: 0, 4: 1, 9: 2, 16: 3}[self.sh.shape[1]]


@dataclass(frozen=True)
class TriMesh:
    """A triangle mesh. Optional attributes are None if the mesh has none.

    vertices: [V, 3] in the world. faces: [F, 3] int64, counter-clockwise seen from outside. vertex_colors: [V, 3]
    display-referred (sRGB) in [0, 1]. normals: [V, 3] unit vectors. uvs: [V, 2] with v = 0 at the top. texture:
    [H, W, 3] in [0, 1], only together with uvs. material: what the colours mean to programs that show the mesh.

    Raises ValueError for other shapes. The values of the tensors (finite numbers, faces of existing vertices)
    are not checked.
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    vertex_colors: Float[Tensor, "V 3"] | None = None
    normals: Float[Tensor, "V 3"] | None = None
    uvs: Float[Tensor, "V 2"] | None = None
    texture: Float[Tensor, "H W 3"] | None = None
    material: Material | None = None

    def __post_init__(self) -> None:
        _require(
            self.vertices.ndim == 2 and self.vertices.shape[1] == 3,
            f"vertices must be [V, 3], got {tuple(self.vertices.shape)}",
        )
        _require(
            self.faces.ndim == 2 and self.faces.shape[1] == 3 and self.faces.dtype == torch.int64,
            f"faces must be [F, 3] of int64, got {tuple(self.faces.shape)} of {self.faces.dtype}",
        )
        count = self.vertices.shape[0]
        for name, width in (("vertex_colors", 3), ("normals", 3), ("uvs", 2)):
            value = getattr(self, name)
            _require(
                value is None or tuple(value.shape) == (count, width),
                f"{name} must be [{count}, {width}], one row for each vertex, "
                f"got {None if value is None else tuple(value.shape)}",
            )
        if self.texture is not None:
            shape = tuple(self.texture.shape)
            _require(
                len(shape) == 3 and shape[2] == 3 and self.texture.numel() > 0,
                f"texture must be [H, W, 3] with H, W > 0, got {shape}",
            )
            _require(self.uvs is not None, "texture needs uvs, which say where its colours are")


Primitive = RadianceField | GaussianCloud | TriMesh


@dataclass(frozen=True)
class Frames:
    """A moving asset as B cameras see it: one primitive for each moment, and the moment that each camera sees.

    frames: T primitives of one kind in the order of time. index: [B], the number of the frame that each camera
    sees. times: [T] in [0, 1], the moments of the frames.

    Raises ValueError for other shapes, no frames, or frames of several kinds.
    """

    frames: tuple[Primitive, ...]
    index: Int[Tensor, " B"]
    times: Float[Tensor, " T"]

    def __post_init__(self) -> None:
        _require(len(self.frames) > 0, "frames must hold at least one primitive")
        _require(self.index.ndim == 1, f"index must be [B], got {tuple(self.index.shape)}")
        _require(self.times.shape == (len(self.frames),), "times must have one number for each frame")
        _require(len({type(frame) for frame in self.frames}) == 1, "frames must be of one kind")


@dataclass(frozen=True)
class ScreenStatistics:
    """What a splatting renderer returns for density control.

    means2d: [B, N, 2] zeros that were added to the projected means; after the backward pass `.grad` is the gradient
        of the loss with respect to the pixel positions in each view.
    radii: [B, N] bounding radius on screen in pixels, 0 if the Gaussian is not visible.
    height, width: size of the pictures in pixels.
    """

    means2d: Float[Tensor, "B N 2"]
    radii: Float[Tensor, "B N"]
    height: int
    width: int


@dataclass(frozen=True)
class RenderOutput:
    """A batch of pictures.

    rgb: [B, H, W, 3] composited over the background. alpha: [B, H, W, 1] in [0, 1].
    depth: [B, H, W, 1] sum of weight x camera z in world units (divide by alpha for the expected depth), or None.
    normal: [B, H, W, 3] sum of weight x unit normal in the world, or None. distortion: [B, H, W, 1] distortion of a
    field's rays, or None if it was not requested. screen: statistics for density control, or None. background:
    [B, 3], the colour behind each picture, or None if it is not one colour or not known; the loop fills it in.
    """

    rgb: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W 1"]
    depth: Float[Tensor, "B H W 1"] | None = None
    normal: Float[Tensor, "B H W 3"] | None = None
    distortion: Float[Tensor, "B H W 1"] | None = None
    screen: ScreenStatistics | None = None
    background: Float[Tensor, "B 3"] | None = None


@dataclass(frozen=True)
class Signal:
    """The result of a guidance for one step.

    loss: a scalar, differentiable in the render. metrics: numbers to log by name; a tensor of one element may stay
    on its device, because the loop reads all of a step at once and gives numbers to listeners. preview: makes a
    picture [H, W, 3] in [0, 1] to show, or None; it is called only if one is shown, because decoding may be slow.
    """

    loss: Float[Tensor, ""]
    metrics: Mapping[str, Number] = field(default_factory=dict)
    preview: Callable[[], Float[Tensor, "H W 3"]] | None = None
