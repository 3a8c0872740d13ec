"""A tiny diffusion model of scenes, for tests."""

from __future__ import annotations

import torch

from threedgen.dfm.scene_field import SceneField
from threedgen.guidance.priors.picture_field import PictureArchitecture

SIZES = {"fine": 16, "middle": 16, "coarse": 16, "seen": 16, "rank": 16, "side": 6}
TINY = PictureArchitecture(**SIZES, channels=2, features=4, hidden=8, samples=8)


def tiny_field(seed: int = 0) -> SceneField:
    """One with random weights, also where a new one has none, so that the noisy view has a say."""
    torch.manual_seed(seed)
    made = SceneField(TINY)
    for name in ("outer.weight", "refine.2.weight"):
        torch.nn.init.normal_(made.get_parameter(name), std=0.4)
    for name in ("heard.weight", "second.weight"):
        torch.nn.init.normal_(made.get_parameter(name), std=2.0)
    return made.requires_grad_(False).eval()
