"""The measurements of a training while it runs: metrics.jsonl, grids and warnings."""

import json
from pathlib import Path

import pytest
import torch
from latent_scenes import VIEWS, cars, made, tiny, trainer
from PIL import Image

from threedgen.core.pictures import resize
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import ObjectSet
from threedgen.ssdnerf import watch as watching
from threedgen.ssdnerf.model import load_model
from threedgen.ssdnerf.posed_objects import PosedObjects, pack
from threedgen.ssdnerf.trainer import Trainer
from threedgen.ssdnerf.training import train
from threedgen.ssdnerf.watch import METRICS, Every, Watch

QUIET = Every(0, 0)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> PosedObjects:
    return made(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_MEAN_OVER", 2)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def trained(
    config, objects: PosedObjects, folder: Path, every: Every = QUIET, steps: int | None = None
) -> Trainer:
    """Trains from the last checkpoint of the folder, and stops after `steps` like a training that is killed."""
    of = trainer(config, objects, folder)

    def report(step: int, headline: str) -> None:
        if step == steps:
            raise InterruptedError

    try:
        train(of, Watch(folder, of.step, every), {"recipe": "tiny"}, 4, report)
    except InterruptedError:
        assert of.step == steps
    return of


def watched(watch: Watch, of: Trainer, measured: dict[str, float]) -> None:
    """A step in which this was measured, as `train` hands it over."""
    for name, value in measured.items():
        of.unwritten.setdefault(name, []).append(value)
    watch.step(of)


@pytest.mark.usefixtures("short_lines")
def test_lines_are_means_and_say_what_there_is_to_watch(objects, tmp_path):
    of, seen = trainer(tiny(steps=5), objects, tmp_path), []
    watch = Watch(tmp_path, 0, QUIET)
    for _ in range(5):
        seen.append(of.train_step())
        watched(watch, of, seen[-1])
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [2, 4, 5]  # the last step has its own line
    assert found[0]["rendering"] == pytest.approx((seen[0]["rendering"] + seen[1]["rendering"]) / 2, rel=1e-3)
    assert found[2]["rendering"] == pytest.approx(seen[4]["rendering"], rel=1e-3)
    expected = -10.0 * torch.log10(torch.tensor((seen[2]["mse"] + seen[3]["mse"]) / 2))
    assert found[1]["psnr"] == pytest.approx(float(expected), rel=1e-3)
    balance = found[1]["prior gradient"] / found[1]["rendering gradient"]
    assert found[1]["balance"] == pytest.approx(balance, rel=1e-3)
    assert {"prior", "code std", "saturated", "seconds"} <= set(found[0])
    assert f"psnr {found[2]['psnr']:.3g}"[:7] in watch.headline


@pytest.mark.usefixtures("short_lines")
def test_a_resumed_trainings_lines_are_those_of_an_uninterrupted_one(objects, tmp_path):
    """Lines after the last checkpoint are written again, once, and a line that was cut short is removed."""
    config = tiny(steps=8)
    trained(config, objects, tmp_path / "parts", steps=7)
    assert [row["step"] for row in rows(tmp_path / "parts")] == [2, 4, 6]
    with (tmp_path / "parts" / METRICS).open("a") as file:
        file.write('{"step": 7, "psn')
    trained(config, objects, tmp_path / "parts")
    trained(config, objects, tmp_path / "whole")
    parts, whole = rows(tmp_path / "parts"), rows(tmp_path / "whole")
    for row in (*parts, *whole):
        del row["seconds"]
    assert parts == whole
    assert [row["step"] for row in whole] == [2, 4, 6, 8]


