"""Evaluation of models that sample objects, and `threedgen eval` of an ssdnerf."""

import json

import pytest
import torch
from latent_scenes import tiny

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.objects import open_objects
from threedgen.evaluation import evaluate_samples
from threedgen.ssdnerf.model import LatentModel, Viewpoint, save_model

OBJECTS = open_objects("shape-world:car", 4, 32)


def test_the_objects_themselves_have_no_distance_and_others_have():
    def same(numbers, cameras):
        return [_seen(number, views) for number, views in zip(numbers, cameras, strict=True)]

    def _seen(number, views):
        truth = OBJECTS.load(number)
        places = (truth.cameras.world_from_camera[:, None] - views.world_from_camera[None]).abs()
        return truth.images[places.amax((2, 3)).argmin(0)]

    def white(numbers, cameras):
        return [torch.ones(len(views), views.height, views.width, 3) for views in cameras]

    exact, blank = evaluate_samples(same, OBJECTS), evaluate_samples(white, OBJECTS)
    assert exact.fid is not None
    assert exact.fid < 1e-6
    assert blank.fid is not None
    assert blank.fid > 1.0
    assert blank.kid is not None
    assert exact.kid is not None
    assert blank.kid > exact.kid
    assert exact.warnings  # 16 pictures
    assert exact.about["samples"] == 4


def test_one_object_is_refused():
    with pytest.raises(UserError, match="at least 2"):
        evaluate_samples(lambda numbers, cameras: [], OBJECTS, count=1)


@pytest.fixture
def run(tmp_path):
    model = LatentModel(tiny())
    model.viewpoint = Viewpoint(size=32)
    save_model(model, tmp_path, {"dataset": "shape-world:car"})
    return tmp_path


def test_samples_are_measured_on_the_data_of_the_training(run, capsys):
    assert main(["eval", str(run), "--answer", "samples", "--objects", "2"]) == 0
    document = json.loads((run / "eval" / "eval.json").read_text())
    assert document["truth"] == "shape-world:car"
    assert document["samples"] == 2
    assert document["scores"]["fid"] > 0.0
    assert "FID (embedded" in capsys.readouterr().out


def test_reconstructions_are_measured_by_default(run, monkeypatch):
    import threedgen.ssdnerf.reconstruction as reconstruction

    def begun(model, views, how, seed):
        assert views.images.shape == (1, 32, 32, 3)  # the size that the model was trained on
        return torch.zeros(model.shape)

    monkeypatch.setattr(reconstruction, "reconstruct", begun)
    assert main(["eval", str(run), "--objects", "1", "--truth", "shape-world:chair"]) == 0
    document = json.loads((run / "eval" / "eval.json").read_text())
    assert document["views"] == 8
    assert document["scores"]["psnr"] > 3.0


@pytest.mark.parametrize("answer", ["samples", "reconstruction"])
def test_the_model_is_loaded_on_the_device_of_the_option(run, answer, monkeypatch):
    """The test only looks at the device that is asked for, so it needs no GPU."""
    import threedgen.ssdnerf.model as latent_model

    class Asked(Exception):
        pass

    def load(folder, device="nowhere"):
        raise Asked(device)

    monkeypatch.setattr(latent_model, "load_model", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for words, device in ((["--device", "cpu"], "cpu"), (["--device", "cuda"], "cuda"), ([], "cuda")):
        with pytest.raises(Asked, match=device):
            main(["eval", str(run), "--answer", answer, *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda"], "--device cuda: "),
        (["--answer", "ngd"], "is not what ssdnerf.json"),
        (["--up", "z"], "--up"),
        (["--answer", "samples", "--objects", "1"], "at least 2"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(run, words, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["eval", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_model_of_a_folder_needs_a_truth(run, capsys):
    save_model(LatentModel(tiny()), run, {"dataset": "cars_train"})
    assert main(["eval", str(run)]) == 2
    assert "--truth" in capsys.readouterr().err
