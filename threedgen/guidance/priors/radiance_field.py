"""What the radiance fields of priors have in common: rays of cameras, the rendering integral, and what is empty.

A network decodes a condition of a prior, such as a text or a picture, to a field in the ball of radius EXTENT,
which is rendered from the camera of each view (NeRF, Mildenhall et al. 2020, arXiv:2003.08934). All views then
agree by construction, which a denoiser of single pictures has to learn from very many of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.empty import made_empty
from threedgen.core.errors import UserError
from threedgen.core.transfer import among
from threedgen.core.types import Cameras
from threedgen.guidance.priors.folder.files import first_line, read_config
from threedgen.guidance.priors.folder.weights import require_safe_weights
from threedgen.kernels.field_rendering import FieldLayers, FieldPart, can_render, render_fields
from threedgen.kernels.field_training import SeenPoints, can_train, train_fields

WEIGHTS = "field.safetensors"
EXTENT = 1.0  # world units, the radius of the ball that holds everything
_MOST = 4096  # of every size in a config
DENSITY = 12.0  # per world unit, of a raw density of about 1
_CELLS = 32  # along each side of the ball, of the grid of what is empty
_EMPTY = 0.005  # opacity of a cell up to which it counts as empty


class One(Protocol):
    """One decoded condition.

    occupied: which cells of a grid over the ball, in the order x, y, z, are not empty; None if that is not known.
    """

    @property
    def occupied(self) -> Bool[Tensor, "G G G"] | None: ...


class Decoded(Protocol):
    """T decoded conditions; a dataclass. occupied: see One, [T, G, G, G]."""

    @property
    def occupied(self) -> Bool[Tensor, "T G G G"] | None: ...

    def each(self) -> Sequence[One]:
        """The conditions one by one. Indexing instead would cost a gradient of the size of all of them for
        each."""
        ...


AnyDecoded = TypeVar("AnyDecoded", bound=Decoded)


class RadianceField(nn.Module):
    """Decoded conditions -> premultiplied colours and alphas from any camera. A subclass defines `raw` and
    `layers`, and has an `architecture`, a dataclass of sizes of which `samples` is the number of points on each
    ray, and the last layer `outer`."""

    architecture: Any
    outer: nn.Linear
    blob: ClassVar[tuple[float, float]]
    """Raw density at the middle of a new field, and its fall per world unit: a field without it may stay empty."""
    without_gradient: ClassVar[bool] = True
    """Whether `part` has all of it, for the kernel without a gradient. The one with a gradient takes any field."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""
        return self.outer.weight.dtype

    def raw(self, one: Any, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M 4"]:
        """Raw colours and raw densities of points of one decoded condition."""
        raise NotImplementedError

    def layers(self, decoded: Any) -> FieldLayers:
        """One decoded condition, or all of them, as the compiled kernels take them."""
        raise NotImplementedError

    def part(self, one: Any) -> FieldPart:
        """One decoded condition as the kernel without a gradient takes it."""
        return FieldPart(self.layers(one), one.occupied)

    def seen_points(
        self, decoded: Any, owner: Int[Tensor, " B"], points: Float[Tensor, "B N S 3"]
    ) -> SeenPoints | None:
        """What the kernel with a gradient takes for the points on rays. owner: see `render`."""
        return None

    @torch.no_grad()
    def with_occupancy(self, decoded: AnyDecoded) -> AnyDecoded:
        """The same with the cells that are not empty, and their neighbours: `render` leaves out all others."""
        grids = []
        for one in decoded.each():
            full = (self.opacity_grid(one, _CELLS) > _EMPTY).float()
            grids.append(F.max_pool3d(full[None, None], 3, stride=1, padding=1)[0, 0] > 0.0)
        made: Any = decoded
        return replace(made, occupied=torch.stack(grids))

    def render(
        self,
        decoded: Decoded,
        cameras: Cameras,
        owner: Int[Tensor, " B"] | None = None,
        pixels: Int[Tensor, "B N"] | None = None,
        shift: Float[Tensor, "B N S"] | None = None,
    ) -> Float[Tensor, "B N 4"]:
        """Premultiplied RGB and alpha, in [0, 1], of N pixels of B views.

        owner: the index in `decoded` of what each view shows; None: each its own. pixels: row-major indices; None:
        all of them in order. shift: moves each point along its ray, in shares of the distance between points,
        within [-0.5, 0.5]; None: points in the middle of their sections.
        """
        each = decoded.each()
        owner = torch.arange(len(cameras)) if owner is None else owner
        if shift is None and self.without_gradient and can_render(self.outer.weight):
            near, direction, half = chords(cameras, pixels)
            pictures = torch.empty(*half.shape, 4)
            for index in owner.unique().tolist():
                own, part = owner == index, self.part(each[index])
                samples = self.architecture.samples
                pictures[own] = render_fields([part], near[own], direction[own], half[own], samples)
            return pictures
        points, lengths = ray_points(cameras, pixels, self.architecture.samples, shift)
        fixed = decoded.occupied is None and not points.requires_grad
        if fixed and can_train(self.outer.weight):
            seen = self.seen_points(decoded, owner, points)
            return train_fields(self.layers(decoded), owner, points / EXTENT, lengths.squeeze(-1), seen)
        shaded = [
            self.shade(each[index], points[view].flatten(0, 1)) for view, index in enumerate(owner.tolist())
        ]
        colors = torch.stack([color for color, _ in shaded]).view(*points.shape)
        densities = torch.stack([density for _, density in shaded]).view(points.shape[:-1])
        return composited(colors, densities, lengths)

    def shade(
        self, one: One, points: Float[Tensor, "M 3"]
    ) -> tuple[Float[Tensor, "M 3"], Float[Tensor, " M"]]:
        """Colours in [0, 1], and densities per world unit, of points; empty cells have no density."""
        if one.occupied is None:
            return self.shade_all(one, points)
        cells = ((points / EXTENT + 1.0) * (0.5 * _CELLS)).long().clamp(0, _CELLS - 1)
        chosen = one.occupied[cells[:, 0], cells[:, 1], cells[:, 2]]
        return among(lambda some: self.shade_all(one, some), points, chosen)

    def shade_all(
        self, one: One, points: Float[Tensor, "M 3"]
    ) -> tuple[Float[Tensor, "M 3"], Float[Tensor, " M"]]:
        """The same without a look at which cells are empty."""
        raw = self.raw(one, points)
        blob = self.blob[0] - self.blob[1] * points.norm(dim=-1)
        return torch.sigmoid(raw[:, :3]), F.softplus(raw[:, 3] + blob) * DENSITY

    @torch.no_grad()
    def opacity_grid(self, one: One, cells: int) -> Float[Tensor, "G G G"]:
        """The opacity of a chord through each cell of a grid over the ball, in the order x, y, z."""
        middles = (torch.arange(cells, device=self.outer.weight.device) + 0.5) / cells * 2.0 - 1.0
        points = torch.stack(torch.meshgrid(middles, middles, middles, indexing="ij"), dim=-1).flatten(0, 2)
        density = self.shade_all(one, points * EXTENT)[1]
        return (1.0 - torch.exp(-density * 2.0 * EXTENT / cells)).view(cells, cells, cells)


AnyField = TypeVar("AnyField", bound=RadianceField)


def as_pictures(values: Float[Tensor, "B N 4"], cameras: Cameras) -> Float[Tensor, "B 4 H W"]:
    """Values of all pixels in order as pictures, channels first."""
    return values.transpose(1, 2).reshape(len(cameras), 4, cameras.height, cameras.width)


def save_field(field: RadianceField, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes config.json and the weights of a field into a new folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {"_class_name": type(field).__name__, **asdict(field.architecture)}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    weights = {name: value.to(dtype).contiguous() for name, value in field.state_dict().items()}
    save_file(weights, folder / WEIGHTS)


def load_field(folder: Path, kind: type[AnyField], sizes: Any) -> AnyField:
    """The field of a folder that `save_field` wrote, frozen, in float32.

    kind: its class. sizes: the class of its architecture. Raises UserError for another folder.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(folder / "config.json")
    require_safe_weights(folder)
    values: dict[str, Any] = {item.name: config.get(item.name) for item in fields(sizes)}
    if not all(type(value) is int and 1 <= value <= _MOST for value in values.values()):
        raise UserError(f"prior part '{folder}' has sizes that no field has: copy the folder again")
    make: Any = kind
    try:
        with made_empty():  # sizes that do not fit the file take no memory
            field = make(sizes(**values))
    except (AssertionError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"prior part '{folder}' has sizes that no field has: copy the folder again"
        ) from error
    try:
        weights = load_file(folder / WEIGHTS)
        field.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: other names or shapes
        raise UserError(
            f"prior part '{folder}' does not fit its config ({first_line(error)}): copy the folder again"
        ) from error
    return field.requires_grad_(False).eval()


def doubled_planes(texels: Float[Tensor, "T K P P"], refine: nn.Module) -> Float[Tensor, "T 3 Q Q C"]:
    """Three planes of twice as many texels each way, at least in float32 and in the layout of `sample_planes`.

    texels: those of all three planes, K = 3 C channels. refine: what it says of the texels of a plane, channels
    first, is added to their bilinear values.
    """
    # With the channels last in memory the planes need not be turned at the end, and convolutions are faster too.
    few = texels.unflatten(1, (3, -1)).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    doubled = F.interpolate(at_least_float32(few), scale_factor=2, mode="bilinear", align_corners=False)
    return (doubled + refine(few)).permute(0, 2, 3, 1).unflatten(0, (-1, 3)).contiguous()


def at_least_float32(values: Tensor) -> Tensor:
    """What autocast computed in half precision, in float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def premultiplied(
    texels: Float[Tensor, "*T P Q C"], weight: Float[Tensor, "*T C H"]
) -> Float[Tensor, "*T P Q H"]:
    """Texels times their part of a layer. One product of matrices for each set: one for each row is far slower."""
    return (texels.flatten(-3, -2) @ weight).unflatten(-2, texels.shape[-3:-1])


def ray_points(
    cameras: Cameras,
    pixels: Int[Tensor, "B N"] | None,
    samples: int,
    shift: Float[Tensor, "B N S"] | None = None,
) -> tuple[Float[Tensor, "B N S 3"], Float[Tensor, "B N 1"]]:
    """Points on the chords of the rays of pixels in the ball, and the distances between those of each ray; see
    `RadianceField.render`."""
    near, direction, half = chords(cameras, pixels)
    place = (torch.arange(samples, device=near.device) + 0.5) / samples * 2.0 - 1.0
    places = place.expand(*half.shape, samples)
    if shift is not None:
        places = places + shift * (2.0 / samples)
    reach = half.unsqueeze(-1)
    points = near.unsqueeze(-2) + (places * reach).unsqueeze(-1) * direction.unsqueeze(-2)
    return points, 2.0 * reach / samples


def chords(
    cameras: Cameras, pixels: Int[Tensor, "B N"] | None
) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N 3"], Float[Tensor, "B N"]]:
    """The rays of pixels in the ball: their points nearest to its middle, unit directions, and half the lengths of
    their chords (0 for a ray that misses it)."""
    count, device = len(cameras), cameras.device
    index = torch.arange(cameras.height * cameras.width, device=device).expand(count, -1)
    index = index if pixels is None else pixels
    x = (index % cameras.width).float() + 0.5
    y = torch.div(index, cameras.width, rounding_mode="floor").float() + 0.5
    k = cameras.intrinsics
    local = torch.stack(
        [
            (x - k[:, 0, 2, None]) / k[:, 0, 0, None],
            (y - k[:, 1, 2, None]) / k[:, 1, 1, None],
            torch.ones_like(x),
        ],
        dim=-1,
    )
    direction = F.normalize(local, dim=-1) @ cameras.world_from_camera[:, :3, :3].transpose(1, 2)
    origin = cameras.world_from_camera[:, None, :3, 3]
    near = origin - (origin * direction).sum(-1, keepdim=True) * direction
    half = (EXTENT**2 - near.square().sum(-1)).clamp_min(0.0).sqrt()
    return near, direction, half


def composited(
    colors: Float[Tensor, "B N S 3"], densities: Float[Tensor, "B N S"], lengths: Float[Tensor, "B N 1"]
) -> Float[Tensor, "B N 4"]:
    """The rendering integral (NeRF, eq. 3) over sections of given lengths: premultiplied RGB and alpha."""
    alpha = 1.0 - torch.exp(-densities * lengths)
    passed = torch.cumprod(1.0 - alpha + 1e-6, dim=-1)
    before = torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], dim=-1)
    weight = (alpha * before).unsqueeze(-1)
    return torch.cat([(weight * colors).sum(-2), weight.sum(-2)], dim=-1)
