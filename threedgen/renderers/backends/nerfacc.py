"""Volume rendering on CUDA: nerfacc's packed compositing (Li et al. 2023,
https://github.com/nerfstudio-project/nerfacc), whose figures are those of the torch backend.

Samples are placed by the torch backend's march and not by nerfacc's own traversal, whose intervals start at each
occupied cell, so that all backends have the same samples. The samples behind an opaque surface are found with
densities alone, without gradients, and then left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.types import RadianceField
from threedgen.renderers.backends.torch_volume import chosen, count, march, seen
from threedgen.renderers.distortion import spread_along_rays
from threedgen.renderers.volumetric import Composited, Marching, Rays, Samples, evaluate

__all__ = ["count", "render"]


def render(field: RadianceField, rays: Rays, marching: Marching) -> Composited:
    """What each ray shows, in float32."""
    # If nerfacc is not installed, pyright finds this file under its name.
    from nerfacc import accumulate_along_rays  # pyright: ignore[reportAttributeAccessIssue]

    samples = march(field, rays, marching)
    if marching.early_stop > 0 and len(samples.ray) > 0:
        with torch.no_grad():
            density, _ = evaluate(field, samples.points, samples.directions, None)
            through = _transmittance(samples, density, len(rays))[0]
        samples = chosen(samples, seen(through, marching))
    density, features = evaluate(field, samples.points, samples.directions, marching.probe)
    if len(samples.ray) == 0:
        empty = features.new_zeros(len(rays))
        zeros = features.new_zeros(len(rays), features.shape[1])
        return Composited(zeros, empty, empty, empty if marching.distortion else None)
    through, alphas = _transmittance(samples, density, len(rays))
    weights = through * alphas
    values = torch.cat([features, torch.ones_like(features[:, :1]), samples.z[:, None]], dim=1)
    sums = accumulate_along_rays(weights, values, samples.ray, len(rays))
    spread = None
    if marching.distortion:
        spread = spread_along_rays(weights, samples.ray, samples.z, samples.lengths, rays, marching)
    return Composited(sums[:, :-2], sums[:, -2], sums[:, -1], spread)


def _transmittance(
    samples: Samples, density: Float[Tensor, " M"], rays: int
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """The transmittance before each sample, and the alpha of each sample."""
    from nerfacc import render_transmittance_from_density  # pyright: ignore[reportAttributeAccessIssue]

    starts = torch.zeros_like(samples.lengths)  # only the lengths of the intervals matter
    return render_transmittance_from_density(
        starts, samples.lengths, density, ray_indices=samples.ray, n_rays=rays
    )
