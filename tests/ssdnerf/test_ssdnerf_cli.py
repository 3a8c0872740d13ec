"""train ssdnerf, sample and reconstruct: the files that they write, and their complaints of one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import trimesh
import yaml
from latent_scenes import TINY, cars, settings
from PIL import Image
from safetensors.torch import load_file

from threedgen.commands.main import main
from threedgen.core import checkpoint
from threedgen.datasets.multiview import write_srn
from threedgen.datasets.objects import open_objects
from threedgen.recipes.layers import merge
from threedgen.ssdnerf.bootstrapping import BootstrapConfig
from threedgen.ssdnerf.code_bank import CodeBank
from threedgen.ssdnerf.config import load_config

COUNT = 4
QUIET = ["--grid-every", "0", "--fid-every", "0"]
LEARNING = {
    "steps": 30,
    "batch": 4,
    "warmup": 5,
    "codes": {"resolution": 16, "learning_rate": 0.1, "regularizer": 0.0},
    "decoder": {"hidden": 16, "learning_rate": 0.03},
    "diffusion": {"captions": True, "learning_rate": 3e-3, "weight": 0.5},
    "rays": 128,
    "rendering": {"samples": 24},
}


def told(**changes: object) -> list[str]:
    """The settings of a small training, as a command takes them."""
    return settings(merge(TINY, changes))


def write_folder(folder: Path, count: int = COUNT) -> Path:
    """A folder of objects like published ones, with a folder for each and captions."""
    drawn = cars(count)
    for index, name in enumerate(drawn.names):
        write_srn(folder / name, drawn.load(index))
    captions = {name: drawn.caption(index) for index, name in enumerate(drawn.names)}
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "cars_train")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "cars"
    assert main(["train", "ssdnerf", str(folder), "--out", str(out), *QUIET, *told(**LEARNING)]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str], arguments: list[object]) -> str:
    """The one line of the complaint of a command."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    # A progress bar may stand above it.
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("threedgen")]
    assert len(lines) == 1
    return lines[0]


def test_a_training_leaves_a_folder_that_explains_itself(run, folder):
    names = {path.name for path in run.iterdir()}
    assert {
        "ssdnerf.json",
        "model.safetensors",
        "metrics.jsonl",
        "training.yaml",
        "checkpoint",
        "codes",
    } <= names
    settled = yaml.safe_load((run / "training.yaml").read_text())
    assert settled["dataset"] == str(folder)
    assert (settled["steps"], settled["codes"]["resolution"]) == (30, 16)
    document = json.loads((run / "ssdnerf.json").read_text())
    assert (document["dataset"], document["scenes"], document["steps"]) == ("cars_train", COUNT, 30)
    assert document["digests"] == open_objects(str(folder)).digests()
    assert len(set(document["digests"])) == COUNT
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["psnr"] > 14.0


