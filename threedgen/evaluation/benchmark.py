"""Evaluates models that predict other views from one view, on a set of objects with known views."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize
from threedgen.core.random import derive_seed
from threedgen.core.types import Cameras, RenderOutput
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import ObjectSet
from threedgen.evaluation.result import Evaluation, OnProgress, silent
from threedgen.evaluation.scorer import Scorer
from threedgen.metrics.features import Features

ProtocolName = Literal["srn", "short"]
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)
SOURCE = 64  # the view, of 251, that is the input on the test sets of SRN
SHORT = 8  # number of views that the short protocol asks for


class Predictor(Protocol):
    """A model that predicts other views of an object from one view."""

    def __call__(self, source: PosedPictures, cameras: Cameras, seed: int, /) -> RenderOutput:
        """The pictures of V views on white, with depth if the model has any, by which consistency is measured.

        source: one view, on white. cameras: of the V views, in the same world. The same seed gives the same answer.
        """
        ...


def views_of(protocol: str, count: int) -> tuple[int, list[int]]:
    """The source view, and the views that are asked for, of an object of `count` views.

    srn: view 64, and all others, as pixelNeRF (Yu et al. 2021) does on the pictures of SRN (Sitzmann et al. 2019).
    short: view 64, and 8 others at even intervals. If there is no view 64, the source is view count // 4. Raises
    UserError for another protocol and for fewer than two views.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol '{protocol}': use {' or '.join(PROTOCOLS)}")
    if count < 2:
        raise UserError(f"an object needs at least two views, one to show and one to predict: it has {count}")
    source = SOURCE if count > SOURCE else count // 4
    others = [view for view in range(count) if view != source]
    if protocol == "short" and len(others) > SHORT:
        others = [others[round(i * (len(others) - 1) / (SHORT - 1))] for i in range(SHORT)]
    return source, others


def evaluate_objects(
    predictor: Predictor,
    objects: ObjectSet,
    protocol: str = "short",
    features: str | Features = "embedded",
    lpips: str | Path | None = None,
    seed: int = 0,
    *,
    count: int | None = None,
    learnt: Callable[[int], bool] = lambda _: False,
    name: str = "model",
    progress: OnProgress = silent,
) -> Evaluation:
    """Shows `predictor` the source view of each object and compares its answers with the true views.

    count: number of objects, at even intervals in the set; None: all. learnt: whether
    the model was probably trained on the object with an index, of which the result warns. features, lpips: as of
    `Scorer`. Pictures are resized to the size of the true ones, which the result reports. Its seconds are those of
    the predictor alone. Raises UserError for every mistake that a user can correct.
    """
    views_of(protocol, 2)
    scorer = Scorer(features, lpips, seed)
    chosen = _spread(len(objects), count)
    warnings: dict[str, None] = {}  # each once, in order
    if seen := sum(map(learnt, chosen)):
        warnings[
            f"{seen} of the {len(chosen)} objects are probably among those that the model was trained on, so the "
            "scores say little about others"
        ] = None
    for done, index in enumerate(chosen):
        progress(done, len(chosen))
        truth = objects.load(index)
        views = len(truth.images)
        source, asked = views_of(protocol, views)
        if source != SOURCE:
            warnings[f"objects of {views} views have no view {SOURCE}: they start from view {source}"] = None
        cameras = truth.cameras[torch.tensor(asked)]
        begin = time.perf_counter()
        output = predictor(
            _view(truth, source), cameras, derive_seed(seed, f"evaluation/{objects.names[index]}", index)
        )
        scorer.add_seconds(time.perf_counter() - begin)
        size, wanted = tuple(output.rgb.shape[1:3]), (cameras.height, cameras.width)
        if size != wanted:
            warnings[f"pictures of {size[1]} x {size[0]} were resized to {wanted[1]} x {wanted[0]}"] = None
        pictures = resize(output.rgb.detach(), *wanted)
        scorer.add(objects.names[index], [str(view) for view in asked], pictures, truth.images[asked])
        scorer.add_geometry(output, cameras.resized(*size).to(output.rgb.device))
    progress(len(chosen), len(chosen))
    about: dict[str, Any] = {"protocol": protocol, "seed": seed}
    return scorer.result(name, tuple(warnings), about=about)


def _spread(total: int, count: int | None) -> list[int]:
    """`count` of `total` numbers at even intervals, because sets are often sorted by class."""
    if count is None or count >= total:
        return list(range(total))
    if count < 1:
        raise UserError(f"the number of objects must be at least 1, got {count}")
    return [i * total // count for i in range(count)]


def _view(pictures: PosedPictures, view: int) -> PosedPictures:
    one = slice(view, view + 1)
    return PosedPictures(pictures.images[one], pictures.alpha[one], pictures.cameras[one])
