"""Collects pictures and their true ones, object by object, and says how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import psnr, ssim
from threedgen.core.types import Cameras, RenderOutput
from threedgen.evaluation.result import Evaluation, ViewScore
from threedgen.metrics.consistency import Consistency, consistency
from threedgen.metrics.distribution import few_samples, fid, kid
from threedgen.metrics.features import Features, load_features
from threedgen.metrics.lpips import load_lpips

_AT_ONCE = 32  # pictures: SSIM keeps several copies


class Scorer:
    """Pictures go in, an Evaluation comes out; of the pictures only their scores and features are kept."""

    def __init__(
        self, features: str | Features = "embedded", lpips: str | Path | None = None, seed: int = 0
    ) -> None:
        """features: a name of `load_features`, or one that is loaded. lpips: the file of `load_lpips`. seed: of
        KID's subsets. Raises UserError where a network cannot be loaded."""
        self._lpips = load_lpips(lpips)
        self._network = load_features(features) if isinstance(features, str) else features
        self._seed = seed
        self._rows: list[ViewScore] = []
        self._features: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._consistencies: list[Consistency] = []
        self._seconds: list[float] = []

    def add(
        self,
        name: str,
        views: Sequence[str],
        predicted: Float[Tensor, "V H W 3"],
        truth: Float[Tensor, "V H W 3"],
    ) -> None:
        """The pictures of one object, on white in [0, 1]; predictions are clamped. views: their names.

        Raises UserError for numbers that are not finite and for pictures too small for LPIPS.
        """
        predicted, truth = predicted.detach().cpu().float(), truth.detach().cpu().float()
        if predicted.shape != truth.shape or len(views) != len(truth):
            raise ValueError(
                f"{len(views)} views of {tuple(predicted.shape)} against {tuple(truth.shape)} of '{name}'"
            )
        if not bool(torch.isfinite(predicted).all()):
            raise UserError(f"the pictures of '{name}' hold NaN or infinite numbers: they have no score")
        if self._lpips is not None:
            self._lpips.require_size(*truth.shape[1:3])
        for start in range(0, len(views), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            self._add(name, views[part], predicted[part].clamp(0.0, 1.0), truth[part].clamp(0.0, 1.0))

    def _add(self, name: str, views: Sequence[str], predicted: Tensor, truth: Tensor) -> None:
        values = psnr(predicted, truth).tolist(), ssim(predicted, truth).tolist()
        looks: list[Any] = [None] * len(views)
        if self._lpips is not None:
            looks = self._lpips(predicted, truth).tolist()
        self._rows += [ViewScore(name, *row) for row in zip(views, *values, looks, strict=True)]
        for kept, pictures in zip(self._features, (predicted, truth), strict=True):
            kept.append(self._network(pictures))

    def add_geometry(self, output: RenderOutput, cameras: Cameras) -> None:
        """How consistent the views of one object are; nothing where they have no depth."""
        found = consistency(output, cameras)
        if found is not None:
            self._consistencies.append(found)

    def add_seconds(self, seconds: float) -> None:
        """What one object took."""
        self._seconds.append(seconds)

    def result(self, name: str, warnings: Sequence[str] = (), **more: Any) -> Evaluation:
        """Everything that was added. more: other fields of the Evaluation."""
        said = list(warnings)
        measured: dict[str, Any] = {}
        if self._rows:
            measured |= {"features": self._network.label, "weights": self._network.weights}
            measured["lpips"] = self._lpips.network if self._lpips is not None else None
        if len(self._rows) >= 2:
            ours, true = (torch.cat(kept) for kept in self._features)
            found = kid(ours, true, self._seed)
            measured |= {"fid": fid(ours, true), "kid": found.mean, "kid_deviation": found.deviation}
            few = few_samples(len(ours), self._network.size)
            said += [few] if few else []
        elif self._rows:
            said.append("FID and KID are of sets of pictures: there is one")
        if self._consistencies:
            measured["consistency"] = _mean(self._consistencies)
        if self._seconds:
            measured["seconds"] = sum(self._seconds) / len(self._seconds)
        return Evaluation(name, views=tuple(self._rows), warnings=tuple(said), **measured, **more)


def _mean(values: Sequence[Consistency]) -> Consistency:
    means = (sum(getattr(v, part) for v in values) / len(values) for part in ("psnr", "error", "share"))
    return Consistency(*means)
