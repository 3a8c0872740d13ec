"""From a scene file to the scene: a run for each asset and each motion that does not exist yet, and the files of
all of them together.

    OUT/scene.yaml                 the scene, with absolute paths
    OUT/assets/NAME                the run that makes an asset from its prompt
    OUT/assets/NAME/01-sliding     the run of its first motion, and so on
    OUT/recipe.yaml, checkpoint/   the composed scene, as `threedgen export` reads it
    OUT/anim.glb, anim.mp4, player.html, asset.glb, asset.ply, report.json

The runs are ordinary ones. A finished one is kept and an unfinished one is continued.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from threedgen import export
from threedgen.composition.composition import Composition, body_configs, handovers
from threedgen.composition.scene_file import Asset, SceneFile
from threedgen.core import checkpoint, inside, trust
from threedgen.core.atomic import replacing
from threedgen.core.documents import LARGEST
from threedgen.core.errors import UserError
from threedgen.export import gltf
from threedgen.export.materials import facts_of
from threedgen.export.mesh import NoSurface
from threedgen.jobs import finish
from threedgen.jobs.build import load_scene
from threedgen.jobs.lock import holding
from threedgen.jobs.run import resume, start
from threedgen.jobs.run_directory import ASSETS, RECIPE, RunDirectory, check_free, slug
from threedgen.jobs.scores.motion import moving_scores
from threedgen.loop.events import Emitter, Listener, PhaseStarted
from threedgen.pipelines.text_to_4d import MotionWish, asset_file, motion_recipe
from threedgen.recipes import typed
from threedgen.recipes.layers import split_overrides
from threedgen.recipes.load import load_recipe, read_resolved, resolve
from threedgen.recipes.overrides import apply_override
from threedgen.recipes.recipe import Recipe
from threedgen.recipes.typed import leaves
from threedgen.representations.dynamic_gaussians import DynamicGaussians, describe_asset, read_asset

SCENE = "scene.yaml"
_HEAD = "# The scene as `threedgen compose` read it.\n"
_HANDOVER = 10.0  # weight of the term that makes a motion begin as the one before continues
_IN_SIGHT = 1.6  # world units from the middle that films show
_KINDS = ("still", "motion", "export")


@dataclass(frozen=True)
class Making:
    """How the runs are made.

    prior: for still assets, video_prior: for motions; None: the embedded ones. tokenizer: of a prior that is a
    single file. steps: of each run; None: as its recipe says. settings: `still.KEY=VALUE` for the runs of assets,
    `motion.KEY=VALUE` for those of motions and `export.KEY=VALUE` for the files of the composed scene.
    """

    prior: str | None = None
    tokenizer: str | None = None
    video_prior: str | None = None
    seed: int = 0
    steps: int | None = None
    device: str | None = None
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for setting in self.settings:
            if setting.partition(".")[0] not in _KINDS:
                raise UserError(
                    f"'{setting}' does not say what it changes: begin it with "
                    f"{', '.join(f'{kind}.' for kind in _KINDS[:-1])} or {_KINDS[-1]}."
                )

    def of(self, kind: str) -> list[str]:
        """The settings of one kind, without its name."""
        return [item.partition(".")[2] for item in self.settings if item.startswith(f"{kind}.")]

    @property
    def common(self) -> dict[str, Any]:
        return {"seed": self.seed, "steps": self.steps, "device": self.device}


def compose(
    scene: SceneFile, out: Path, making: Making | None = None, listeners: Sequence[Listener] = ()
) -> RunDirectory:
    """Makes the missing runs of a scene in the folder `out`, and the files of the scene.

    Everything that can be known to be wrong is reported before the first run. Raises UserError, also if another
    process composes in the folder.
    """
    _check_out(out)
    with holding(out, lambda: f"the same command goes on with what is in '{out}'"):
        making = making or Making()
        whole, recipes = plan(scene, out, making)
        named = (value for recipe in recipes.values() for _, value in leaves(recipe.resolved))
        with trust.typed(value for value in named if isinstance(value, str)):
            return _compose(scene, out, making, listeners, whole, recipes)


def _compose(
    scene: SceneFile,
    out: Path,
    making: Making,
    listeners: Sequence[Listener],
    whole: Recipe,
    recipes: dict[Path, Recipe],
) -> RunDirectory:
    """`compose` while this process holds the folder, with the recipes of the composed scene and of its runs."""
    for path, recipe in recipes.items():
        _check_as_before(path, recipe)
    begun = time.perf_counter()
    (out / ASSETS).mkdir(parents=True, exist_ok=True)  # what tells `_check_out` that the scene file is ours
    with replacing(out / SCENE) as temporary:
        temporary.write_text(_HEAD + _yaml(typed.plain(scene)), encoding="utf-8")
    emit = Emitter(tuple(listeners))
    for asset in scene.assets:
        if asset.asset is not None:
            emit(PhaseStarted(f"{asset.name}: {describe_asset(asset_file(asset.asset))[1]}"))
    try:
        for path, recipe in recipes.items():
            emit(PhaseStarted(f"{path.relative_to(out / ASSETS)}: {recipe.prompt}"))
            _make(path, recipe, listeners)
    except UserError:
        if not any((out / ASSETS).iterdir()):  # no run was begun, so nothing is worth keeping
            (out / SCENE).unlink()
            (out / ASSETS).rmdir()
        raise
    emit(PhaseStarted("composing"))
    made = time.perf_counter()
    composition = _put_together(scene, out, making, whole)
    return _write(composition, whole, out, {"making the runs": made - begun}, made)


def plan(scene: SceneFile, out: Path, making: Making) -> tuple[Recipe, dict[Path, Recipe]]:
    """The recipe of the composed scene, and those of the runs that it needs in an order in which they can be made.

    Raises UserError for everything that can be known to be wrong before the first run.
    """
    recipes = _recipes(scene, out, making)
    return _whole_recipe(scene, making, list(recipes.values())), recipes


def still_folder(out: Path, asset: Asset) -> Path:
    """The folder of the run that makes an asset from its prompt."""
    return out / ASSETS / asset.name


def motion_folders(out: Path, asset: Asset) -> list[Path]:
    """The folders of the runs of an asset's motions."""
    return [
        still_folder(out, asset) / f"{number:02d}-{slug(segment.prompt)}"
        for number, segment in enumerate(asset.motion, 1)
    ]


