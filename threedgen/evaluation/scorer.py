"""Collects pictures and their true ones, object by object, and scores them."""

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

_AT_ONCE = 32  # pictures that are scored together: SSIM keeps several copies of them


class Scorer:
    """Makes an Evaluation of pictures. It keeps only the scores and features of pictures that were added."""

    def __init__(
        self, features: str | Features = "embedded", lpips: str | Path | None = None, seed: int = 0
    ) -> None:
        """features: a name for `load_features`, or a loaded network. lpips: the file for `load_lpips`. seed: of the
        subsets of KID. Raises UserError if a network cannot be loaded."""
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
        """Adds the pictures of one object, on white in [0, 1]; predictions are clamped. views: their names.

        Raises UserError for numbers that are not finite and for pictures that are too small for LPIPS.
        """
        predicted, truth = predicted.detach().cpu().float(), truth.detach().cpu().float()
        if predicted.shape != truth.shape or len(views) != len(truth):
            raise ValueError(
                f"{len(views)} views of {tuple(predicted.shape)} against {tuple(truth.shape)} of '{name}'"
            )
        if not bool(torch.isfinite(predicted).all()):
            raise UserError(f"the pictures of '{name}' hold NaN or infinite numbers, so they have no score")
        if self._lpips is not None:
            self._lpips.require_size(*truth.shape[1:3])
        for start in range(0, len(views), _AT_ONCE):
            group = slice(start, start + _AT_ONCE)
            self._add(name, views[group], predicted[group].clamp(0.0, 1.0), truth[group].clamp(0.0, 1.0))

    def _add(self, name: str, views: Sequence[str], predicted: Tensor, truth: Tensor) -> None:
        values = psnr(predicted, truth).tolist(), ssim(predicted, truth).tolist()
        distances: list[Any] = [None] * len(views)
        if self._lpips is not None:
            distances = self._lpips(predicted, truth).tolist()
        self._rows += [ViewScore(name, *row) for row in zip(views, *values, distances, strict=True)]
        for kept, pictures in zip(self._features, (predicted, truth), strict=True):
            kept.append(self._network(pictures))

    def add_geometry(self, output: RenderOutput, cameras: Cameras) -> None:
        """Adds the consistency of the views of one object, if they have depth."""
        found = consistency(output, cameras)
        if found is not None:
            self._consistencies.append(found)

    def add_seconds(self, seconds: float) -> None:
        """Adds the time that the model needed for one object."""
        self._seconds.append(seconds)

    def result(self, name: str, warnings: Sequence[str] = (), **more: Any) -> Evaluation:
        """The Evaluation of everything that was added. more: other fields of it."""
        notes = list(warnings)
        measured: dict[str, Any] = {}
        if self._rows:
            measured |= {"features": self._network.label, "weights": self._network.weights}
            measured["lpips"] = self._lpips.network if self._lpips is not None else None
        if len(self._rows) >= 2:
            ours, true = (torch.cat(kept) for kept in self._features)
            found = kid(ours, true, self._seed)
            measured |= {"fid": fid(ours, true), "kid": found.mean, "kid_deviation": found.deviation}
            few = few_samples(len(ours), self._network.size)
            notes += [few] if few else []
        elif self._rows:
            notes.append("FID and KID need a set of pictures, and there is only one picture")
        if self._consistencies:
            measured["consistency"] = _mean(self._consistencies)
        if self._seconds:
            measured["seconds"] = sum(self._seconds) / len(self._seconds)
        return Evaluation(name, views=tuple(self._rows), warnings=tuple(notes), **measured, **more)


def _mean(values: Sequence[Consistency]) -> Consistency:
    count = len(values)
    return Consistency(
        psnr=sum(value.psnr for value in values) / count,
        error=sum(value.error for value in values) / count,
        share=sum(value.share for value in values) / count,
    )
