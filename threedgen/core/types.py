"""The values that cross module borders: cameras, three primitives, a render, a signal.

Frozen dataclasses that check their own invariants and do nothing else. Conventions (everywhere in
threedgen): world right-handed, +Y up, front +Z; cameras OpenCV (x right, y down, z forward); images
channels-last RGB in [0, 1] with linear alpha; pixel centres at integer + 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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
    index:             [B] which of a set of given pictures each view belongs to (-1: to none), or None.
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
        last = matrix.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(self), 1, 4)
        return torch.cat([matrix, last], dim=1)

    @property
    def centers(self) -> Float[Tensor, "B 3"]:
        """Camera positions in the world."""
        return self.world_from_camera[:, :3, 3]

    def resized(self, height: int, width: int) -> Cameras:
        """The same views with other image sizes; intrinsics scale under the half-pixel convention."""
        scale = self.intrinsics.new_tensor([width / self.width, height / self.height, 1.0]).reshape(1, 3, 1)
        return replace(self, intrinsics=self.intrinsics * scale, height=height, width=width)

    def __getitem__(self, index: slice | Int[Tensor, " n"]) -> Cameras:
        return replace(
            self,
            world_from_camera=self.world_from_camera[index],
            intrinsics=self.intrinsics[index],
            time=self.time[index],
            index=None if self.index is None else self.index[index],
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Cameras:
        """Copies of the tensors on another device (and in another floating type, if given)."""
        return replace(
            self,
            world_from_camera=self.world_from_camera.to(device=device, dtype=dtype),
            intrinsics=self.intrinsics.to(device=device, dtype=dtype),
            time=self.time.to(device=device, dtype=dtype),
            index=None if self.index is None else self.index.to(device=device),
        )


@dataclass(frozen=True)
class RadianceField:
    """A volume: query(points [M, 3], directions [M, 3]) -> (density [M], rgb [M, 3]).

    Density is per world unit of length, not negative; rgb display-referred in [0, 1]; directions unit, from the
    camera into the scene.
    bounds: [2, 3], lower and upper corner of the box outside which density is zero.
    occupancy: [G, G, G] over the box, indexed [x, y, z]; False where a cell is known to be empty, so that a
    renderer need not look. None: anything may be anywhere in the box.
    """

    query: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    bounds: Float[Tensor, "2 3"]
    occupancy: Bool[Tensor, "G G G"] | None = None

    def __post_init__(self) -> None:
        _require(tuple(self.bounds.shape) == (2, 3), f"bounds must be [2, 3], got {tuple(self.bounds.shape)}")
        _require(bool((self.bounds[0] < self.bounds[1]).all()), "bounds must have the lower corner first")
        if self.occupancy is not None:
            cells = tuple(self.occupancy.shape)
            _require(
                len(cells) == 3 and len(set(cells)) == 1 and self.occupancy.dtype == torch.bool,
                f"occupancy must be a boolean [G, G, G], got {cells} of {self.occupancy.dtype}",
            )


@dataclass(frozen=True)
class GaussianCloud:
    """N anisotropic 3D Gaussians, activated (ready to render).

    means: [N, 3] world. quats: [N, 4] wxyz, need not be unit length. scales: [N, 3] standard
    deviations in world units (linear, positive). opacities: [N] in [0, 1].
    sh: [N, K, 3] spherical-harmonic colour coefficients, K = (degree + 1)^2 in {1, 4, 9, 16},
    colour = max(0, 0.5 + sum_k sh_k Y_k(direction)).
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
    """A triangle mesh. Optional attributes are None when absent.

    vertices: [V, 3] world. faces: [F, 3] int64, counter-clockwise seen from outside.
    vertex_colors: [V, 3] display-referred (sRGB) in [0, 1]. normals: [V, 3] unit. uvs: [V, 2] with v = 0 at
    the top. texture: [H, W, 3] in [0, 1], only beside uvs. Raises ValueError for other shapes; what the tensors
    hold (finite numbers, faces of vertices that are there) is not looked at.
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    vertex_colors: Float[Tensor, "V 3"] | None = None
    normals: Float[Tensor, "V 3"] | None = None
    uvs: Float[Tensor, "V 2"] | None = None
    texture: Float[Tensor, "H W 3"] | None = None

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
                f"{name} must be [{count}, {width}], one row a vertex, "
                f"got {None if value is None else tuple(value.shape)}",
            )
        if self.texture is not None:
            shape = tuple(self.texture.shape)
            _require(
                len(shape) == 3 and shape[2] == 3 and self.texture.numel() > 0,
                f"texture must be [H, W, 3] with H, W > 0, got {shape}",
            )
            _require(self.uvs is not None, "texture needs uvs, where its colours go")


Primitive = RadianceField | GaussianCloud | TriMesh


@dataclass(frozen=True)
class Frames:
    """An asset in motion, as B cameras see it: one primitive a moment, and whose moment it is.

    frames: of one kind, in the order of time. index: [B], which of them each camera sees. times: [T] in [0, 1],
    when the frames are.
    """

    frames: tuple[Primitive, ...]
    index: Int[Tensor, " B"]
    times: Float[Tensor, " T"]

    def __post_init__(self) -> None:
        _require(len(self.frames) > 0, "frames must hold at least one primitive")
        _require(self.index.ndim == 1, f"index must be [B], got {tuple(self.index.shape)}")
        _require(self.times.shape == (len(self.frames),), "times must have one number a frame")
        _require(len({type(frame) for frame in self.frames}) == 1, "frames must be of one kind")


@dataclass(frozen=True)
class ScreenStatistics:
    """What a splatting renderer leaves behind for density control.

    means2d: [B, N, 2] pixel positions' gradient carrier: a tensor of zeros that was added to the
             projected means; after backward its `.grad` is dL/d(pixel position), per view.
    radii:   [B, N] bounding radius on screen in pixels, 0 where the Gaussian is not visible.
    """

    means2d: Float[Tensor, "B N 2"]
    radii: Float[Tensor, "B N"]
    height: int
    width: int


@dataclass(frozen=True)
class RenderOutput:
    """A batch of pictures.

    rgb: [B, H, W, 3] composited over the background. alpha: [B, H, W, 1] in [0, 1].
    depth: [B, H, W, 1] sum of weight x camera z (divide by alpha for the expected depth), or None.
    normal: [B, H, W, 3] world space, or None. distortion: [B, H, W, 1] of a field's rays, where it was asked for.
    screen: statistics for density control, or None.
    """

    rgb: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W 1"]
    depth: Float[Tensor, "B H W 1"] | None = None
    normal: Float[Tensor, "B H W 3"] | None = None
    distortion: Float[Tensor, "B H W 1"] | None = None
    screen: ScreenStatistics | None = None


@dataclass(frozen=True)
class Signal:
    """What a guidance says about a render.

    loss: differentiable in the render. metrics: numbers to log. preview: makes a picture [H, W, 3] in [0, 1]
    to show (called only when one is wanted: decoding may be dear), or None.
    """

    loss: Float[Tensor, ""]
    metrics: Mapping[str, float] = field(default_factory=dict)
    preview: Callable[[], Float[Tensor, "H W 3"]] | None = None
