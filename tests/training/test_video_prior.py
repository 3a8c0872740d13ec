"""The video prior: its clips, its training, and its folder on disk."""

import json

import numpy as np
import pytest
import torch

from threedgen.cameras.clips import (
    SPAN,
    TIME_FEATURES,
    as_channels,
    as_frames,
    draw_spans,
    frame_times,
    time_features,
)
from threedgen.cameras.orbit import VIEW_FEATURES
from threedgen.commands.main import main
from threedgen.datasets import motions, world
from threedgen.datasets.shapes import COLORS
from threedgen.datasets.world import FIXED_LIGHT
from threedgen.guidance.priors.folder.light import read_light
from threedgen.training.clip_bank import CLIPS_PER_OBJECT, ClipBank
from threedgen.training.config import VideoTrainingConfig
from threedgen.training.prior_model import PriorArchitecture, PriorModel
from threedgen.training.tokenizer import make_tokenizer, vocabulary
from threedgen.training.video_card import motion_errors, sample, true_clips, write_video_grid
from threedgen.training.video_model import (
    VideoArchitecture,
    VideoModel,
    save_video_pipeline,
    start_from_text_prior,
)
from threedgen.training.video_trainer import VideoTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"size": 16, "attention": (False, True), "embedding": 32, "text_width": 16, "text_layers": 1}
TINY = VideoArchitecture(channels=(8, 16), frames=3, **SMALL)
CONFIG = VideoTrainingConfig(steps=4, batch=4, warmup=1, bank_views=16, precision="fp32")


@pytest.fixture(scope="module")
def bank() -> ClipBank:
    return ClipBank(CONFIG.bank_views, TINY.size, TINY.frames, CONFIG.seed)


def test_frames_come_back_from_channels():
    clips = torch.rand(2, 3, 4, 5, 3)
    channels = as_channels(clips)
    assert channels.shape == (2, 4, 5, 9)
    assert torch.equal(channels[:, 1, 2, 3:6], clips[:, 1, 1, 2])
    assert torch.equal(as_frames(channels), clips)


def test_frames_are_evenly_spaced_and_their_times_are_told_apart():
    start, span = draw_spans(500, torch.Generator().manual_seed(0))
    times = frame_times(start, span, 5)
    assert float(times.min()) >= 0.0
    assert float(times.max()) <= 1.0 + 1e-6
    assert float(span.min()) >= SPAN[0]
    assert 0.2 < float((span == 1.0).float().mean()) < 0.5
    torch.testing.assert_close(times.diff(dim=1), (span / 4.0)[:, None].expand(-1, 4))
    told = time_features(start, span)
    assert told.shape == (500, TIME_FEATURES)
    ends = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.5, 0.5], [0.25, 0.5]])
    assert float(torch.pdist(time_features(ends[:, 0], ends[:, 1])).min()) > 0.5


def test_clips_are_the_worlds_in_the_colour_of_their_caption(bank):
    """The first clip of the bank, rendered again from what the bank says of it."""
    batch = bank.batch(32, 0, 5)
    assert batch.images.shape == (32, 16, 16, 9)
    frames = as_frames(batch.images)
    for caption, clip in zip(batch.captions, frames, strict=True):
        words = caption.split()
        color = next(word for word in words if word in COLORS)
        shape = next(word for word in words if word in motions.CLASSES)
        assert words[-1] in motions.MOTIONS
        assert (color, shape) not in world.HELD_OUT
        assert (shape, words[-1]) not in motions.HELD_OUT
        if words[-1] == "still":
            assert torch.equal(clip[0], clip[-1])
    again = bank.batch(32, 0, 5)
    assert torch.equal(batch.images, again.images)
    assert batch.captions == again.captions
    assert not torch.equal(batch.images, bank.batch(32, 0, 6).images)
    assert len(bank) == CONFIG.bank_views
    assert bank.moving[0] == bank.moving[CLIPS_PER_OBJECT - 1]


def test_true_clips_are_what_the_bank_would_show():
    clips = true_clips("cube", "red", "bouncing", torch.tensor([30.0, 120.0]), 24, 5)
    assert clips.shape == (2, 5, 24, 24, 3)
    rows = ((clips < 0.9).any(-1)).float()  # where it is not white
    height = (rows.sum(3) * torch.arange(24.0)).sum(2) / rows.sum((2, 3))
    assert bool((height[:, 2] < height[:, 0] - 1.5).all())  # up in the middle
    torch.testing.assert_close(height[:, 0], height[:, 4])


def test_the_words_of_motions_are_words():
    tokenizer = make_tokenizer(motions.MORE_WORDS)
    for name in ("spinning", "bouncing", "growing", "swaying", "sliding", "opening", "still"):
        assert len(tokenizer(f"a red cube {name}")["input_ids"]) == 6
    assert len(make_tokenizer()("sliding")["input_ids"]) > 3
    plain, more = vocabulary()[0], vocabulary(motions.MORE_WORDS)[0]
    assert set(plain) < set(more)


