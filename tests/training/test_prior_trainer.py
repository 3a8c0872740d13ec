import json
from typing import Any

import pytest
import torch

from threedgen.commands.main import COMMANDS
from threedgen.core.errors import UserError
from threedgen.training.config import PriorTrainingConfig
from threedgen.training.denoiser_trainer import cosine_alphas, learning_rate
from threedgen.training.prior_model import (
    PriorArchitecture,
    PriorModel,
    for_size,
    grow,
    save_pipeline,
    scheduler_config,
)
from threedgen.training.prior_trainer import PriorTrainer
from threedgen.training.render_bank import RenderBank
from threedgen.training.tokenizer import MAX_TOKENS, write_tokenizer

TINY = PriorArchitecture(16, (8, 16), (False, True), embedding=32, text_width=16, text_layers=1)
CONFIG = PriorTrainingConfig(steps=6, batch=4, warmup=2, bank_views=32, precision="fp32")


@pytest.fixture(scope="module")
def bank() -> RenderBank:
    return RenderBank(CONFIG.bank_views, TINY.size, CONFIG.seed)


def train(folder, bank, stops):
    """Trains with several trainers one after the other, each of which resumes from the checkpoint of the last
    one."""
    for stop in stops:
        trainer = PriorTrainer(CONFIG, TINY, folder)
        trainer.resume()
        while trainer.step < stop:
            trainer.train_step(bank.batch(CONFIG.batch, CONFIG.seed, trainer.step))
        trainer.save()
    return trainer


def test_resumed_training_ends_with_the_same_bits(bank, tmp_path):
    straight = train(tmp_path / "a", bank, [6])
    resumed = train(tmp_path / "b", bank, [1, 4, 6])
    for part in ("model", "average"):
        a, b = getattr(straight, part).state_dict(), getattr(resumed, part).state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a), part


def test_a_checkpoint_of_another_architecture_is_refused(bank, tmp_path):
    train(tmp_path, bank, [1])
    other = PriorArchitecture(
        size=16, channels=(8, 24), attention=(False, True), text_width=16, text_layers=1
    )
    with pytest.raises(UserError, match="another architecture"):
        PriorTrainer(CONFIG, other, tmp_path).resume()


def test_training_lowers_the_loss(bank, tmp_path):
    config = PriorTrainingConfig(
        steps=120, batch=8, warmup=5, bank_views=32, precision="fp32", learning_rate=3e-3
    )
    trainer = PriorTrainer(config, TINY, tmp_path)
    losses = [trainer.train_step(bank.batch(8, 0, step % 4)) for step in range(120)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_noise_schedule_is_that_of_the_stored_scheduler():
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler: Any = DDPMScheduler.from_config(scheduler_config())
    stored = scheduler.alphas_cumprod
    alpha, sigma = cosine_alphas()
    torch.testing.assert_close(alpha**2, stored, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000))


def test_learning_rate_warms_up_stays_and_falls_to_zero():
    config = PriorTrainingConfig(steps=1000, warmup=100, decay=0.4, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in (0, 99, 599, 800, 999)]
    assert rates == pytest.approx([0.01, 1.0, 1.0, 0.5, 0.0], abs=1e-4)


def test_tokenizer_on_disk_reads_known_words_whole_and_others_by_letter(tmp_path):
    from transformers import CLIPTokenizer

    write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("a red Cube on a zebra") == [
        *("a</w>", "red</w>", "cube</w>", "on</w>", "a</w>"),
        *("z", "e", "b", "r", "a</w>"),
    ]
    assert tokenizer.model_max_length == MAX_TOKENS
    memory = PriorTrainer(CONFIG, TINY, tmp_path).tokens(["a red cube", "ünïcode 3d"])
    disk = tokenizer(
        ["a red cube", "ünïcode 3d"], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
    )
    assert torch.equal(memory[0], disk["input_ids"])
    assert torch.equal(memory[1], disk["attention_mask"])


def test_stored_pipeline_predicts_what_the_model_predicts(tmp_path):
    from threedgen.cameras.orbit import orbit, view_features
    from threedgen.datasets.world import FIXED_LIGHT
    from threedgen.guidance.priors.base import Condition
    from threedgen.guidance.priors.load import PriorConfig, light_of, load_prior

    torch.manual_seed(0)
    model = PriorModel(TINY)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    save_pipeline(model, tmp_path / "pipeline", torch.float32)
    index = json.loads((tmp_path / "pipeline/model_index.json").read_text())
    assert index["_class_name"] == "IFPipeline"
    assert light_of(PriorConfig(path=str(tmp_path / "pipeline"))) == FIXED_LIGHT
    assert not [p for p in (tmp_path / "pipeline").rglob("*") if p.suffix in {".bin", ".ckpt", ".pt", ".pkl"}]

    prior = load_prior(PriorConfig(path=str(tmp_path / "pipeline")))
    cameras = orbit(
        torch.tensor([10.0, 100.0]), torch.tensor([20.0, 30.0]), torch.full((2,), 2.85), 40.0, 16, 16
    )
    z, t = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 0.5])
    got = prior.predict(z, t, Condition(("a red cube",) * 2, cameras=cameras)).v
    tokens = PriorTrainer(CONFIG, TINY, tmp_path).tokens(["a red cube"] * 2)
    with torch.no_grad():
        timesteps = torch.full((2,), round(0.5 * 999))
        wanted = model(z, timesteps, *tokens, view_features(cameras))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_bank_is_a_function_of_its_seed_and_batches_of_their_step(bank):
    again = RenderBank(CONFIG.bank_views, TINY.size, CONFIG.seed)
    assert torch.equal(bank.layers, again.layers)
    first, second = bank.batch(4, 0, 5), again.batch(4, 0, 5)
    assert torch.equal(first.images, second.images)
    assert first.captions == second.captions
    assert bank.batch(4, 0, 6).captions != first.captions
    assert 0.0 <= float(first.images.min()) <= float(first.images.max()) <= 1.0


