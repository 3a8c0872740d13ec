"""A training around its steps: batches, averages, weights that are taken over, and complaints."""

import copy
import math
from pathlib import Path

import pytest
import torch
from latent_scenes import cars, made, state, tiny, trainer

from threedgen.core.errors import UserError
from threedgen.datasets.objects import ObjectSet
from threedgen.ssdnerf.distributed import World
from threedgen.ssdnerf.posed_objects import PosedObjects, pack
from threedgen.ssdnerf.trainer import Trainer, viewpoint_of

KINDS = ("plain", "stage-wise", "matryoshka")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> PosedObjects:
    return made(tmp_path_factory.mktemp("scenes"))


def codes_of(of: Trainer) -> torch.Tensor:
    return of.bank.read(range(of.bank.count)).code


def test_averages_follow_the_networks(objects, tmp_path):
    of = trainer(tiny(ema=0.05), objects, tmp_path)
    before = [value.clone() for value in of.averages.parameters()]
    of.train_step()
    for old, new, value in zip(before, of.averages.parameters(), of.networks.parameters(), strict=True):
        torch.testing.assert_close(new, 0.05 * old + 0.95 * value)
    slow = trainer(tiny(ema=0.9999), objects, tmp_path / "slow", steps=1)
    for old, new, value in zip(before, slow.averages.parameters(), slow.networks.parameters(), strict=True):
        torch.testing.assert_close(new, 0.1 * old + 0.9 * value)  # 1 / 10 at the first step


def test_learning_rates_rise_and_follow_their_schedule(objects, tmp_path):
    of = trainer(tiny(steps=101, warmup=10, rates={"from": 1.0, "to": 0.0}), objects, tmp_path)
    assert of._rate() == pytest.approx(0.1)
    of.step = 50
    assert of._rate() == pytest.approx(0.5)
    of.train_step()
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in of.optimizers.items()}
    assert rates == pytest.approx({"denoiser": 0.5e-4, "decoder": 0.5e-3})


def test_each_pass_shows_every_object_once(objects, tmp_path):
    of = trainer(tiny(), objects, tmp_path)
    passes = [sorted(of.batch_at(2 * turn) + of.batch_at(2 * turn + 1)) for turn in range(4)]
    assert passes == [[0, 1, 2, 3]] * 4
    assert len({tuple(of.batch_at(2 * turn) + of.batch_at(2 * turn + 1)) for turn in range(6)}) > 1
    uneven = Trainer(tiny(batch=3), objects, tmp_path / "3")
    drawn = [uneven.batch_at(step) for step in range(40)]
    assert all(len(set(batch)) == 3 for batch in drawn)
    times = [sum(index in batch for batch in drawn) for index in range(4)]
    assert sum(times) == 120
    assert max(times) - min(times) < 10
    with pytest.raises(
        UserError, match=r"batch of 5 needs as many objects, and there are 4: set batch=4 or less"
    ):
        Trainer(tiny(batch=5), objects, tmp_path / "5").batch_at(0)


def test_without_inner_steps_codes_and_decoder_stay(objects, tmp_path):
    first = trainer(tiny(inner=0), objects, tmp_path)
    before = state(first)
    first.train_step()
    after = state(first)
    stayed = {name for name, value in after.items() if name in before and torch.equal(value, before[name])}
    assert {name for name in after if name.startswith("records.")} <= stayed
    assert {name for name in after if name.startswith("networks.decoder")} <= stayed
    assert "networks.denoiser.unet.conv_out.weight" not in stayed


def test_halfway_all_codes_become_their_mean(objects, tmp_path, monkeypatch):
    of = trainer(tiny(steps=6, reset=0.5), objects, tmp_path, steps=3)
    mean = of.bank.mean_code()
    started, read = [], of.bank.read

    def spy(indices):
        started.append(copy.deepcopy(read(indices)))  # the codes of the other process are changed in place
        return read(indices)

    monkeypatch.setattr(of.bank, "read", spy)
    of.train_step()
    assert all(torch.equal(code, mean) for code in started[0].code)
    assert float(started[0].first.abs().sum() + started[0].second.abs().sum()) == 0.0
    assert started[0].step.tolist() == [0, 0]
    of.train_step()
    assert not torch.equal(read([0]).code, read([1]).code)  # once


def test_a_batch_that_processes_cannot_share_is_reported(objects, tmp_path):
    of = trainer(tiny(batch=3), objects, tmp_path)
    of.world = World(rank=0, size=2)
    with pytest.raises(UserError, match="batch of 3 cannot be shared by 2"):
        of.world.share(of.batch_at(0))


