"""How well a scene shows the pictures or the film that it was made from, seen from their own cameras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from threedgen.cameras.film import FilmedClips, FilmedOrbit
from threedgen.cameras.reference import ReferenceOrbit
from threedgen.guidance.reference_film import ReferenceFilm
from threedgen.guidance.reference_picture import ReferencePicture


@torch.no_grad()
def reference_scores(sampler: Any, guidances: Sequence[Any], scene: Any, renderer: Any) -> dict[str, float]:
    """Compares renders of the scene on white with the given pictures or the given film.

    For given pictures: reference_psnr (dB) and reference_mask_iou of the first, at the largest resolution of
    the run, and reference_view_1_psnr and so on of further ones. For a film: film_psnr and film_mask_iou, means
    over its pictures. Empty if neither the cameras nor a guidance know a given picture. The scene is drawn as
    it was optimised.
    """
    device = next(scene.parameters()).device
    white = torch.ones(3, device=device)
    if isinstance(sampler, FilmedClips | FilmedOrbit):
        film = next((guide for guide in guidances if isinstance(guide, ReferenceFilm)), None)
        cameras = sampler.filmed().to(device)
        return {} if film is None else film.scores(renderer(scene.at(cameras.time), cameras, white), cameras)
    guides = [guide for guide in guidances if isinstance(guide, ReferencePicture)]
    if not isinstance(sampler, ReferenceOrbit) or not guides:
        return {}
    output = renderer(scene.at(None), sampler.reference().to(device), white)
    scores = {}
    for number, row in enumerate(guides[0].scores(output)):
        prefix = "reference" if number == 0 else f"reference_view_{number}"
        scores |= {f"{prefix}_{name}": round(value, 4) for name, value in row.items()}
    return scores