def test_a_grown_model_keeps_every_weight_and_doubles_the_picture():
    torch.manual_seed(0)
    small = PriorModel(for_size(32))
    large = grow(small)
    assert large.architecture.size == 64
    weights = large.state_dict()
    torch.testing.assert_close(
        weights["unet.down_blocks.2.resnets.0.conv1.weight"],
        small.state_dict()["unet.down_blocks.1.resnets.0.conv1.weight"],
    )
    kept = sum(value.numel() for value in small.state_dict().values())
    assert sum(value.numel() for value in weights.values()) > kept
    views, mask = torch.zeros(1, 16), torch.ones(1, 77, dtype=torch.long)
    out = large(
        torch.randn(1, 3, 64, 64), torch.tensor([500]), torch.zeros(1, 77, dtype=torch.long), mask, views
    )
    assert out.shape == (1, 3, 64, 64)


def test_a_grown_model_begins_as_the_small_one_at_half_the_resolution():
    """It is exact if the outer convolutions use one pixel only; others see finer neighbours."""
    torch.manual_seed(0)
    small = PriorModel(for_size(32))
    with torch.no_grad():
        for layer in (small.unet.conv_in, small.unet.conv_out):
            centre = torch.randn(layer.weight.shape[:2])
            layer.weight.zero_()[:, :, 1, 1] = centre
    x, views = torch.randn(2, 3, 32, 32), torch.randn(2, 16)
    tokens, mask, t = torch.zeros(2, 77, dtype=torch.long), torch.ones(2, 77), torch.tensor([300, 700])

    def twice(picture):
        return picture.repeat_interleave(2, 2).repeat_interleave(2, 3)

    with torch.no_grad():
        expected = twice(small(x, t, tokens, mask, views))
        torch.testing.assert_close(
            grow(small)(twice(x), t, tokens, mask, views), expected, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("size", [16, 33, 48])
def test_only_doublings_of_the_base_size(size):
    with pytest.raises(UserError, match="size"):
        for_size(size)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "0"],
        ["--save-every", "0"],
        ["--warmup", "0"],
        ["--ema", "1.5"],
        ["--learning-rate", "-1"],
        ["--precision", "fp16"],
        ["--size", "40"],
        ["--stepz", "3"],
    ],
)
def test_bad_training_options_are_one_line(arguments, tmp_path):
    with pytest.raises(UserError) as caught:
        COMMANDS["train prior"]([*arguments, "--out", str(tmp_path / "x")])
    assert "\n" not in str(caught.value)
    assert arguments[0].removeprefix("--") in str(caught.value)


def test_the_command_trains_resumes_and_leaves_a_pipeline(tmp_path):
    options = ["--out", str(tmp_path), "--batch", "2", "--bank-views", "8", "--save-every", "2"]
    COMMANDS["train prior"]([*options, "--steps", "2"])
    COMMANDS["train prior"]([*options, "--steps", "3"])
    steps = [json.loads(line)["step"] for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert steps == [2, 3]
    assert (tmp_path / "samples.png").is_file()
    card = (tmp_path / "pipeline/README.md").read_text()
    assert "3 steps" in card
    assert "green cube" in card


def test_training_can_start_from_a_stored_pipeline(tmp_path):
    torch.manual_seed(0)
    small = PriorModel(for_size(32))
    save_pipeline(small, tmp_path / "small", torch.float32)
    same = PriorTrainer(CONFIG, for_size(32), tmp_path / "a")
    same.start_from(tmp_path / "small")
    assert all(torch.equal(a, b) for a, b in zip(same.model.parameters(), small.parameters(), strict=True))
    grown = PriorTrainer(CONFIG, for_size(64), tmp_path / "b")
    grown.start_from(tmp_path / "small")
    kept = small.state_dict()["unet.mid_block.resnets.0.conv1.weight"]
    assert torch.equal(grown.average.state_dict()["unet.mid_block.resnets.0.conv1.weight"], kept)
    with pytest.raises(UserError, match="--size"):
        PriorTrainer(CONFIG, for_size(128), tmp_path / "c").start_from(tmp_path / "small")
    with pytest.raises(UserError, match="not a pipeline"):
        same.start_from(tmp_path)
