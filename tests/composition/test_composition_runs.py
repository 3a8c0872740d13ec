"""threedgen compose from the command to the files, with a video prior that nobody trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from splatting_scenes import random_cloud

from threedgen.commands.main import main
from threedgen.composition.composition import Composition, Track, handovers
from threedgen.composition.runs import Making, compose
from threedgen.composition.scene_file import read_scene
from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat import write_splats
from threedgen.jobs.build import continue_earlier, load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.events import Event, PhaseStarted, StepDone
from threedgen.recipes.load import read_resolved
from threedgen.representations.dynamic_gaussians import DynamicGaussians
from threedgen.training.video_model import VideoArchitecture, VideoModel, save_video_pipeline

TINY = VideoArchitecture(
    size=16, channels=(8, 16), attention=(False, True), embedding=32, text_width=16, text_layers=1, frames=4
)
FILES = ("mesh.resolution=16", "moving_faces=300", "turntable.size=16", "turntable.frames=1")
QUICK = [
    *(f"{kind}.export.{setting}" for kind in ("still", "motion") for setting in FILES),
    *("motion.cameras.resolution=16", "motion.cameras.batch=1", "motion.representation.deformation.width=8"),
    "motion.guidance.1.prior.name=disc",
    *("still.guidance.0.prior.name=disc", "still.representation.count=60", "still.cameras.resolution=16"),
    *("export.mesh.resolution=24", "export.moving_faces=900", "export.turntable.size=32"),
]
SCENE = """
fps: 8
assets:
  - name: cube
    asset: cube.ply
    prompt: a red cube
    at: [-0.8, 0, 0]
    scale: 0.4
    motion:
      - {prompt: sliding, seconds: 1}
      - {prompt: spinning, seconds: 1, overlap: 0.25}
  - {name: mug, asset: mug.ply, scale: 0.4}
  - name: ball
    prompt: a ball
    scale: 0.4
    path: {points: [{time: 0, at: [0.8, 0, 0]}, {time: 1.75, at: [0.8, 0.5, 0]}]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The scene file, two assets and a video prior."""
    folder = tmp_path_factory.mktemp("composition")
    torch.manual_seed(0)
    model = VideoModel(TINY)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    save_video_pipeline(model, folder / "video", torch.float32)
    for name, count in (("cube", 80), ("mug", 50)):
        write_splats(
            folder / f"{name}.ply", SplatParameters.from_cloud(random_cloud(count, degree=0, size=0.2))
        )
    (folder / "scene.yaml").write_text(SCENE)
    return folder


def making(folder: Path, *settings: str) -> Making:
    return Making(video_prior=str(folder / "video"), steps=2, settings=(*QUICK, *settings))


@pytest.fixture(scope="module")
def out(folder):
    options = ["--video-prior", str(folder / "video"), "--steps", "2", "--out", str(folder / "out")]
    assert main(["compose", str(folder / "scene.yaml"), *options, *QUICK]) == 0
    return folder / "out"


def scene_of(out: Path) -> Composition:
    run = RunDirectory.open(out)
    scene = load_scene(run, read_resolved(run.recipe))
    assert isinstance(scene, Composition)
    return scene


def test_a_scene_of_three_assets_is_made_and_written(out):
    assert {path.name for path in out.iterdir()} >= {
        *("anim.glb", "anim.mp4", "asset.glb", "asset.ply", "report.json", "scene.yaml", "assets"),
    }
    runs = sorted(str(path.parent.relative_to(out / "assets")) for path in out.glob("assets/**/recipe.yaml"))
    assert runs == ["ball", "cube/01-sliding", "cube/02-spinning"]
    report = json.loads((out / "report.json").read_text())
    assert report["prompt"] == "a red cube sliding, then spinning; mug; a ball"
    assert report["asset"]["gaussians"] > 130
    assert [asset["name"] for asset in report["asset"]["assets"]] == ["cube", "mug", "ball"]
    recipe = read_resolved(out / "recipe.yaml")
    assert recipe.fixed["export"].config.animation.seconds == 1.75
    assert recipe.fixed["export"].config.animation.loop is False
    later = read_resolved(out / "assets/cube/02-spinning/recipe.yaml")
    assert later.prompt == "a red cube spinning"
    assert later.representation.config.after.overlap == 0.25


def test_its_scene_moves_but_for_what_stays(out):
    scene = scene_of(out)
    away = (scene.moved(torch.linspace(0.0, 1.0, 8)) - scene.means).norm(dim=2).amax(0)
    assert float(away[80:130].max()) == 0.0
    assert float(away[:80].min()) > 0.0
    assert float(away[130:].min()) == pytest.approx(0.5, abs=1e-4)


def test_one_motion_hands_over_to_the_next_without_a_jump(out, folder):
    """Amplified, so that there is a motion to speak of after two steps."""
    track = scene_of(out).animated[0]
    generator = torch.Generator().manual_seed(0)
    first, second = track.body(0), track.body(1)
    with torch.no_grad():
        for parameter in [*first.parameters(), *second.parameters()]:
            parameter.normal_(std=0.3, generator=generator)
        second.field.earlier.load_state_dict(first.field.state_dict())  # pyright: ignore
    assert second.goes_on_from(first)
    (found,) = handovers(track, 24.0)
    assert found.jump <= found.median_step
    cut = Track(track.scene, track.asset, [first, first])
    assert handovers(cut, 24.0)[0].jump > 5.0 * found.jump


@pytest.mark.parametrize("name", ["again.glb", "again.gif", "still.ply", "still.obj"])
def test_a_composed_scene_is_exported_as_a_run_is(out, name, tmp_path):
    assert main(["export", str(out), "--to", str(tmp_path / name), "animation.fps=4"]) == 0
    assert (tmp_path / name).stat().st_size > 100


def test_a_turntable_of_a_scene_shows_its_mesh_with_the_colours_of_its_vertices(out, tmp_path):
    def first(*options: str) -> np.ndarray:
        assert main(["render", str(out), "--to", str(tmp_path / "frames"), "frames=1", *options]) == 0
        return np.asarray(Image.open(tmp_path / "frames/frame_00000.png"))

    shown = first()
    np.testing.assert_array_equal(shown, first("--show", "mesh"))
    assert not np.array_equal(shown, first("--show", "optimised"))
    assert np.ptp(shown.astype(int), axis=2).max() > 20  # it is not grey


def test_the_gaussians_of_a_scene_are_written_as_the_settings_of_splats_say(folder, tmp_path):
    (folder / "still.yaml").write_text("fps: 8\nseconds: 0.5\nassets: [{name: mug, asset: mug.ply}]\n")
    scene, settings = read_scene(folder / "still.yaml"), making(folder, "export.splats.degree=3")
    run = compose(scene, tmp_path / "out", settings)
    (header, _) = (run.path / "asset.ply").read_bytes().split(b"end_header", 1)
    assert header.count(b"f_rest_") == 45
    assert main(["export", str(run.path), "--to", str(tmp_path / "again.ply")]) == 0
    assert (tmp_path / "again.ply").read_bytes() == (run.path / "asset.ply").read_bytes()


def test_what_is_finished_is_kept_and_the_rest_is_made_anew(out, folder, capsys):
    """Only a place changed."""
    before = {path: path.stat().st_mtime_ns for path in out.glob("assets/**/report.json")}
    (folder / "moved.yaml").write_text(SCENE.replace("[-0.8, 0, 0]", "[-0.5, 0, 0]"))
    there = scene_of(out).means
    events: list[Event] = []
    compose(read_scene(folder / "moved.yaml"), out, making(folder), [events.append])
    told = [event.name for event in events if isinstance(event, PhaseStarted)]
    assert told[1].startswith("mug: mug.ply: 50 Gaussians, up is -y in the file")
    assert {path: path.stat().st_mtime_ns for path in out.glob("assets/**/report.json")} == before
    shift = scene_of(out).means - there
    torch.testing.assert_close(shift[:80], torch.tensor([0.3, 0.0, 0.0]).expand(80, 3), atol=1e-5, rtol=0)
    assert float(shift[80:].abs().max()) == 0.0
    (folder / "other.yaml").write_text(SCENE.replace("a ball", "a cone"))
    with pytest.raises(
        UserError, match=r"ball' was made with prompt a ball, and would be made with a cone now"
    ):
        compose(read_scene(folder / "other.yaml"), out, making(folder))


LONG = """
fps: 4
assets:
  - {name: cube, prompt: a cube, motion: [{prompt: sliding}, {prompt: spinning}], loop: 0.5, scale: 0.3}
"""


def test_a_composition_that_was_stopped_goes_on(folder, tmp_path):
    (folder / "long.yaml").write_text(LONG)
    scene = read_scene(folder / "long.yaml")
    seen: list[int] = []

    def stop(event: Event) -> None:
        if isinstance(event, StepDone):
            seen.append(event.step)
            if len(seen) == 5:
                raise KeyboardInterrupt

    settings = making(folder, "motion.checkpoint.every=1")
    with pytest.raises(KeyboardInterrupt):
        compose(scene, tmp_path / "out", settings, [stop])
    assert not (tmp_path / "out/report.json").exists()
    first = tmp_path / "out/assets/cube/01-sliding/report.json"
    before = first.stat().st_mtime_ns
    seen.clear()

    def count(event: Event) -> None:
        if isinstance(event, StepDone):
            seen.append(event.step)

    compose(scene, tmp_path / "out", settings, [count])
    assert seen == [1]  # the second step of the third run
    assert first.stat().st_mtime_ns == before
    of = scene_of(tmp_path / "out")
    ends = of.moved(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends[1], ends[0], atol=1e-6, rtol=0)  # it closes
    # A first motion that is another one now is not taken for that which the second goes on from.
    tensors, state = checkpoint.load(first.parent / "checkpoint")
    tensors[next(name for name in tensors if name.startswith("scene.field."))] += 1.0
    checkpoint.save(first.parent / "checkpoint", tensors, state)
    with pytest.raises(UserError, match=r"the motion before '.*02-spinning' was made again since"):
        compose(scene, tmp_path / "out", settings)


def test_a_motion_of_other_gaussians_cannot_be_gone_on_from(out, folder):
    run = out / "assets/cube/02-spinning"
    config = read_resolved(run / "recipe.yaml").representation.config
    with pytest.raises(UserError, match="moves other Gaussians"):
        continue_earlier(DynamicGaussians(config, 0, random_cloud(9)))
    recipe = read_resolved(
        run / "recipe.yaml", [f"representation.after.run={run}", "representation.after.last=0.9"]
    )
    with pytest.raises(UserError, match="still blended with the one before it"):
        continue_earlier(DynamicGaussians(recipe.representation.config))
    recipe = read_resolved(run / "recipe.yaml", ["representation.deformation.width=9"])
    with pytest.raises(UserError, match="has another deformation"):
        continue_earlier(DynamicGaussians(recipe.representation.config))


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (("cube.ply", "gone.ply"), [], "there is no asset '"),
        (("mug.ply", "broken.ply"), [], "broken.ply is cut short"),
        (("mug.ply", "broken.obj"), [], "broken.obj"),
        (("fps: 8", "fps: -1"), [], "fps is -1; it must be greater than 0"),
        (("overlap: 0.25", "overlap: 2"), [], "is longer than"),
        (
            ("fps: 8", "fps: 8"),
            ["scale=3"],
            "'scale=3' does not say what it changes: begin it with still., motion. or export.",
        ),
        (("fps: 8", "fps: 8"), ["motion.camera.batch=3"], "unknown key 'camera"),
        (("fps: 8", "fps: 8"), ["export.mesh.face=3"], "unknown key 'export.mesh.face'"),
        (("fps: 8", "fps: 8"), ["--video-prior", "nowhere"], "there is no folder 'nowhere'"),
        (("sliding", "standing"), ["--video-prior", "embedded"], "'a red cube standing' names no motion"),
    ],
)
def test_what_cannot_be_composed_is_said_in_one_line_before_anything_is_made(
    change, options, said, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (folder / "broken.ply").write_bytes((folder / "mug.ply").read_bytes()[:-100])
    (folder / "broken.obj").write_text("v 0 0 0\nf 1 2 3\n")
    scene = folder / "bad.yaml"
    scene.write_text(SCENE.replace(*change))
    given = options if "--video-prior" in options else ["--video-prior", str(folder / "video"), *options]
    assert main(["compose", str(scene), "--out", "out", *given]) == 2
    found = capsys.readouterr().err.strip()
    assert said in found
    assert found.count("threedgen:") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(folder, tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    options = ["--video-prior", str(folder / "video"), "--out", str(tmp_path)]
    assert main(["compose", str(folder / "scene.yaml"), *options]) == 2
    assert "is not empty and not a run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_the_users_own_scene_file_is_not_written_over(tmp_path, capsys):
    own = tmp_path / "scene.yaml"
    own.write_text(
        "# mine\nassets: [{name: cube, prompt: a red cube, motion: [{prompt: bouncing, seconds: 1}]}]\n"
    )
    assert main(["compose", str(own), "--out", str(tmp_path)]) == 2
    assert "is not empty and not a run" in capsys.readouterr().err
    assert own.read_text().startswith("# mine")


def test_a_composition_is_not_resumed_as_a_run(out, capsys):
    report = (out / "report.json").read_bytes()
    (out / "report.json").unlink()
    try:
        assert main(["resume", str(out)]) == 2
        assert "is a composed scene: run the `threedgen compose` command" in capsys.readouterr().err
    finally:
        (out / "report.json").write_bytes(report)


def test_the_scene_is_written_beside_what_was_made_of_it(out, folder):
    values = yaml.safe_load((out / "scene.yaml").read_text())
    assert values["assets"][0]["asset"] == str(folder / "cube.ply")
    assert read_scene(out / "scene.yaml").assets[0].motion[1].overlap == 0.25


def test_a_scene_that_is_refused_by_its_first_run_leaves_no_folder(folder, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    options = ["--video-prior", str(folder / "video"), "--steps", "2", "--out", str(out)]
    spoilt = [*QUICK, "motion.cameras.resolution=100000000000"]
    assert main(["compose", str(folder / "scene.yaml"), *options, *spoilt]) == 2
    assert "threedgen: out of memory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
