"""Models that make objects of nothing: how far their pictures are from those of true objects, as sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.datasets.objects import ObjectSet
from threedgen.evaluation.result import Evaluation
from threedgen.metrics.distribution import few_samples, fid, kid
from threedgen.metrics.features import Features, load_features

VIEWS = 4  # of each sample and each object, spread over the object's
_AT_ONCE = 16  # samples

Generator = Callable[[Sequence[int], Sequence[Cameras]], list[Float[Tensor, "V H W 3"]]]
"""(numbers of samples, the cameras of each) -> their pictures on white."""


def evaluate_samples(
    generator: Generator,
    objects: ObjectSet,
    features: str | Features = "embedded",
    seed: int = 0,
    *,
    count: int | None = None,
    name: str = "samples",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """FID and KID of samples, each seen as one of the objects is, against the pictures of these objects.

    count: of both; None: as many as there are objects. features: as of `load_features`. seed: of KID's subsets.
    Raises UserError for what a user can put right.
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
        made = [pictures.cpu() for pictures in generator(numbers, cameras)]  # which waits for a GPU
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