@pytest.mark.parametrize("before", [True, False])
def test_what_a_stopped_training_had_not_written_is_written_by_the_next(
    objects, tmp_path, monkeypatch, before
):
    """Lines of three steps and checkpoints of four: a line is of steps from before and from after the stop. before:
    whether it is stopped between the last checkpoint and its line and its grid, or in the steps before."""
    monkeypatch.setattr(watching, "_MEAN_OVER", 3)
    config, every = tiny(steps=8), Every(grid=8, fid=0)
    trained(config, objects, tmp_path / "whole", every)

    class Stopped(Watch):
        def step(self, trainer: Trainer) -> None:
            if trainer.step == (8 if before else 5):
                raise InterruptedError
            super().step(trainer)

    with pytest.raises(InterruptedError):
        train(
            trainer(config, objects, tmp_path / "parts"),
            Stopped(tmp_path / "parts", 0, every),
            {},
            4,
            lambda *_: None,
        )
    trained(config, objects, tmp_path / "parts", every)
    parts, whole = rows(tmp_path / "parts"), rows(tmp_path / "whole")
    for row in (*parts, *whole):
        del row["seconds"]
    assert parts == whole
    assert [row["step"] for row in whole] == [3, 6, 8]
    grids = [(tmp_path / name / "watch" / "grid_0000008.png").read_bytes() for name in ("parts", "whole")]
    assert grids[0] == grids[1]
    trained(config, objects, tmp_path / "parts", every)  # finished: nothing is written twice
    assert [row["step"] for row in rows(tmp_path / "parts")] == [3, 6, 8]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            {"prior gradient": 40.0},
            "the gradient of the prior is 40.0 times that of the pictures: lower diffusion.weight",
        ),
        ({"prior gradient": 1e-4}, "only 1.0e-04 times that of the pictures: raise diffusion.weight"),
        ({"saturated": 0.5}, "50% of the values of the codes are at their bounds: raise codes.regularizer"),
        ({"prior gradient": 1.0, "saturated": 0.1}, ""),
    ],
)
@pytest.mark.usefixtures("short_lines")
def test_what_is_out_of_balance_is_reported_once(objects, tmp_path, capsys, seen, said):
    of, watch = trainer(tiny(), objects, tmp_path), Watch(tmp_path, 0, QUIET)
    for of.step in range(1, 7):
        watched(watch, of, {"rendering gradient": 1.0, "prior gradient": 1.0, "mse": 0.1, **seen})
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == (1 if said else 0)
    assert all(line.startswith("warning: ") and said in line for line in lines)


@pytest.mark.usefixtures("short_lines")
def test_each_kind_of_warning_is_reported_once_whatever_its_numbers(objects, tmp_path, capsys):
    """The gradient of the prior is first too large and then too small, and ever more values are at their bounds."""
    of, watch = trainer(tiny(), objects, tmp_path), Watch(tmp_path, 0, QUIET)
    for of.step in range(1, 13):
        seen = {
            "prior gradient": 10.0 + of.step if of.step < 7 else 1e-5 * of.step,
            "saturated": 0.05 * of.step,
        }
        watched(watch, of, {"rendering gradient": 1.0, **seen})
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    for line, said in zip(lines, ("lower diffusion", "raise diffusion", "raise codes"), strict=True):
        assert said in line


def test_without_a_prior_there_is_no_balance_to_warn_of(objects, tmp_path, capsys):
    trained(tiny(diffusion={"weight": 0.0}), objects, tmp_path, Every(grid=6, fid=6))
    assert capsys.readouterr().err == ""
    (row,) = rows(tmp_path)
    assert "psnr" in row
    assert not {"balance", "fid", "prior"} & set(row)
    with Image.open(tmp_path / "watch" / "grid_0000006.png") as grid:
        assert grid.height == 4 * 16  # pictures and renders of two objects, and no samples


def test_grids_show_samples_and_pictures_and_what_was_learnt(objects, tmp_path):
    of = trained(tiny(steps=4), objects, tmp_path, Every(grid=3, fid=0))
    names = sorted(path.name for path in (tmp_path / "watch").iterdir())
    assert names == ["grid_0000003.png", "grid_0000004.png"]
    with Image.open(tmp_path / "watch" / names[1]) as grid:
        assert grid.size == (6 * 16, (6 + 2 * 2) * 16)
        pixels = torch.tensor(list(grid.convert("RGB").tobytes())).reshape(grid.height, grid.width, 3)
    chosen = torch.linspace(0, VIEWS - 1, 6).long()
    true = torch.cat(list(objects.pictures(0)[chosen]), dim=1)
    assert torch.equal(pixels[6 * 16 : 7 * 16], true.long())
    assert of.step == 4


