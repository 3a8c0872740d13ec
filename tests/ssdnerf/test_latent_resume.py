"""A training that was stopped continues with the same bits, whatever stopped it."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from latent_scenes import CONTEXT, assert_same, made, state, tiny, trainer

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.ssdnerf.model import DOCUMENT, LatentModel, load_model, save_model
from threedgen.ssdnerf.posed_objects import PosedObjects, open_packed
from threedgen.ssdnerf.trainer import Trainer
from threedgen.ssdnerf.training import train
from threedgen.ssdnerf.watch import Every, Watch


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> PosedObjects:
    return made(tmp_path_factory.mktemp("scenes") / "packed")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"diffusion": {"captions": True, "kind": "matryoshka"}},
        {"diffusion": {"dropout": 0.3}},
        {"batch": 3, "reset": 0.5, "precision": "bf16"},
    ],
)
def test_a_resumed_training_ends_at_the_same_bits(objects, tmp_path, changes):
    config = tiny(**changes)
    torch.manual_seed(1)
    whole = trainer(config, objects, tmp_path / "whole", steps=6)
    first = trainer(config, objects, tmp_path / "parts", steps=2)
    first.save()
    assert first.train_step()  # is lost
    del first
    torch.manual_seed(9)  # the state of the global stream of torch makes no difference
    second = trainer(config, objects, tmp_path / "parts", steps=1)
    assert second.step == 3
    second.save()
    third = trainer(config, objects, tmp_path / "parts", steps=3)
    assert_same(state(whole), state(third))


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in the precision of the file of a model."""
    return {name: value.half().float() for name, value in state.items()}


def _train(folder: Path, packed: Path, killed_at: int | None) -> None:
    """A whole training that saves every second step, and is killed in the middle of a step or of a save."""
    torch.set_num_threads(1)
    of = Trainer(tiny(steps=7), open_packed(packed), folder)
    render, flush = of._render, of.bank.flush

    def dies_in_step(*arguments):
        if of.step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return render(*arguments)

    def dies_in_save():
        flush()
        if of.step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    if killed_at is not None:
        of._render, of.bank.flush = dies_in_step, dies_in_save  # type: ignore[method-assign]
    train(of, Watch(folder, of.step, Every(0, 0)), {}, 2, lambda *_: None)


def _exit_code(folder: Path, packed: Path, killed_at: int | None) -> int | None:
    """The exit code of `_train` in a separate process with one thread: the last bits depend on the number of
    threads."""
    process = CONTEXT.Process(target=_train, args=(folder, packed, killed_at))
    process.start()
    process.join(60)
    return process.exitcode


def test_a_training_that_is_killed_again_and_again_ends_at_the_same_bits(objects, tmp_path):
    packed = tmp_path / "scenes"
    made(packed)
    stood = []
    for killed_at in (1, 3, 4, None):  # before the first save, in a step, after a save's codes are on disk
        assert _exit_code(tmp_path / "run", packed, killed_at) == (
            0 if killed_at is None else -signal.SIGKILL
        )
        there = checkpoint.exists(tmp_path / "run" / "checkpoint")
        stood.append(checkpoint.load_state(tmp_path / "run" / "checkpoint")["step"] if there else 0)
    assert stood == [0, 2, 2, 7]
    assert _exit_code(tmp_path / "whole", packed, None) == 0
    whole, killed = (Trainer(tiny(steps=7), objects, tmp_path / name) for name in ("whole", "run"))
    assert_same(state(whole), state(killed))


def test_a_finished_training_does_nothing_more(objects, tmp_path):
    of = trainer(tiny(steps=2), objects, tmp_path, steps=2)
    of.save()
    before = state(of)
    again = Trainer(tiny(steps=2), objects, tmp_path)
    train(again, Watch(tmp_path, 2, Every(0, 0)), {}, 1, lambda *_: None)
    assert_same(before, state(again))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"diffusion": {"widths": [16, 16]}}, r"diffusion.widths is \[16, 16\] and was \[8, 16\]"),
        ({"diffusion": {"captions": True}}, "diffusion.captions is True and was False: set "),
        ({"diffusion": {"schedule": "cosine"}}, "diffusion.schedule=linear, or choose another --out"),
        ({"diffusion": {"power": 1.0}}, "diffusion.power"),
        ({"codes": {"resolution": 16}}, "codes.resolution"),
        ({"rendering": {"threshold": 5.0}}, "rendering.threshold"),
        ({"seed": 5}, "seed=0"),
    ],
)
def test_other_settings_than_the_stopped_trainings_are_reported(objects, tmp_path, changes, said):
    trainer(tiny(), objects, tmp_path, steps=1).save()
    with pytest.raises(UserError, match=said) as caught:
        Trainer(tiny(**changes), objects, tmp_path)
    assert "\n" not in str(caught.value)


