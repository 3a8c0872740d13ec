"""The finetuned triplane as a representation, and a run of the recipe that ends with the same bits when it was
stopped."""

import shutil

import pytest
import torch
from nerfdiff_scenes import SIZE, cube_source, seen, source_camera, tiny_model, write_cut_out

from threedgen.commands.main import main
from threedgen.jobs.build import load_scene
from threedgen.jobs.run import resume
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.events import StepDone
from threedgen.nerfdiff.camera_triplane import CameraTriplane
from threedgen.nerfdiff.field import source_frame
from threedgen.nerfdiff.store import save_model
from threedgen.pipelines.image_to_3d import prepare
from threedgen.recipes.load import read_resolved

SETTINGS = ["steps=6", "cameras.count=4", "cameras.batch=2", "cameras.resolution=16", "guidance.0.count=4"]
QUICK = [
    *SETTINGS,
    "renderer.samples=16",
    "export.turntable.frames=2",
    "export.turntable.size=16",
    "export.mesh.resolution=16",
]


def _picture(folder):
    return write_cut_out(folder / "car.png", seen(source_camera().resized(64, 64), "car", "yellow"))


def test_it_starts_as_the_model_predicts():
    source = cube_source()
    scene = CameraTriplane(CameraTriplane.Config(), 0, source)
    with torch.no_grad():
        assert torch.equal(scene.planes, source.model.planes(source.picture)[0])
    points = 0.5 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    expected = source.model.field(scene.planes, source_frame(source.camera, source.radius)).query(
        points, points
    )
    for value, other in zip(scene.at().query(points, points), expected, strict=True):
        torch.testing.assert_close(value, other)


def test_a_blank_scene_takes_every_size_from_the_state():
    source = cube_source()
    scene = CameraTriplane(CameraTriplane.Config(), 0, source)
    blank = CameraTriplane.blank(CameraTriplane.Config())
    blank.load_state_dict(scene.state_dict())
    assert blank.planes.shape == (3, SIZE, SIZE, 4)
    for name, value in scene.state_dict().items():
        assert torch.equal(value, blank.state_dict()[name])


def test_the_recipe_runs_and_exports_without_the_model(tmp_path):
    picture, model = _picture(tmp_path), tmp_path / "model"
    save_model(tiny_model(), model, {})
    out = tmp_path / "run"
    command = ["image-to-3d", str(picture), "--recipe", "nerfdiff", "--prior", str(model), "--out", str(out)]
    assert main([*command, *QUICK]) == 0
    assert (out / "report.json").is_file()
    shutil.rmtree(model)
    run = RunDirectory.open(out)
    assert load_scene(run, read_resolved(run.recipe)).planes.shape[1] == SIZE
    assert main(["render", str(out), "--to", str(tmp_path / "frames")]) == 0


class _StopAt:
    """A listener that stops a run in the middle, as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def __call__(self, event):
        if isinstance(event, StepDone) and event.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_run_ends_with_the_same_bits(tmp_path, stop):
    """It is stopped in the first pass, and after some views have taken a DDIM step: the estimates are saved with
    the run."""
    picture, model, states = _picture(tmp_path), tmp_path / "model", []
    save_model(tiny_model(), model, {})
    settings = [*QUICK, "checkpoint.every=1"]
    for name, listeners in (("whole", []), ("stopped", [_StopAt(stop)])):
        out = tmp_path / name
        try:
            prepared = prepare(picture, out=out, recipe="nerfdiff", prior=model, settings=settings)
            prepared.run(progress=False, listeners=listeners)
        except KeyboardInterrupt:
            resume(RunDirectory.open(out))
        run = RunDirectory.open(out)
        states.append(load_scene(run, read_resolved(run.recipe)).state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
