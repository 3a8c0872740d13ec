"""Evaluates the asset of a run: against true pictures or held-out ones, its consistency, and its motion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core import inside
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.core.types import Cameras
from threedgen.datasets.given import GivenViews, read_pictures
from threedgen.datasets.multiview import PosedPictures, object_reach
from threedgen.datasets.transforms_file import kept_place
from threedgen.evaluation.result import Evaluation, Motion, OnProgress, silent
from threedgen.evaluation.scorer import Scorer
from threedgen.export.low_pass import pixel_size
from threedgen.jobs.asset import asset_of, moving_asset, renderer_here
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.jobs.scores.motion import moving_scores
from threedgen.metrics.consistency import consistency
from threedgen.metrics.features import Features, load_features
from threedgen.recipes.load import read_resolved
from threedgen.recipes.recipe import Recipe
from threedgen.renderers.base import on_white

RING, RING_SIZE, RING_ELEVATION = 24, 128, 15.0  # views of the measure of consistency, in pixels and degrees
_AT_ONCE = 8  # views that are rendered before they are scored
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_SAME = 1e-3  # largest relative difference of two positions, and difference of two rotations, of one camera
_ALIKE = (
    0.01  # largest relative difference of the factors between two sets of distances that are proportional
)


@torch.no_grad()
def evaluate_run(
    run: RunDirectory,
    truth: str | Path | None = None,
    features: str | Features = "embedded",
    lpips: str | Path | None = None,
    seed: int = 0,
    *,
    up: str | None = None,
    progress: OnProgress = silent,
) -> Evaluation:
    """Evaluates the asset of a run, rendered on white. features, lpips, seed: as of `Scorer`.

    truth: posed pictures in the world of the run, as `read_pictures` takes them (with `up`). If `threedgen fit`
    scaled the object into the unit ball, they are in the world of its pictures, from cameras at the same
    distances. None: a fitted run is compared with the pictures that it held out. The consistency of every run
    is measured on a ring of RING views. An asset that moves is at rest in all of these pictures, and has the
    measures of `moving_scores` as well. Raises UserError.
    """
    recipe = read_resolved(run.recipe)
    scene = load_scene(run, recipe)
    draw = partial(on_white, renderer_here(recipe.all_stages[-1], "auto"))
    sampler, name = recipe.all_stages[-1].cameras.make(), run.path.absolute().name
    task = _task(recipe, scene, sampler, truth, up)
    found = Evaluation(name)
    if task is not None:
        scorer, views = Scorer(features, lpips, seed), len(task.views)
        for group in torch.arange(views).split(_AT_ONCE):
            progress(int(group[0]), views + RING)
            numbers = [str(view) for view in task.views[group].tolist()]
            scorer.add(name, numbers, draw(task.primitive, task.cameras[group]).rgb, task.images[group])
        progress(views, views + RING)
        found = scorer.result(name)
    ring = _ring()
    seen = draw(asset_of(recipe, scene, pixel_size(ring)), ring)
    warnings = [*found.warnings]
    if task is not None and task.trained_on:
        warnings.append(
            f"{task.trained_on} of the {len(task.views)} views are among those that the run was trained on, so the "
            "scores are too good"
        )
    if task is None and isinstance(sampler, GivenViews):
        warnings.append("no view was held out: there are only the pictures that it was trained on")
    if seen.depth is None:
        warnings.append("its renderer gives no depth, so consistency was not measured")
    if declared(type(scene), RepresentationRoles).moves:
        network = load_features(features) if isinstance(features, str) else features
        scores = moving_scores(moving_asset(recipe, scene), network)
        found = replace(found, motion=Motion(scores, network.label, network.weights))
    return replace(
        found, consistency=consistency(seen, ring), warnings=tuple(warnings), report=_reported(run)
    )


@dataclass(frozen=True)
class _Task:
    """A comparison: what is rendered, by which cameras, the true pictures, the numbers of the views, and how many
    of them the run was trained on."""

    primitive: Any
    cameras: Cameras
    images: Float[Tensor, "V H W 3"]
    views: Int[Tensor, " V"]
    trained_on: int = 0


def _task(recipe: Recipe, scene: Any, sampler: Any, truth: str | Path | None, up: str | None) -> _Task | None:
    """The comparison that is possible; None if there are no pictures to compare with."""
    if truth is not None:
        pictures = read_pictures(truth, up)
        cameras, known = pictures.cameras, 0
        if isinstance(sampler, GivenViews):
            cameras = _in_the_world_of(sampler, pictures, str(truth))
        views = torch.tensor(pictures.origin.held_out or range(len(cameras)))
        if isinstance(sampler, GivenViews):
            known = _among(cameras[views], sampler.cameras[sampler.train])
        primitive = asset_of(recipe, scene, pixel_size(cameras))
        return _Task(primitive, cameras[views], pictures.images[views], views, known)
    if not isinstance(sampler, GivenViews) or not len(sampler.held_out):
        return None
    # The scene as it was optimised, seen by cameras like those of its optimisation: the scores of report.json.
    views, pictures = sampler.held_out, read_pictures(sampler.config.path)
    return _Task(scene.at(None), sampler.cameras[views], pictures.images[views], views)


def _ring() -> Cameras:
    full = torch.ones(RING)
    azimuth = torch.arange(RING) * (360.0 / RING)
    return orbit(azimuth, RING_ELEVATION * full, DISTANCE * full, FOV, RING_SIZE, RING_SIZE)


def _in_the_world_of(fitted: GivenViews, truth: PosedPictures, source: str) -> Cameras:
    """The true cameras in the world of a fit, which scales an object that reaches out of the unit sphere.

    A run knows where its capture was. In one that does not, which threedgen wrote before it did, the factor is the
    ratio of the distances of the cameras, which must be the same for all quantiles. Raises UserError if it is not.
    """
    run_from, truth_from = kept_place(Path(fitted.config.path)), truth.origin.capture_from_world
    if run_from is not None and truth_from is not None:
        matrix = torch.linalg.inv(run_from) @ truth_from
        poses = matrix @ truth.cameras.world_from_camera.double()
        poses[:, :3, :3] /= torch.linalg.det(matrix[:3, :3]) ** (1.0 / 3.0)
        return replace(truth.cameras, world_from_camera=poses.float())
    if object_reach(truth) <= 1.0:
        return truth.cameras
    levels = torch.tensor(_QUANTILES)
    mine, others = (
        cameras.centers.norm(dim=1).quantile(levels) for cameras in (fitted.cameras, truth.cameras)
    )
    factors = mine / others
    if (factors.max() - factors.min()) > _ALIKE * factors.mean():
        raise UserError(
            f"'{source}': its object reaches out of the unit sphere, so `threedgen fit` scaled its world, and by "
            "how much cannot be told: these cameras are at other distances than the run's; scale all poses before "
            "the fit"
        )
    poses = truth.cameras.world_from_camera.clone()
    poses[:, :3, 3] *= factors.median()
    return replace(truth.cameras, world_from_camera=poses)


def _among(views: Cameras, others: Cameras) -> int:
    """How many of the views are taken from the place and in the direction of one of the others."""
    away = (views.centers[:, None] - others.centers).norm(dim=2)
    turned = (
        (views.world_from_camera[:, None, :3, :3] - others.world_from_camera[:, :3, :3]).abs().amax((2, 3))
    )
    distance = others.centers.norm(dim=1).median()
    return int(((away <= _SAME * distance) & (turned <= _SAME)).any(1).sum())


def _reported(run: RunDirectory) -> dict[str, Any]:
    """The scores in the report of the run; empty if the run is not finished."""
    if not run.finished:
        return {}
    try:
        document = parse_json(inside.read_text(run.report, inside.DOCUMENT))
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{run.report}' cannot be read ({error}): delete it, `threedgen resume {run.path}` writes it again"
        ) from error
    scores = document.get("scores") if isinstance(document, dict) else None
    return scores if isinstance(scores, dict) else {}