def test_a_training_learns_and_is_resumed_with_the_same_bits(bank, tmp_path):
    whole = VideoTrainer(CONFIG, TINY, tmp_path / "whole")
    losses = [whole.train_step(bank.batch(4, 0, step)) for step in range(4)]
    assert all(np.isfinite(losses))
    first = VideoTrainer(CONFIG, TINY, tmp_path / "parts")
    for step in range(2):
        first.train_step(bank.batch(4, 0, step))
    first.save()
    second = VideoTrainer(CONFIG, TINY, tmp_path / "parts")
    assert second.resume()
    for step in range(2, 4):
        second.train_step(bank.batch(4, 0, step))
    for left, right in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_cameras_are_withheld_and_times_are_not(bank, tmp_path):
    config = VideoTrainingConfig(**{**vars(CONFIG), "view_dropout": 0.5, "text_dropout": 0.5})
    trainer = VideoTrainer(config, TINY, tmp_path)
    batch = bank.batch(64, 0, 0)
    tokens, _, told = trainer.conditions(batch, torch.Generator().manual_seed(1))
    dropped = (told[:, :VIEW_FEATURES] == 0.0).all(1)
    assert 10 < int(dropped.sum()) < 54
    torch.testing.assert_close(told[:, VIEW_FEATURES:], batch.times)
    torch.testing.assert_close(told[~dropped, :VIEW_FEATURES], batch.views[~dropped])
    empty = trainer.tokens([""])[0]
    assert 10 < int((tokens == empty).all(1).sum()) < 54


def test_what_fits_of_a_text_prior_is_taken_over():
    still = PriorModel(PriorArchitecture(channels=(24, 16), **SMALL)).state_dict()
    model = VideoModel(TINY)
    start_from_text_prior(model, still)
    weights = model.state_dict()
    known, more = vocabulary()[0], vocabulary(motions.MORE_WORDS)[0]
    table = next(name for name in weights if name.endswith("token_embedding.weight"))
    assert torch.equal(weights[table][more["cube</w>"]], still[table][known["cube</w>"]])
    coarse, fine = (f"unet.{part}.resnets.0.conv1.weight" for part in ("mid_block", "down_blocks.0"))
    assert torch.equal(weights[coarse], still[coarse])
    assert weights[fine].shape != still[fine].shape
    told = weights["unet.class_embedding.linear_1.weight"]
    assert torch.equal(told[:, :VIEW_FEATURES], still["unet.class_embedding.linear_1.weight"])
    assert float(told[:, VIEW_FEATURES:].abs().max()) == 0.0


def test_a_grid_and_the_measurements_are_made(tmp_path, monkeypatch):
    trainer = VideoTrainer(CONFIG, TINY, tmp_path)
    write_video_grid(trainer, tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > 100
    clips = sample(trainer, ["a red cube spinning"], torch.tensor([25.0]), steps=3)
    assert clips.shape == (1, 3, 16, 16, 3)
    errors = motion_errors(trainer, "cube", "spinning")
    assert len(set(errors)) == 1  # it predicts 0 before it is trained, for all conditions
    clean = as_channels(true_clips("cube", "red", "spinning", torch.zeros(1), 16, 3)) * 2.0 - 1.0
    assert 0.2 * float(clean.square().mean()) < errors[0] < 5.0 * float(clean.square().mean())


def test_the_folder_is_one_of_diffusers(tmp_path):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    model = VideoModel(TINY)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    save_video_pipeline(model, tmp_path / "pipeline", torch.float32)
    assert read_light(tmp_path / "pipeline") == FIXED_LIGHT
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "pipeline" / "unet")
    noisy, told = torch.randn(2, 9, 16, 16), torch.randn(2, VIEW_FEATURES + TIME_FEATURES)
    tokenizer = make_tokenizer(motions.MORE_WORDS)
    read = json.loads((tmp_path / "pipeline" / "tokenizer" / "vocab.json").read_text())
    assert read == tokenizer.get_vocab()
    found = tokenizer(["a red cube sliding"] * 2, padding="max_length", max_length=77, return_tensors="pt")
    tokens, mask = found["input_ids"], found["attention_mask"]
    states = model.text_encoder(tokens, attention_mask=mask).last_hidden_state
    t = torch.tensor([5, 900])
    with torch.no_grad():
        direct = unet(noisy, t, states, class_labels=told).sample
        torch.testing.assert_close(model(noisy, t, tokens, mask, told), direct, atol=1e-5, rtol=1e-4)


def test_the_command_trains_and_leaves_a_folder_with_a_card(tmp_path, capsys):
    options = ["--kind", "video", "--out", str(tmp_path), "--steps", "1", "--batch", "2", "--bank-views", "4"]
    assert main(["train", "prior", *options, "--size", "24"]) == 2
    assert capsys.readouterr().err.strip() == "threedgen: --size is 24: the frames of clips have 32 pixels"
    assert main(["train", "prior", *options]) == 0
    assert (tmp_path / "samples.png").is_file()
    card = (tmp_path / "pipeline" / "README.md").read_text()
    assert all(f"| {shape} {motion} |" in card for shape, motion in motions.HELD_OUT)
    size = sum(path.stat().st_size for path in (tmp_path / "pipeline").rglob("*") if path.is_file())
    assert size < 16 * 2**20
