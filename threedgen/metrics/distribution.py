"""Distances between two sets of pictures, over the vectors of a feature network: FID and KID."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.random import generator

SUBSETS, SUBSET = 100, 1000  # of KID, as in its paper


def frechet_distance(
    mean_a: Float[Tensor, " D"],
    covariance_a: Float[Tensor, "D D"],
    mean_b: Float[Tensor, " D"],
    covariance_b: Float[Tensor, "D D"],
) -> float:
    """|m - m'|^2 + Tr(S + S' - 2 (S S')^(1/2)): the squared 2-Wasserstein distance of two Gaussians, in float64.

    The trace of the root is the sum of the roots of the eigenvalues of the symmetric S^(1/2) S' S^(1/2). These
    are the eigenvalues of S S' and never negative, even for singular covariances.
    """
    mean_a, covariance_a, mean_b, covariance_b = (
        value.double() for value in (mean_a, covariance_a, mean_b, covariance_b)
    )
    values, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    product = root @ covariance_b @ root
    common = torch.linalg.eigvalsh(0.5 * (product + product.T)).clamp_min(0.0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2.0 * common
    return max(0.0, float(distance))


def fid(a: Float[Tensor, "N D"], b: Float[Tensor, "M D"]) -> float:
    """Frechet inception distance (Heusel et al. 2017) of two sets of features, each of at least two vectors.

    It is the `frechet_distance` of their means and sample covariances. It is biased upwards by about 1 / N.
    Only values of sets of equal sizes are comparable, and N should be above D.
    """
    _require(a, b)
    moments = [(x.double().mean(dim=0), torch.cov(x.double().T)) for x in (a, b)]
    return frechet_distance(*moments[0], *moments[1])


class Kid(NamedTuple):
    """mean: the estimate. deviation: standard deviation over subsets; None if the sets are taken whole."""

    mean: float
    deviation: float | None


def kid(
    a: Float[Tensor, "N D"],
    b: Float[Tensor, "M D"],
    seed: int = 0,
    subsets: int = SUBSETS,
    subset: int = SUBSET,
) -> Kid:
    """Kernel inception distance (Binkowski et al. 2018) of two sets of features, each of at least two vectors.

    It is the squared maximum mean discrepancy under the kernel (x.y / D + 1)^3. The estimate is unbiased, so it
    may be negative. It is the mean over `subsets` random pairs of subsets of `subset` vectors; sets that are no
    larger are taken whole, once.
    """
    _require(a, b)
    a, b = a.double(), b.double()
    if max(len(a), len(b)) <= subset:
        return Kid(_squared_discrepancy(a, b), None)
    estimates = []
    for index in range(subsets):
        rng = generator(seed, "kid", index)
        chosen = (x[torch.randperm(len(x), generator=rng)[:subset]] for x in (a, b))
        estimates.append(_squared_discrepancy(*chosen))
    values = torch.tensor(estimates, dtype=torch.float64)
    return Kid(float(values.mean()), float(values.std(correction=0)))


def few_samples(samples: int, size: int) -> str | None:
    """The warning that belongs to a FID of `samples` pictures over `size` features; None if they are enough."""
    if samples > size:
        return None
    return f"FID is biased: {samples} samples of {size} features"


def _squared_discrepancy(a: Float[Tensor, "N D"], b: Float[Tensor, "M D"]) -> float:
    """The unbiased estimate: it leaves out the pairs of a vector with itself."""
    within = [
        (gram.sum() - gram.trace()) / (len(x) * (len(x) - 1)) for x in (a, b) for gram in [_kernel(x, x)]
    ]
    return float(within[0] + within[1] - 2.0 * _kernel(a, b).mean())


def _kernel(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    return (x @ y.T / x.shape[1] + 1.0).pow(3)


def _require(a: Tensor, b: Tensor) -> None:
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"need two sets of at least two vectors of one size, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
