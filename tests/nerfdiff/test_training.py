"""The training of both networks: it learns, it resumes with the same bits, and its folder is read back."""

import json
from dataclasses import replace

import pytest
import torch
from nerfdiff_scenes import SIZE, TINY, source_camera, tiny_model

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.multiview import write_srn
from threedgen.datasets.objects import open_objects
from threedgen.evaluation.nerfdiff_predictors import Distilled, FeedForward, FreeViews, load_predictor
from threedgen.nerfdiff.bank import PairBank
from threedgen.nerfdiff.config import NerfDiffTrainingConfig
from threedgen.nerfdiff.distillation import NerfGuidedDistillation
from threedgen.nerfdiff.field import camera_field, source_frame
from threedgen.nerfdiff.store import load_model, save_model
from threedgen.nerfdiff.trainer import NerfDiffTrainer, strided
from threedgen.renderers.volume import VolumeRenderer

CONFIG = NerfDiffTrainingConfig(steps=4, batch=2, warmup=1, precision="fp32")


@pytest.fixture(scope="module")
def bank() -> PairBank:
    return PairBank(open_objects("shape-world:car", 3, SIZE, "train"), SIZE)


def _fit(trainer: NerfDiffTrainer, bank: PairBank) -> list[float]:
    losses: list[float] = []
    trainer.fit(bank, 2, lambda loss, saved: losses.append(loss))
    return losses


def test_a_resumed_training_ends_at_the_same_bits(tmp_path, bank):
    whole = NerfDiffTrainer(CONFIG, TINY, tmp_path / "whole")
    _fit(whole, bank)
    half = NerfDiffTrainer(CONFIG, TINY, tmp_path / "half")
    for _ in range(2):
        half.train_step(bank.batch(CONFIG.batch, CONFIG.seed, half.step))
    half.save()
    again = NerfDiffTrainer(CONFIG, TINY, tmp_path / "half")
    assert again.resume()
    assert again.step == 2
    _fit(again, bank)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[name]), name


def test_training_lowers_both_losses(tmp_path, bank):
    config = NerfDiffTrainingConfig(steps=60, batch=4, warmup=5, precision="fp32", learning_rate=5e-3)
    trainer = NerfDiffTrainer(config, TINY, tmp_path)
    losses = [trainer.train_step(bank.batch(4, 0, trainer.step)) for _ in range(60)]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_the_denoisers_loss_reaches_the_nerf_only_when_coupled(tmp_path, bank):
    moved = {}
    for coupled in (0, 1):
        config = NerfDiffTrainingConfig(steps=4, batch=2, precision="fp32", coupled=coupled, warmup=1)
        trainer = NerfDiffTrainer(config, TINY, tmp_path / str(coupled))
        torch.nn.init.normal_(
            trainer.model.denoiser.conv_out.weight, std=0.1
        )  # it starts at zero, where there is no gradient
        seen = []
        trainer.update = seen.append  # type: ignore[method-assign]
        plain = replace(config, denoising=0.0)
        for trainer.config in (config, plain):
            trainer.train_step(bank.batch(2, 0, 0))
        (seen[0] - seen[1]).backward()  # what the loss of the denoiser adds
        moved[coupled] = sum(
            float(p.grad.abs().sum()) for p in trainer.model.encoder.parameters() if p.grad is not None
        )
    assert moved[0] < 1e-3 * moved[1]


def test_strided_pixels_are_pixels_of_the_whole_view():
    cameras = source_camera()
    field = camera_field(
        torch.randn(3, 8, 8, 2, generator=torch.Generator().manual_seed(0)),
        [torch.ones(4, 6)], [torch.zeros(4)], source_frame(cameras, 0.9),
    )  # fmt: skip
    whole = VolumeRenderer()(field, cameras, torch.ones(3)).rgb
    for row, column in ((0, 0), (1, 2), (2, 1)):
        some = VolumeRenderer()(field, strided(cameras, 3, row, column), torch.ones(3)).rgb
        torch.testing.assert_close(some, whole[:, row::3, column::3], atol=2e-5, rtol=0)


def test_a_stored_model_is_read_back(tmp_path):
    model = tiny_model()
    save_model(model, tmp_path, {"dataset": "shape-world:car"})
    again = load_model(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value.half().float(), rtol=0, atol=0)
    assert json.loads((tmp_path / "nerfdiff.json").read_text())["dataset"] == "shape-world:car"


_SIZES = {"no size": ("size", 10**6), "odd size": ("size", 18), "odd width": ("planes", [8, 12])}


