"""How well a scene shows the pictures that it was made from, seen from where they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from threedgen.guidance.reference import Reference
from threedgen.reference_view import ReferenceOrbit


@torch.no_grad()
def reference_scores(sampler: Any, guidances: Sequence[Any], scene: Any, renderer: Any) -> dict[str, float]:
    """reference_psnr (dB) and reference_mask_iou of the picture's view on white, at the largest resolution of the
    run, and reference_view_1_psnr, ... of those of further pictures; nothing where no view or no guidance is a
    picture's. The scene is drawn as it was optimised."""
    guides = [guide for guide in guidances if isinstance(guide, Reference)]
    if not isinstance(sampler, ReferenceOrbit) or not guides:
        return {}
    device = next(scene.parameters()).device
    output = renderer(scene.at(None), sampler.reference().to(device), torch.ones(3, device=device))
    scores = {}
    for number, row in enumerate(guides[0].scores(output)):
        prefix = "reference" if number == 0 else f"reference_view_{number}"
        scores |= {f"{prefix}_{name}": round(value, 4) for name, value in row.items()}
    return scores
