"""Gaussians are settled on the mesh that was made of them, so that splats and mesh show the same.

Where the pictures of a prior do not agree, the Gaussians that it optimised end in a haze, which a mesh cannot have.
The mesh ends where half of the light is stopped; a few steps of Adam on its renders give the Gaussians that edge.
"""

from __future__ import annotations

from dataclasses import fields

import torch

from threedgen.core.random import generator
from threedgen.core.types import GaussianCloud, TriMesh
from threedgen.export.views import around
from threedgen.renderers.mesh import MeshRenderer
from threedgen.renderers.splatting import SplattingRenderer

_VIEWS, _PIXELS, _BATCH = 32, 96, 2
# Rates of Adam; they fall to a tenth.
_RATES = {"means": 0.006, "quats": 0.02, "scales": 0.03, "opacities": 0.16, "sh": 0.04}
_FAINTEST = 1e-4  # an opacity, so that its logit is finite


def settle(cloud: GaussianCloud, mesh: TriMesh, steps: int) -> GaussianCloud:
    """A cloud of as many Gaussians, fitted in `steps` steps to pictures of the mesh from all around.

    It is computed on the CPU. mesh: that of the cloud, with a texture or colours at its vertices. steps: 0 for the
    cloud as it is. Every draw comes from a fixed seed.
    """
    if steps == 0:
        return cloud
    cameras = around(mesh, _VIEWS, _PIXELS)
    with torch.no_grad():
        target = MeshRenderer(MeshRenderer.Config(supersampling=2))(mesh, cameras, torch.zeros(3))
    raw = {item.name: getattr(cloud, item.name).detach().cpu().clone() for item in fields(cloud)}
    raw["scales"] = raw["scales"].log()
    raw["opacities"] = raw["opacities"].clamp(_FAINTEST, 1.0 - _FAINTEST).logit()
    groups = [
        {"params": [raw[name].requires_grad_()], "lr": rate, "top": rate} for name, rate in _RATES.items()
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    renderer = SplattingRenderer()

    def settled() -> GaussianCloud:
        return GaussianCloud(**raw | {"scales": raw["scales"].exp(), "opacities": raw["opacities"].sigmoid()})

    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["top"] * (1.0 - 0.9 * step / steps)
        views = torch.randperm(_VIEWS, generator=generator(0, "settling", step))[:_BATCH]
        output = renderer(settled(), cameras[views], torch.zeros(3))
        loss = (output.rgb - target.rgb[views]).square().mean()
        loss = loss + (output.alpha - target.alpha[views]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    final = settled()
    return GaussianCloud(
        **{item.name: getattr(final, item.name).detach().to(cloud.means) for item in fields(final)}
    )
