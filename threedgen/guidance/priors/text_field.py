"""A radiance field that a text decodes to: what a text prior remembers of the shape and the paints of a thing.

A denoiser of pictures with the camera as a vector has to learn from pictures alone that they show one object from
many sides, which takes it thousands of pictures per object. Here the text is decoded to three feature planes (EG3D,
Chan et al. 2022, arXiv:2112.07945), and these are rendered from the camera (NeRF, Mildenhall et al. 2020,
arXiv:2003.08934, eq. 3). The rendered picture, the mean of what the text may show from there, is an input of the
denoiser, so that all views agree by construction. ATT3D (Lorraine et al. 2023, arXiv:2306.07349) decodes texts to
fields too, as the result of distillation and not as an input of its prior.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.guidance.priors.folder.files import first_line, read_json, require_safe_weights
from threedgen.kernels.plane_sampling import sample_planes

WEIGHTS = "field.safetensors"
EXTENT = 1.0  # world units, the radius of the ball that holds everything
_MOST = 4096  # of every size in a config
_HIDDEN = 384  # width between a text and the shares of the learnt planes
_DENSITY = 12.0  # per world unit, of a raw density of about 1
# Raw density at the middle, and its fall per world unit: without a blob a field may stay empty.
_BLOB = (1.0, 2.0)
_CELLS = 32  # along each side of the ball, of the grid of what is empty
_EMPTY = 0.005  # opacity of a cell up to which it counts as empty


@dataclass(frozen=True)
class FieldArchitecture:
    """Sizes of a TextField.

    Attributes:
        width: Length of the vector of a text.
        code: Length of the code of an instance.
        rank: Number of learnt sets of planes that a text and an instance combine.
        side: Texels along each side of a learnt plane, which is then doubled.
        channels: Features of each texel.
        hidden: Width of the network between features and colours.
        samples: Points on each ray.
    """

    width: int = 96
    code: int = 16
    rank: int = 512
    side: int = 16
    channels: int = 12
    hidden: int = 32
    samples: int = 16


class DecodedText(NamedTuple):
    """One text, decoded; see Decoded."""

    planes: Float[Tensor, "3 P P C"]
    scale: Float[Tensor, " H"]
    offset: Float[Tensor, " H"]
    occupied: Bool[Tensor, "G G G"] | None


@dataclass(frozen=True)
class Decoded:
    """T texts, decoded.

    planes: see `TextField.planes`. scale, offset: of the hidden layer. occupied: which cells of a grid over the
    ball, in the order x, y, z, are not empty, or None if that was not asked for.
    """

    planes: Float[Tensor, "T 3 P P C"]
    scale: Float[Tensor, "T H"]
    offset: Float[Tensor, "T H"]
    occupied: Bool[Tensor, "T G G G"] | None = None

    def texts(self) -> list[DecodedText]:
        """The texts one by one. Indexing instead would cost a gradient of the size of all of them for each."""
        occupied = [None] * len(self.planes) if self.occupied is None else self.occupied.unbind()
        parts = (self.planes.unbind(), self.scale.unbind(), self.offset.unbind(), occupied)
        return [DecodedText(*values) for values in zip(*parts, strict=True)]


class TextField(nn.Module):
    """Vectors of texts -> premultiplied colours and alphas from any camera."""

    def __init__(self, architecture: FieldArchitecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.mix = nn.Sequential(
            nn.Linear(a.width + a.code, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, a.rank), nn.SiLU()
        )
        self.texels = nn.Linear(a.rank, 3 * a.channels * a.side * a.side)
        # Sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158): the work is done before the texels are doubled.
        last = nn.Conv2d(a.channels, 4 * a.channels, 3, padding=1)
        first = nn.Conv2d(a.channels, a.channels, 3, padding=1)
        self.refine = nn.Sequential(first, nn.SiLU(), last, nn.PixelShuffle(2))
        self.modulation = nn.Linear(a.rank, 2 * a.hidden)
        self.inner = nn.Linear(3 * a.channels, a.hidden)
        self.outer = nn.Linear(a.hidden, 4)
        nn.init.normal_(self.texels.weight, std=0.3 / a.rank**0.5)
        nn.init.normal_(self.texels.bias, std=0.1)
        for zero in (*self.modulation.parameters(), *last.parameters()):
            nn.init.zeros_(zero)

    def planes(self, mixed: Float[Tensor, "T R"]) -> Float[Tensor, "T 3 P P C"]:
        """The feature planes of shares of the learnt sets, in the layout of `sample_planes`; P is twice the
        side."""
        a = self.architecture
        texels = self.texels(mixed).view(-1, a.channels, a.side, a.side)
        doubled = F.interpolate(texels, scale_factor=2, mode="bilinear", align_corners=False)
        texels = doubled + self.refine(texels)
        return texels.view(-1, 3, *texels.shape[1:]).permute(0, 1, 3, 4, 2).contiguous()

    def forward(
        self,
        vectors: Float[Tensor, "T D"],
        cameras: Cameras,
        text: Int[Tensor, " B"] | None = None,
        pixels: Int[Tensor, "B N"] | None = None,
        shift: Float[Tensor, "B N S"] | None = None,
        codes: Float[Tensor, "T K"] | None = None,
    ) -> Float[Tensor, "B N 4"]:
        """Premultiplied RGB and alpha, in [0, 1], of N pixels of B views of texts; see `decode` and `render`."""
        return self.render(self.decode(vectors, codes), cameras, text, pixels, shift)

    def decode(self, vectors: Float[Tensor, "T D"], codes: Float[Tensor, "T K"] | None = None) -> Decoded:
        """The planes of texts. codes: which of the things of that name is meant (see `instances`); None: zeros,
        their mean."""
        if codes is None:
            codes = vectors.new_zeros(len(vectors), self.architecture.code)
        mixed = self.mix(torch.cat([vectors, codes], dim=1))
        scale, offset = self.modulation(mixed).chunk(2, dim=1)
        return Decoded(self.planes(mixed), scale, offset)

    @torch.no_grad()
    def with_occupancy(self, decoded: Decoded) -> Decoded:
        """The same with the cells that are not empty, and their neighbours: `render` leaves out all others."""
        grids = []
        for text in decoded.texts():
            full = (self.opacity_grid(text, _CELLS) > _EMPTY).float()
            grids.append(F.max_pool3d(full[None, None], 3, stride=1, padding=1)[0, 0] > 0.0)
        return replace(decoded, occupied=torch.stack(grids))

    def render(
        self,
        decoded: Decoded,
        cameras: Cameras,
        text: Int[Tensor, " B"] | None = None,
        pixels: Int[Tensor, "B N"] | None = None,
        shift: Float[Tensor, "B N S"] | None = None,
    ) -> Float[Tensor, "B N 4"]:
        """Premultiplied RGB and alpha, in [0, 1], of N pixels of B views.

        text: the index in `decoded` of what each view shows; None: each its own. pixels: row-major indices; None:
        all of them in order. shift: moves each point along its ray, in shares of the distance between points,
        within [-0.5, 0.5]; None: points in the middle of their sections.
        """
        texts = decoded.texts()
        owner = torch.arange(len(cameras)) if text is None else text
        points, lengths = ray_points(cameras, pixels, self.architecture.samples, shift)
        shaded = [
            self.shade(texts[index], points[view].flatten(0, 1)) for view, index in enumerate(owner.tolist())
        ]
        colors = torch.stack([color for color, _ in shaded]).view(*points.shape)
        densities = torch.stack([density for _, density in shaded]).view(points.shape[:-1])
        return composited(colors, densities, lengths)

    def shade(
        self, text: DecodedText, points: Float[Tensor, "M 3"]
    ) -> tuple[Float[Tensor, "M 3"], Float[Tensor, " M"]]:
        """Colours in [0, 1], and densities per world unit, of points of one text; empty cells have no density."""
        if text.occupied is not None:
            cells = ((points / EXTENT + 1.0) * (0.5 * _CELLS)).long().clamp(0, _CELLS - 1)
            chosen = text.occupied[cells[:, 0], cells[:, 1], cells[:, 2]]
            colors, densities = torch.zeros_like(points), points.new_zeros(len(points))
            colors[chosen], densities[chosen] = self.shade(text._replace(occupied=None), points[chosen])
            return colors, densities
        features = sample_planes(text.planes, points / EXTENT).flatten(1)
        hidden = self.inner(features) * (1.0 + text.scale) + text.offset
        raw = self.outer(F.silu(hidden))
        blob = _BLOB[0] - _BLOB[1] * points.norm(dim=-1)
        return torch.sigmoid(raw[:, :3]), F.softplus(raw[:, 3] + blob) * _DENSITY

    @torch.no_grad()
    def opacity_grid(self, text: DecodedText, cells: int) -> Float[Tensor, "G G G"]:
        """The opacity of a chord through each cell of a grid over the ball, in the order x, y, z."""
        middles = (torch.arange(cells, device=text.planes.device) + 0.5) / cells * 2.0 - 1.0
        points = torch.stack(torch.meshgrid(middles, middles, middles, indexing="ij"), dim=-1).flatten(0, 2)
        density = self.shade(text._replace(occupied=None), points * EXTENT)[1]
        return (1.0 - torch.exp(-density * 2.0 * EXTENT / cells)).view(cells, cells, cells)

    def pictures(
        self,
        vectors: Float[Tensor, "T D"],
        cameras: Cameras,
        text: Int[Tensor, " B"] | None = None,
        codes: Float[Tensor, "T K"] | None = None,
    ) -> Float[Tensor, "B 4 H W"]:
        """Whole pictures of the size of the cameras, channels first."""
        return as_pictures(self(vectors, cameras, text, codes=codes), cameras)


def as_pictures(values: Float[Tensor, "B N 4"], cameras: Cameras) -> Float[Tensor, "B 4 H W"]:
    """Values of all pixels in order as pictures, channels first."""
    return values.transpose(1, 2).reshape(len(cameras), 4, cameras.height, cameras.width)


def save_field(field: TextField, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes config.json and the weights of a field into a new folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {"_class_name": "TextField", **asdict(field.architecture)}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    weights = {name: value.to(dtype).contiguous() for name, value in field.state_dict().items()}
    save_file(weights, folder / WEIGHTS)


def load_field(folder: Path) -> TextField:
    """The field of a folder that `save_field` wrote, frozen, in float32. Raises UserError for another folder."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_json(folder / "config.json")
    require_safe_weights(folder)
    sizes: dict[str, Any] = {item.name: config.get(item.name) for item in fields(FieldArchitecture)}
    if not all(type(value) is int and 1 <= value <= _MOST for value in sizes.values()):
        raise UserError(f"prior part '{folder}' has sizes that no field has: copy the folder again")
    field = TextField(FieldArchitecture(**sizes))
    try:
        weights = load_file(folder / WEIGHTS)
        field.load_state_dict({name: value.float() for name, value in weights.items()})
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: other names or shapes
        raise UserError(
            f"prior part '{folder}' does not fit its config ({first_line(error)}): copy the folder again"
        ) from error
    return field.requires_grad_(False).eval()


def ray_points(
    cameras: Cameras,
    pixels: Int[Tensor, "B N"] | None,
    samples: int,
    shift: Float[Tensor, "B N S"] | None = None,
) -> tuple[Float[Tensor, "B N S 3"], Float[Tensor, "B N 1"]]:
    """Points on the chords of the rays of pixels in the ball, and the distances between those of each ray; see
    `TextField.render`."""
    near, direction, half = _chords(cameras, pixels)
    place = (torch.arange(samples, device=near.device) + 0.5) / samples * 2.0 - 1.0
    places = place.expand(*half.shape, samples)
    if shift is not None:
        places = places + shift * (2.0 / samples)
    reach = half.unsqueeze(-1)
    points = near.unsqueeze(-2) + (places * reach).unsqueeze(-1) * direction.unsqueeze(-2)
    return points, 2.0 * reach / samples


def _chords(
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