@pytest.mark.parametrize(
    "harm", ["absent", "no document", "other format", "no weights", "broken", "other shape", *_SIZES]
)
def test_a_folder_that_is_no_model_is_one_line(tmp_path, harm):
    folder = tmp_path / "model"
    save_model(tiny_model(), folder, {})
    document, weights = folder / "nerfdiff.json", folder / "model.safetensors"
    if harm == "absent":
        folder = tmp_path / "nothing"
    elif harm == "no document":
        document.unlink()
    elif harm == "other format":
        document.write_text('{"format": 99}')
    elif harm == "no weights":
        weights.unlink()
    elif harm == "broken":
        weights.write_bytes(b"PK\x03\x04 not safetensors")
    elif harm in _SIZES:
        name, value = _SIZES[harm]
        values = json.loads(document.read_text())
        values["architecture"][name] = value
        document.write_text(json.dumps(values))
    else:
        document.write_text(document.read_text().replace('"hidden": 16', '"hidden": 8'))
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        FeedForward,
        FreeViews,
        lambda model: Distilled(model, batch=2, steps=6, guidance=NerfGuidedDistillation.Config(count=4)),
    ],
)
def test_a_predictor_answers_at_the_views_it_is_asked(make):
    model, given = tiny_model(), open_objects("shape-world:chair", 1, SIZE).load(0)
    source = type(given)(given.images[:1], given.alpha[:1], given.cameras[:1])
    before = [value.clone() for value in model.parameters()]
    first, again = (make(model)(source, given.cameras[3:6], 0) for _ in range(2))
    assert first.rgb.shape == (3, SIZE, SIZE, 3)
    assert bool(first.rgb.isfinite().all())
    assert torch.equal(first.rgb, again.rgb)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_published_folder_trains_a_step_and_is_evaluated(tmp_path):
    """It has the layout of the data sets of SRN: DATASET/OBJECT/{rgb,pose,intrinsics.txt}, 128 x 128 pixels."""
    drawn = open_objects("shape-world:car", 2, 128)
    for index in range(2):
        pictures = drawn.load(index)
        few = type(pictures)(pictures.images[:4], pictures.alpha[:4], pictures.cameras[:4])
        write_srn(tmp_path / "cars_train" / drawn.names[index], few)
    out = tmp_path / "out"
    arguments = ["--size", "16", "--features", "4", "--steps", "1", "--batch", "2", "--precision", "fp32"]
    assert main(["train", "nerfdiff", str(tmp_path / "cars_train"), "--out", str(out), *arguments]) == 0
    objects = open_objects(str(tmp_path / "cars_train"))
    given = objects.load(0)
    assert given.images.shape[1:3] == (128, 128)
    assert len(objects) == 2
    assert json.loads((out / "nerfdiff.json").read_text())["digests"] == objects.digests()
    source = type(given)(given.images[:1], given.alpha[:1], given.cameras[:1])
    answer = load_predictor(out)(source, given.cameras[1:2], 0)
    assert answer.rgb.shape == (1, 128, 128, 3)
    assert (out / "losses.jsonl").is_file()
    truth = str(tmp_path / "cars_train")
    assert main(["eval", str(out), "--truth", truth, "--objects", "1", "--answer", "views"]) == 0
    assert json.loads((out / "eval" / "eval.json").read_text())["objects"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing-here"],
        ["shape-world:teapot"],
        ["shape-world:"],
        ["shape-world:car", "--size", "20"],
        ["shape-world:car", "--features", "0"],
        ["shape-world:car", "--steps", "0"],
        ["shape-world:car", "--denoising", "-1"],
        ["shape-world:car", "--denoising", "nan"],
        ["shape-world:car", "--coupled", "2"],
        ["shape-world:car", "--objects", "-1"],
    ],
)
def test_bad_input_is_one_line(arguments, tmp_path, capsys):
    assert main(["train", "nerfdiff", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_objects_of_the_shape_world_differ_between_splits_and_come_back():
    first, again, other = (
        open_objects("shape-world:car,chair", 4, 16, split).load(1) for split in ("test", "test", "train")
    )
    assert torch.equal(first.images, again.images)
    assert first.images.shape != other.images.shape or not torch.equal(first.images, other.images)
    assert [name.split("-")[0] for name in open_objects("shape-world:car,chair", 4).names] == [
        "car",
        "chair",
    ] * 2


def test_an_object_with_one_view_cannot_be_trained_on():
    drawn = open_objects("shape-world:car", 1, 16)
    posed = drawn.load(0)
    lone = type(posed)(posed.images[:1], posed.alpha[:1], posed.cameras[:1])
    with pytest.raises(UserError, match="one view"):
        PairBank(type(drawn)(["lonely"], lambda index: lone), 16)