def test_samples_are_assets_that_open(run, capsys):
    capsys.readouterr()
    assert main(["sample", str(run), "--count", "2", "--caption", "a blue car", "--steps", "4"]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert all(path.is_file() for path in written)
    assets = [path for path in written if path.suffix == ".glb"]
    assert [path.name for path in assets] == ["seed0-0000.glb", "seed0-0001.glb"]
    for path in assets:
        scene = trimesh.load_scene(path)
        assert sum(len(part.faces) for part in scene.geometry.values()) > 10
    with Image.open(run / "samples" / "contact_sheet.png") as sheet:
        assert sheet.width >= 6 * 16
    codes = load_file(run / "samples" / "codes.safetensors")
    assert {name: tuple(code.shape) for name, code in codes.items()} == {
        "seed0-0000": (6, 16, 16),
        "seed0-0001": (6, 16, 16),
    }


def test_interpolations_begin_and_end_at_samples(run, tmp_path):
    common = ["--steps", "3", "--seed", "5", "--count", "2"]
    assert main(["sample", str(run), "--interpolate", "0", "1", "--out", str(tmp_path / "way"), *common]) == 0
    assert main(["sample", str(run), "--out", str(tmp_path / "ends"), *common]) == 0
    way, ends = (load_file(tmp_path / name / "codes.safetensors") for name in ("way", "ends"))
    for number in range(2):
        found = way[f"seed5-0000-to-0001-{number:04d}"]
        torch.testing.assert_close(found, ends[f"seed5-{number:04d}"], rtol=1e-2, atol=2e-2)


def test_views_become_an_asset_by_pose_and_by_angles(run, folder, tmp_path, capsys):
    scene = sorted(path for path in folder.iterdir() if path.is_dir())[0]
    view, pose = scene / "rgb" / "000000.png", scene / "pose" / "000000.txt"
    short = ["--guiding", "3", "--finetuning", "4"]
    assert main(["reconstruct", str(run), f"{view}@{pose}", *short]) == 0
    out = run / "reconstructions" / "000000"
    report = json.loads((out / "report.json").read_text())
    assert report["views"] == [f"{view}@{pose}"]
    assert (report["guiding"]["steps"], report["finetuning"]["outer"]) == (3, 4)
    assert report["psnr"][0] > 10.0
    scene = trimesh.load_scene(out / "asset.glb")
    assert sum(len(part.faces) for part in scene.geometry.values()) > 10
    with Image.open(out / "contact_sheet.png") as sheet:
        assert (
            sheet.height == 3 * 16
        )  # the view, the asset from the same camera, and the asset on a turntable
    two = [f"{view}@0,20", f"{view}@120,20,2.9"]
    assert main(["reconstruct", str(run), *two, *short, "--out", str(tmp_path / "two")]) == 0
    assert len(json.loads((tmp_path / "two" / "report.json").read_text())["psnr"]) == 2


@pytest.mark.parametrize("kind", ["stage-wise", "matryoshka"])
def test_coarse_to_fine_kinds_train_and_sample(kind, tmp_path, capsys):
    command = ["train", "ssdnerf", "shape-world:car", "--objects", "2", "--size", "16"]
    small = told(steps=2, views=3, diffusion={"kind": kind, "captions": True})
    assert main([*command, "--out", str(tmp_path), *QUIET, *small]) == 0
    assert main(["sample", str(tmp_path), "--count", "1", "--steps", "3", "--caption", "car"]) == 0
    assert (tmp_path / "samples" / "contact_sheet.png").is_file()
    assert "sampled by ddim only" in said(capsys, ["sample", tmp_path, "--sampler", "dpm-solver++"])


def test_a_training_continues_and_says_when_it_cannot(folder, tmp_path, capsys):
    command = ["train", "ssdnerf", str(folder), "--out", str(tmp_path / "run"), *QUIET]
    assert main([*command, *told(steps=2)]) == 0
    capsys.readouterr()
    assert main([*command, *told(steps=4, rays=40)]) == 0
    assert "continuing with another setting: rays is 40 and was " in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "ssdnerf.json").read_text())["steps"] == 4
    found = said(capsys, [*command, *told(steps=6, decoder={"hidden": 16})])
    assert "decoder.hidden is 16 and was 8" in found
    assert main([*command, *told(steps=3)]) == 0
    assert "the training is at step 4 already" in capsys.readouterr().err
    other = write_folder(tmp_path / "other", count=COUNT)
    (other / cars().names[0]).rename(other / "another")
    found = said(capsys, ["train", "ssdnerf", other, "--out", tmp_path / "run", *QUIET, *told(steps=6)])
    assert "on other objects" in found
    assert main([*command, *told(steps=5)]) == 0  # the packed objects are still there
    # training.yaml is a recipe
    again = ["train", "ssdnerf", str(folder), "--recipe", str(tmp_path / "run" / "training.yaml")]
    assert main([*again, "--out", str(tmp_path / "again"), *QUIET]) == 0
    assert json.loads((tmp_path / "again" / "ssdnerf.json").read_text())["steps"] == 5
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    assert "without its checkpoint" in said(capsys, [*command, *told(steps=6)])


def test_codes_of_another_training_are_started_from(folder, tmp_path, capsys):
    command = ["train", "ssdnerf", str(folder), *QUIET]
    alone = told(steps=3, diffusion={"weight": 0.0})
    assert main([*command, "--out", str(tmp_path / "first"), *alone]) == 0
    second = [*command, "--out", str(tmp_path / "second"), "--start-from", str(tmp_path / "first")]
    assert main([*second, *told(steps=2, inner=0)]) == 0
    banks = []
    for name in ("first", "second"):
        slots = checkpoint.load(tmp_path / name / "checkpoint")[0]["slots"]
        banks.append(CodeBank.open(tmp_path / name / "codes", slots).read(range(COUNT)))
    assert torch.equal(banks[0].code, banks[1].code)
    nothing = [*command, "--out", tmp_path / "third", "--start-from", tmp_path / "nothing", *told()]
    assert "no checkpoint" in said(capsys, nothing)


def test_tolerant_counts_what_it_left_out(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "data")
    name = cars().names[1]
    (tmp_path / "data" / name / "pose" / "000001.txt").write_text("nan " * 16)
    command = ["train", "ssdnerf", tmp_path / "data", "--out", tmp_path / "run", *QUIET, *told(steps=1)]
    assert name in said(capsys, command)
    assert main([*map(str, command), "--tolerant"]) == 0
    warned = " ".join(capsys.readouterr().err.split())
    assert f"warning: left out '{name}'" in warned
    assert f"warning: left out 1 of {COUNT} objects" in warned
    assert json.loads((tmp_path / "run" / "ssdnerf.json").read_text())["scenes"] == COUNT - 1