def test_settings_that_may_change_are_named_and_change(objects, tmp_path):
    trainer(tiny(), objects, tmp_path, steps=1).save()
    assert Trainer(tiny(), objects, tmp_path).changed == []
    other = Trainer(tiny(rays=50, inner={0: 2, 0.5: 1}, diffusion={"weight": 2.0}), objects, tmp_path)
    assert other.changed[-1] == "diffusion.weight is 2.0 and was 4.0"
    assert [text.split()[0] for text in other.changed] == ["inner", "rays", "diffusion.weight"]
    assert other.train_step()


def test_a_model_is_left_by_a_training_that_was_stopped_behind_its_last_checkpoint(objects, tmp_path):
    stopped = trainer(tiny(steps=2), objects, tmp_path, steps=2)
    stopped.save()
    assert not (tmp_path / DOCUMENT).exists()
    train(Trainer(tiny(steps=2), objects, tmp_path), Watch(tmp_path, 2, Every(0, 0)), {}, 1, lambda *_: None)
    assert_same(load_model(tmp_path).state_dict(), halved(stopped.averages.state_dict()))


def test_an_interruption_while_watching_leaves_checkpoint_and_model(objects, tmp_path):
    class Stopped(Watch):
        def step(self, *_) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            Trainer(tiny(steps=1), objects, tmp_path),
            Stopped(tmp_path, 0, Every(0, 0)),
            {},
            1,
            lambda *_: None,
        )
    assert checkpoint.load_state(tmp_path / "checkpoint")["step"] == 1
    assert (tmp_path / DOCUMENT).is_file()


def test_other_objects_than_the_stopped_trainings_are_reported(objects, tmp_path):
    trainer(tiny(), objects, tmp_path / "run", steps=1).save()
    with pytest.raises(UserError, match="on other objects"):
        Trainer(tiny(), made(tmp_path / "few", count=3), tmp_path / "run")
    other = made(tmp_path / "others")
    other.source = "of other pictures with the same names"
    with pytest.raises(UserError, match="or pictures"):
        Trainer(tiny(), other, tmp_path / "run")


def test_a_checkpoint_of_another_command_is_reported(objects, tmp_path):
    checkpoint.save(tmp_path / "checkpoint", {}, {"step": 3})
    with pytest.raises(UserError, match="another kind of training"):
        Trainer(tiny(), objects, tmp_path)


def without(name):
    return lambda tensors, state: tensors.pop(name) if name in tensors else state.pop(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors, state: state.update(step=-5), "step is -5"),
        (lambda tensors, state: state.update(seconds="long"), "'seconds' must be a number"),
        (lambda tensors, state: state.update(wobble=1), "unknown key 'wobble'"),
        (lambda tensors, state: state.update(settings=1), "'settings' must be a section"),
        (lambda tensors, state: state["settings"].update(codes=[1]), "settings.codes is no section"),
        (without("scenes"), "'scenes' is missing"),
        (without("slots"), "has no slots"),
        (without("networks.decoder.base.weight"), "decoder.base.weight is missing"),
        (lambda tensors, state: tensors.update({"averages.other": torch.zeros(1)}), "other is unknown"),
    ],
)
def test_a_damaged_checkpoint_is_reported(objects, tmp_path, change, said):
    trainer(tiny(), objects, tmp_path, steps=1).save()
    tensors, state = checkpoint.load(tmp_path / "checkpoint")
    change(tensors, state)
    checkpoint.save(tmp_path / "checkpoint", tensors, state)
    with pytest.raises(UserError, match=said):
        Trainer(tiny(), objects, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(words=None),
        lambda document: document.update(words=[["a"]]),
        lambda document: document["config"]["diffusion"].update(places=1e308),
        lambda document: document["config"]["decoder"].update(hidden=2**62),
        lambda document: document.update(viewpoint=3),
    ],
)
def test_a_damaged_model_is_reported(objects, tmp_path, change):
    save_model(LatentModel(tiny()), tmp_path, {})
    document = json.loads((tmp_path / DOCUMENT).read_text())
    change(document)
    (tmp_path / DOCUMENT).write_text(json.dumps(document))
    with pytest.raises(UserError, match="is not a ssdnerf model"):
        load_model(tmp_path)


def test_moments_of_another_network_are_reported(objects, tmp_path):
    trainer(tiny(), objects, tmp_path, steps=1).save()
    tensors, state = checkpoint.load(tmp_path / "checkpoint")
    # Of more than one row: the order of tensors in a file is none, and the first may have one row only.
    name = next(
        name
        for name, values in tensors.items()
        if name.endswith(".exp_avg") and values.ndim > 1 and len(values) > 1
    )
    tensors[name] = tensors[name][:1]  # would broadcast
    checkpoint.save(tmp_path / "checkpoint", tensors, state)
    with pytest.raises(UserError, match="optimizer state"):
        Trainer(tiny(), objects, tmp_path)


def test_a_lost_code_bank_is_reported(objects, tmp_path):
    of = trainer(tiny(), objects, tmp_path, steps=1)
    of.save()
    for path in (tmp_path / "codes").glob("codes-*"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        Trainer(tiny(), objects, tmp_path)