def _recipes(scene: SceneFile, out: Path, making: Making) -> dict[Path, Recipe]:
    """The runs that a scene needs, in the order in which they can be made."""
    recipes: dict[Path, Recipe] = {}
    for asset in scene.assets:
        if asset.asset is None:
            recipes[still_folder(out, asset)] = load_recipe(
                "text-to-3d",
                making.of("still"),
                prior=making.prior,
                tokenizer=making.tokenizer,
                prompt=asset.prompt,
                **making.common,
            )
        else:
            read_asset(asset_file(asset.asset))  # that it is one
        for number, folder in enumerate(motion_folders(out, asset)):
            recipes[folder] = _motion_recipe(scene, asset, number, out, making)
    return recipes


def _motion_recipe(scene: SceneFile, asset: Asset, number: int, out: Path, making: Making) -> Recipe:
    segment, body = asset.motion[number], body_configs(asset)[number]
    own = [f"export.animation.loop={str(body.closing > 0.0).lower()}"]
    if body.closing:
        own.append(f"representation.closing={body.closing}")
    if number:
        before = motion_folders(out, asset)[number - 1].absolute()
        own += [
            f"representation.after.run={before}",
            f"representation.after.overlap={body.after.overlap}",
            f"representation.after.last={body.after.last}",
            f"representation.regularizers.handover={_HANDOVER}",
        ]
    given = still_folder(out, asset) / "asset.ply" if asset.asset is None else asset_file(asset.asset)
    wish = MotionWish(
        f"{asset.prompt} {segment.prompt}".strip(),
        given.absolute(),  # which the run of the asset leaves, perhaps later
        segment.seconds,
        scene.fps,
        making.prior,
        making.tokenizer,
        making.video_prior,
    )
    recipe = motion_recipe("text-to-4d", wish, [*own, *making.of("motion")], **making.common)
    if not recipe.representation.is_a(DynamicGaussians):
        raise UserError(f"a scene is composed of dynamic-gaussians, not of {recipe.representation.name}")
    return recipe


def _check_out(out: Path) -> None:
    """UserError if `out` holds anything but an earlier state of this scene: a scene file may be the user's own,
    which would be overwritten, and that of a composed scene says so or has runs beside it."""
    ours = (out / SCENE).is_file() and (out / ASSETS).is_dir()
    ours = ours and (_begins(out / SCENE, _HEAD) or any((out / ASSETS).rglob(RECIPE)))
    if not ours:
        check_free(out)


def _begins(path: Path, text: str) -> bool:
    try:
        return inside.read_text(path, LARGEST).startswith(text)
    except (OSError, UserError, UnicodeDecodeError):
        return False


def _check_as_before(path: Path, recipe: Recipe) -> None:
    """UserError if there is a run at `path` that would be made differently now."""
    if not (path / RECIPE).is_file():
        check_free(path)
        return
    before = dict(leaves(read_resolved(path / RECIPE).resolved))
    now = dict(leaves(recipe.resolved))
    for key in sorted(before.keys() | now.keys()):
        if not key.startswith("export.") and before.get(key) != now.get(key):  # its own files are by-products
            raise UserError(
                f"'{path}' was made with {key} {before.get(key)}, and would be made with {now.get(key)} now: "
                "delete it, or choose another --out"
            )


def _make(path: Path, recipe: Recipe, listeners: Sequence[Listener]) -> None:
    if not (path / RECIPE).is_file():
        start(recipe, path, listeners)
        return
    run = RunDirectory.open(path)
    if not run.finished:
        for warning in resume(run, listeners):
            warnings.warn(warning, stacklevel=1)


