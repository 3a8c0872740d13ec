"""Pictures of normals: rgb = (n + 1) / 2, on mid grey, which is no normal at all.

Models draw them in the frame of a view: +X is to its right, +Y is up, and +Z points at its camera from the same
height. So it is the frame of the object, turned about the vertical axis until that view is at azimuth 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def encoded(normals: Float[Tensor, "... 3"], alpha: Float[Tensor, "... 1"]) -> Float[Tensor, "... 4"]:
    """Premultiplied pictures and alpha of normals of any length where alpha is not 0."""
    return torch.cat([0.5 * alpha * (normalize(normals, dim=-1) + 1.0), alpha], dim=-1)


def vectors(layers: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3"]:
    """The normals of premultiplied pictures times alpha: zero on the background, as in a picture on mid grey."""
    return 2.0 * layers[..., :3] - layers[..., 3:]


def into_frame(normals: Float[Tensor, "... 3"], azimuth: Float[Tensor, ...]) -> Float[Tensor, "... 3"]:
    """Normals of the object in the frame of a view at `azimuth` degrees; with -azimuth, back again."""
    angle = torch.deg2rad(azimuth)
    cos, sin = angle.cos(), angle.sin()
    x, y, z = normals.unbind(-1)
    return torch.stack([cos * x - sin * z, y, sin * x + cos * z], dim=-1)


def mirrored(layers: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Premultiplied pictures of normals whose x has the other sign; the pixels stay in their places."""
    red, rest, alpha = layers.split([1, 2, 1], dim=-1)
    return torch.cat([alpha - red, rest, alpha], dim=-1)