def test_a_dry_run_prints_the_settings_of_a_training_and_makes_nothing(folder, tmp_path, capsys):
    out = tmp_path / "run"
    command = [
        "train",
        "ssdnerf",
        str(folder),
        "--out",
        str(out),
        "--objects",
        "3",
        "--steps",
        "7",
        "batch=5",
    ]
    assert main([*command, "--dry-run"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert not out.exists()
    assert (printed["dataset"], printed["objects"], printed["start_from"]) == (str(folder), 3, None)
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(printed))
    assert load_config(path) == load_config("ssdnerf-tiny", ["batch=5"], 7)


def test_a_dry_run_prints_the_settings_of_a_distillation(tmp_path, capsys):
    assert main(["train", "one-step", str(tmp_path), "--batch", "3", "--dry-run"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert BootstrapConfig(**{**printed, "t": tuple(printed["t"])}) == BootstrapConfig(2000, 3, 2e-4)
    assert not list(tmp_path.iterdir())
    assert said(capsys, ["train", "one-step", tmp_path, "--batch", "0"]).endswith(
        "--batch is 0; it must be at least 1"
    )


def test_bad_trainings_are_one_line(folder, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), *QUIET]
    for arguments, expected in (
        ([tmp_path / "nothing"], "there are no objects at"),
        (["shape-world:teapot"], "names no class 'teapot'"),
        ([folder, "--objects", "-1"], "--objects must be 0 or more, got -1"),
        ([folder, "--grid-every", "-1"], "--grid-every must be 0 or more"),
        ([folder, "--save-every", "0"], "--save-every: must be at least 1, got 0"),
        ([folder, "--size", "4"], "--size must be between 8 and 1024 pixels, got 4"),
        ([folder, "--steps", "0"], "steps is 0"),
        ([folder, "--recipe", "ssdnerf-tine"], "did you mean 'ssdnerf-tiny'"),
        ([folder, "batch"], "'batch' is not a setting"),
        ([folder, *told(batch=5)], "a batch of 5 needs as many objects, and there are 4"),
    ):
        assert expected in said(capsys, ["train", "ssdnerf", *out, *arguments])
    assert "unknown command 'train ssdnerff', did you mean 'train ssdnerf'?" in said(
        capsys, ["train", "ssdnerff"]
    )


def test_bad_samplings_are_one_line(run, tmp_path, capsys):
    for arguments, expected in (
        ([tmp_path], "holds no ssdnerf.json: name the folder of a training with `threedgen train ssdnerf`"),
        ([run, "--count", "0"], "--count: must be at least 1, got 0"),
        ([run, "--scale", "-1"], "--scale must be a number of at least 0, got -1"),
        ([run, "--steps", "0"], "between 1 and 1000 steps"),
        ([run, "--caption", "a plaid car"], "this model does not know the word 'plaid'; it knows a,"),
        ([run, "--sampler", "euler"], "euler"),
    ):
        assert expected in said(capsys, ["sample", *arguments])
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    assert "is not a ssdnerf model" in said(capsys, ["sample", broken])


def test_bad_reconstructions_are_one_line(run, folder, tmp_path, capsys):
    scene = sorted(path for path in folder.iterdir() if path.is_dir())[0]
    view = scene / "rgb" / "000000.png"
    large, text, pose = tmp_path / "large.png", tmp_path / "text.png", tmp_path / "pose.txt"
    Image.new("RGB", (24, 24), "white").save(large)
    text.write_text("no picture")
    pose.write_text("1 2 3")
    for arguments, expected in (
        ([view, large], f"'{large}' has another size than '{view}'"),
        ([tmp_path / "nothing.png"], "nothing.png"),
        ([text], "text.png"),
        ([f"{view}@here"], "after the @ comes AZIMUTH[,ELEVATION[,DISTANCE]]"),
        ([f"{view}@1,2,3,4"], "after the @ comes AZIMUTH"),
        ([f"{view}@nan"], "after the @ comes AZIMUTH"),
        ([f"{view}@0,95"], "the elevation must be between -90 and 90"),
        ([f"{view}@0,20,-1"], "and the distance positive"),
        ([f"{view}@{pose}"], f"{pose} must hold 16 numbers"),
        ([view, "--gain", "-1"], "--gain is -1; it must be at least 0"),
        ([view, "--finetuning", "-1"], "--finetuning is -1; it must be at least 0"),
        ([view, "--guiding", "0", "--finetuning", "0"], "nothing to do"),
        ([view, "--guiding", "2000"], "between 1 and 1000 steps"),
    ):
        assert expected in said(capsys, ["reconstruct", run, *arguments])
    assert "holds no ssdnerf.json" in said(capsys, ["reconstruct", tmp_path, view])