def test_codes_and_decoder_of_another_training_are_taken_over(objects, tmp_path):
    first = trainer(tiny(diffusion={"weight": 0.0}), objects, tmp_path / "first", steps=2)
    first.save()
    then = trainer(tiny(inner=0), objects, tmp_path / "then")
    then.start_from(tmp_path / "first")
    for name, value in vars(first.bank.read(range(4))).items():
        assert torch.equal(value, getattr(then.bank.read(range(4)), name)), name
    for model, other in ((first.networks, then.networks), (first.averages, then.averages)):
        for name, value in model.decoder.state_dict().items():
            assert torch.equal(value, other.decoder.state_dict()[name])
    then.train_step()
    then.save()
    again = Trainer(tiny(inner=0), objects, tmp_path / "then")
    assert torch.equal(codes_of(again), codes_of(first))


def test_what_cannot_be_taken_over_is_reported(objects, tmp_path):
    trainer(tiny(), objects, tmp_path / "first", steps=1).save()
    for harm, changes in (
        ("decoder", {"decoder": {"hidden": 16}}),
        ("code bank", {"codes": {"resolution": 16}}),
        ("code bank", {"rendering": {"cells": 4}}),
    ):
        folder = tmp_path / f"{harm}{len(list(tmp_path.iterdir()))}"
        with pytest.raises(UserError, match=harm):
            trainer(tiny(**changes), objects, folder).start_from(tmp_path / "first")
    few = made(tmp_path / "few", count=3)
    with pytest.raises(UserError, match="on other objects"):
        trainer(tiny(), few, tmp_path / "of few").start_from(tmp_path / "first")
    with pytest.raises(UserError, match="no checkpoint"):
        trainer(tiny(), objects, tmp_path / "other").start_from(tmp_path / "nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_train_with_and_without_captions(objects, tmp_path, kind):
    for captions in (False, True):
        config = tiny(diffusion={"kind": kind, "captions": captions})
        of = trainer(config, objects, tmp_path / str(captions))
        before = [value.clone() for value in of.networks.prior_parameters()]
        seen = of.train_step()
        assert all(map(math.isfinite, seen.values()))
        assert seen["prior"] > 0.0
        moved = [not torch.equal(a, b) for a, b in zip(before, of.networks.prior_parameters(), strict=True)]
        assert any(moved)
        assert ("car" in of.networks.words) is captions


def test_a_caption_that_is_too_long_is_reported_with_its_object_before_the_first_step(tmp_path):
    short = cars(3)
    long = ObjectSet(short.names, short.load, lambda index: "car " * (40 if index == 2 else 2))
    objects = pack(long, tmp_path / "scenes")
    assert Trainer(tiny(), objects, tmp_path / "without").train_step()
    with pytest.raises(
        UserError, match=f"'{short.names[2]}': the caption has 40 words; it may have at most 32"
    ):
        Trainer(tiny(diffusion={"captions": True}), objects, tmp_path / "run")


def test_captions_are_dropped_as_often_as_is_reported(objects, tmp_path, monkeypatch):
    told = []
    of = trainer(tiny(batch=4, diffusion={"captions": True, "drop": 0.5}), objects, tmp_path)
    monkeypatch.setattr(
        of.networks, "prior_loss", lambda clean, draws, tokens: told.append(tokens) or clean.sum((1, 2, 3))
    )
    for of.step in range(40):
        of._diffusion(torch.zeros(4, *of.networks.shape), [0, 1, 2, 3])
    unsaid = [not bool(row.any()) for tokens in told for row in tokens]
    assert 0.35 < sum(unsaid) / 160 < 0.65
    known = of.networks.denoiser.tokens([objects.captions[2]])[0]
    said = next(tokens[2] for tokens in told if tokens[2].any())
    assert torch.equal(said[: len(known)], known)


def test_the_viewpoint_is_the_mean_of_the_training_cameras(objects):
    seen = viewpoint_of(objects)
    assert seen.distance == pytest.approx(2.85, abs=1e-4)
    assert seen.fov == pytest.approx(40.0, abs=1e-3)
    assert 0.0 < seen.elevation < 60.0
    assert seen.size == 16


def test_a_training_that_breaks_says_what_to_lower(objects, tmp_path):
    from threedgen.ssdnerf.training import train
    from threedgen.ssdnerf.watch import Every, Watch

    of = trainer(tiny(), objects, tmp_path)
    train(of, Watch(tmp_path, 0, Every(0, 0)), {}, 2, lambda *_: setattr(of, "config", of.config))
    assert of.step == 6
    kept = {path.name: path.read_bytes() for path in Path(tmp_path / "checkpoint").iterdir()}
    longer = Trainer(tiny(steps=9), objects, tmp_path)
    with torch.no_grad():
        longer.networks.denoiser.unet.conv_out.weight.fill_(math.nan)
    with pytest.raises(UserError, match=r"step 7: lower diffusion.learning_rate") as caught:
        train(longer, Watch(tmp_path, 6, Every(0, 0)), {}, 1, lambda *_: None)
    assert "\n" not in str(caught.value)
    assert kept == {path.name: path.read_bytes() for path in Path(tmp_path / "checkpoint").iterdir()}