def test_the_fid_row_is_there_and_is_zero_of_the_pictures_themselves(objects, tmp_path, monkeypatch):
    of = trained(tiny(steps=2), objects, tmp_path, Every(grid=0, fid=2, samples=6))
    (row,) = rows(tmp_path)
    assert row["fid"] > 0.0
    watch, given = Watch(tmp_path, 2, Every(samples=6)), []

    def themselves(model, code, camera):
        """The training picture of that camera, in place of a sample."""
        for index in range(4):
            for view, pose in enumerate(objects.cameras(index).world_from_camera):
                if torch.equal(pose, camera.world_from_camera[0]):
                    given.append((index, view))
                    rgb = objects.pictures(index)[view : view + 1].float() / 255.0
                    return type("Seen", (), {"rgb": rgb})
        raise AssertionError("a camera that no picture has")

    monkeypatch.setattr(watching, "render_code", themselves)
    assert watch.fid(of) == pytest.approx(0.0, abs=1e-2)
    assert len(given) == 6
    assert len({index for index, _ in given}) > 1


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> PosedObjects:
    """Objects whose pictures have different sizes: higher than wide, wider than high, and as in the other tests."""
    drawn, sizes = cars(4), ((16, 16), (24, 16), (12, 20), (16, 16))

    def load(index: int) -> PosedPictures:
        posed, size = drawn.load(index), sizes[index]
        images, alpha = (resize(pictures, *size) for pictures in (posed.images, posed.alpha))
        return PosedPictures(images, alpha, posed.cameras.resized(*size))

    return pack(ObjectSet(drawn.names, load, drawn.caption), tmp_path_factory.mktemp("mixed"))


def test_objects_of_different_picture_sizes_are_watched(mixed, tmp_path):
    trained(tiny(steps=2), mixed, tmp_path, Every(grid=2, fid=2, samples=8))
    (row,) = rows(tmp_path)
    assert 0.0 < row["fid"] < float("inf")
    with Image.open(tmp_path / "watch" / "grid_0000002.png") as grid:
        assert grid.size == (6 * 24, 6 * 24 + 2 * 16 + 2 * 24)  # of the largest side; two objects


def test_large_pictures_are_reduced_before_they_are_looked_at(mixed, tmp_path, monkeypatch):
    """This bounds the cost of a point of the curve and of a grid."""
    monkeypatch.setattr(watching, "LARGEST", 10)
    sizes, render = [], watching.render_code

    def noted(model, code, cameras):
        sizes.append((cameras.height, cameras.width))
        return render(model, code, cameras)

    monkeypatch.setattr(watching, "render_code", noted)
    of = trained(tiny(steps=2), mixed, tmp_path, Every(grid=2, fid=2, samples=8))
    assert set(sizes) == {(10, 10), (10, 7), (6, 10)}
    with Image.open(tmp_path / "watch" / "grid_0000002.png") as grid:
        assert grid.size == (6 * 10, 6 * 10 + 2 * 10 + 2 * 10)
        pixels = torch.tensor(list(grid.convert("RGB").tobytes())).reshape(grid.height, grid.width, 3)
    true = resize(mixed.pictures(0)[:1].float(), 10, 10)[0].round()
    assert float((pixels[6 * 10 : 7 * 10, :10] - true).abs().max()) <= 1.0
    assert of.averages.viewpoint.size == 24  # the viewpoint of the model stays as it is


def test_watching_does_not_change_the_training(objects, tmp_path):
    from latent_scenes import assert_same, state

    looked, alone = (
        trained(tiny(steps=3), objects, tmp_path / str(every.grid), every) for every in (Every(1, 0), QUIET)
    )
    assert_same(state(looked), state(alone))


def test_a_training_leaves_its_averaged_model(objects, tmp_path):
    of = trained(tiny(diffusion={"captions": True}), objects, tmp_path)
    model = load_model(tmp_path)
    for name, value in of.averages.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value.half().float(), rtol=0, atol=0)
    assert model.words == of.averages.words
    assert "car" in model.words
    assert model.viewpoint == of.averages.viewpoint
    assert (model.config.codes, model.config.diffusion) == (of.config.codes, of.config.diffusion)
    about = json.loads((tmp_path / "ssdnerf.json").read_text())
    assert (about["recipe"], about["steps"], about["scenes"], about["processes"]) == ("tiny", 6, 4, 1)
