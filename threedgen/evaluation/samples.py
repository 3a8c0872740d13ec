"""Evaluates models that sample objects: the distance between the sets of their pictures and of true pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.datasets.objects import ObjectSet
from threedgen.evaluation.result import Evaluation, OnProgress, silent
from threedgen.metrics.distribution import few_samples, fid, kid
from threedgen.metrics.features import Features, load_features

VIEWS = 4  # of each sample and of each object, at even intervals in the views of the object
_AT_ONCE = 16  # samples that are made together

Generator = Callable[[Sequence[int], Sequence[Cameras]], list[Float[Tensor, "V H W 3"]]]
"""(numbers of samples, the cameras of each sample) -> the pictures of each sample, on white."""


def evaluate_samples(
    generator: Generator,
    objects: ObjectSet,
    features: str | Features = "embedded",
    seed: int = 0,
    *,
    count: int | None = None,
    name: str = "samples",
    progress: OnProgress = silent,
) -> Evaluation:
    """FID and KID of samples against objects; each sample is seen by the cameras of one of the objects.

    count: number of samples and of objects; None: all objects. features: as of `load_features`. seed: of the
    subsets of KID. Raises UserError for every mistake that a user can correct.
    """
    count = len(objects) if count is None else min(count, len(objects))
    if count < 2:
        raise UserError(f"samples are measured as a set against at least 2 objects, got {count}")
    network = load_features(features) if isinstance(features, str) else features
    ours, true, seconds = [], [], 0.0
    for start in range(0, count, _AT_ONCE):
        progress(start, count)
        numbers = range(start, min(start + _AT_ONCE, count))
        truths = [objects.load(number) for number in numbers]
        views = [torch.linspace(0, len(truth.images) - 1, VIEWS + 2).long()[1:-1] for truth in truths]
        cameras = [truth.cameras[view] for truth, view in zip(truths, views, strict=True)]
        begin = time.perf_counter()
        made = [pictures.cpu() for pictures in generator(numbers, cameras)]  # the copy waits for a GPU
        seconds += time.perf_counter() - begin
        ours += [network(pictures.clamp(0.0, 1.0)) for pictures in made]
        true += [network(truth.images[view]) for truth, view in zip(truths, views, strict=True)]
    progress(count, count)
    pairs = torch.cat(ours), torch.cat(true)
    found = kid(*pairs, seed)
    few = few_samples(len(pairs[0]), network.size)
    return Evaluation(
        name,
        features=network.label,
        weights=network.weights,
        fid=fid(*pairs),
        kid=found.mean,
        kid_deviation=found.deviation,
        seconds=seconds / count,
        warnings=[few] if few else [],
        about={"samples": count, "views_a_sample": VIEWS},
    )