def _whole_recipe(scene: SceneFile, making: Making, recipes: Sequence[Recipe]) -> Recipe:
    """The recipe of the composed scene: that of its last motion, with the scene in place of the cloud."""
    moving = [recipe for recipe in recipes if recipe.representation.is_a(DynamicGaussians)]
    like = moving[-1] if moving else load_recipe("text-to-4d", prompt="-").all_stages[-1]
    values = dict(like.resolved)
    values["prompt"] = "; ".join(_sentence(asset) for asset in scene.assets)
    values["steps"] = max(1, sum(recipe.steps for recipe in recipes))
    how = like.representation.config
    values["representation"] = {
        "name": "threedgen.composition:Composition",
        "scene": typed.plain(scene),
        "deformation": typed.plain(how.deformation),
        "trajectory": typed.plain(how.trajectory),
    }
    settings = [
        f"animation.seconds={scene.length}",
        f"animation.fps={scene.fps}",
        f"animation.loop={str(scene.loop > 0.0).lower()}",
        *making.of("export"),
    ]
    for key, raw in split_overrides([f"export.{setting}" for setting in settings]):
        values = apply_override(values, key, raw)
    return resolve(values)


def _sentence(asset: Asset) -> str:
    what = asset.prompt or asset.name
    return " ".join([what, ", then ".join(segment.prompt for segment in asset.motion)]).strip()


def _put_together(scene: SceneFile, out: Path, making: Making, whole: Recipe) -> Composition:
    bodies = []
    for asset in scene.assets:
        folders = motion_folders(out, asset)
        if folders:
            bodies.append(_bodies(folders))
            continue
        given = still_folder(out, asset) if asset.asset is None else Path(asset.asset)
        how = whole.representation.config
        still = DynamicGaussians.Config(
            asset=str(asset_file(str(given))), deformation=how.deformation, trajectory=how.trajectory
        )
        bodies.append([DynamicGaussians(still, making.seed)])
    return Composition(whole.representation.config, bodies)


def _bodies(folders: Sequence[Path]) -> list[DynamicGaussians]:
    """The motions of an asset. UserError if one continues another motion than the one that is there now."""
    bodies: list[DynamicGaussians] = []
    for folder in folders:
        run = RunDirectory.open(folder)
        body = load_scene(run, read_resolved(run.recipe))
        assert isinstance(body, DynamicGaussians)
        if bodies and not body.goes_on_from(bodies[-1]):
            raise UserError(
                f"the motion before '{folder}' was made again since: delete '{folder}' to make it again too"
            )
        bodies.append(body)
    return bodies


@torch.no_grad()
def _write(
    scene: Composition, recipe: Recipe, out: Path, seconds: dict[str, float], since: float
) -> RunDirectory:
    """All files of the composed scene; report.json comes last, as in a run."""
    run = RunDirectory(out)
    run.report.unlink(missing_ok=True)
    checkpoint.save(run.checkpoint, checkpoint.prefixed("scene", scene.state_dict()), {"stage": 0})
    with replacing(run.recipe) as temporary:
        temporary.write_text(_yaml(recipe.resolved), encoding="utf-8")
    moving = finish.moving_asset(recipe, scene)
    facts: dict[str, Any] = {
        "gaussians": len(scene),
        "motion": moving.distance,
        "assets": _about(scene, recipe),
    }
    farthest = float(torch.linalg.vector_norm(moving.moved, dim=2).max())
    if farthest > _IN_SIGHT:
        warnings.warn(
            f"the scene reaches {farthest:.1f} from its middle, and films show {_IN_SIGHT}: lower `scale` and "
            "`at` to see all of it",
            stacklevel=1,
        )
    moving.write(out / "anim.mp4")
    export.write(scene, out / "asset.ply", note=moving.note, splats=moving.splats)
    try:
        mesh, _ = moving.surface
    except NoSurface as error:
        warnings.warn(str(error), stacklevel=1)
        facts["mesh"] = str(error)
    else:
        facts |= {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}
        facts |= {} if mesh.material is None else {"material": facts_of(mesh.material)}
        gltf.write_glb(out / "asset.glb", mesh, moving.note)
        for name in ("anim.glb", "player.html"):
            moving.write(out / name)
    seconds = {**seconds, "composing": time.perf_counter() - since}
    scores = moving_scores(moving)
    durations = {name: round(value, 3) for name, value in seconds.items()}
    finish.write_report(recipe, run, facts, scores, durations, executors=[])  # each run's report has its own
    return run


def _about(scene: Composition, recipe: Recipe) -> list[dict[str, Any]]:
    fps = recipe.fixed["export"].config.animation.fps
    return [
        {
            "name": track.asset.name,
            "gaussians": len(track.body(0)),
            "motions": [segment.prompt for segment in track.asset.motion],
            "handovers": [dataclasses.asdict(one) for one in handovers(track, fps)],
        }
        for track in scene.animated
    ]


def _yaml(values: Any) -> str:
    import yaml

    return yaml.safe_dump(dict(values), sort_keys=False)
