"""Codes of the things of a bank: how the shape of each differs from the mean shape of its word, in a few numbers.

The pictures of a thing, seen from known cameras, say for each point of space in what share of them it is covered: a
soft visual hull (Laurentini 1994). The codes are the standardised first principal components of the hulls after the
mean hull of the word was taken away, so that zeros stand for the mean.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.types import Cameras

SIDE = 12  # points along each side of the grid
_REACH = 0.75  # world units from the middle to the outermost points
_MOST = 3.0  # standard deviations of a code


def soft_hull(alpha: Float[Tensor, "V H W"], cameras: Cameras) -> Float[Tensor, " P"]:
    """In what share of V pictures each point of a grid of SIDE^3 points is covered. alpha: in [0, 1]."""
    along = torch.linspace(-_REACH, _REACH, SIDE)
    points = torch.stack(torch.meshgrid(along, along, along, indexing="ij"), dim=-1).flatten(0, 2)
    seen = cameras.camera_from_world
    local = points @ seen[:, :3, :3].transpose(1, 2) + seen[:, None, :3, 3]
    image = local @ cameras.intrinsics.transpose(1, 2)
    pixel = (image[..., :2] / image[..., 2:]).long()
    x, y = pixel[..., 0].clamp(0, cameras.width - 1), pixel[..., 1].clamp(0, cameras.height - 1)
    return torch.gather(alpha.flatten(1), 1, y * cameras.width + x).mean(0)


def codes_of(hulls: Float[Tensor, "N P"], words: Int[Tensor, " N"], length: int) -> Float[Tensor, "N K"]:
    """Codes of things with given hulls and numbers of words. length: K; codes beyond the rank are 0."""
    members = torch.zeros(int(words.max()) + 1).index_add(0, words, torch.ones(len(words)))
    total = torch.zeros(len(members), hulls.shape[1]).index_add(0, words, hulls)
    rest = (hulls - (total / members.clamp_min(1.0)[:, None])[words]).double()
    values, vectors = torch.linalg.eigh(rest.T @ rest / len(rest))
    # eigh sorts upwards. The sign of a direction is free: its largest part is made positive.
    values, vectors = values.flip(0)[:length], vectors.flip(1)[:, :length]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    scores = rest @ (vectors * largest.sign())
    deviations = torch.where(values > 1e-9 * values[:1], values, torch.inf).sqrt()
    codes = (scores / deviations).clamp(-_MOST, _MOST).float()
    return torch.nn.functional.pad(codes, (0, length - codes.shape[1]))
