"""Two processes with half of the batch each do the same as one process with all of it."""

from pathlib import Path

import pytest
import torch
from latent_scenes import CONTEXT, made, state, tiny, trainer

from threedgen.core.errors import UserError
from threedgen.ssdnerf.distributed import World, join_world
from threedgen.ssdnerf.posed_objects import PosedObjects, open_packed
from threedgen.ssdnerf.trainer import Trainer

STEPS = 3
# Adam divides the first gradients by their size, so weights whose gradient is only rounding must not move.
SETTINGS = {"steps": 2 * STEPS, "batch": 2, "codes": {"initial": 0.5}, "diffusion": {"captions": True}}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> PosedObjects:
    return made(tmp_path_factory.mktemp("scenes") / "packed")


def _one_of_two(rank: int, meeting: Path, packed: Path, folder: Path, changes: dict) -> None:
    torch.set_num_threads(1)
    store = f"file://{meeting}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    of = trainer(
        tiny(**{**SETTINGS, **changes}), open_packed(packed), folder, STEPS, World(rank=rank, size=2)
    )
    of.save()
    torch.save(state(of), folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def in_two(tmp_path: Path, **changes: object) -> Path:
    """The folder of a training in two processes, with the state of each process at the end."""
    made(tmp_path / "scenes")
    folder = tmp_path / "two"
    folder.mkdir(exist_ok=True)
    meeting = tmp_path / f"meeting{len(list(tmp_path.iterdir()))}"
    processes = [
        CONTEXT.Process(target=_one_of_two, args=(rank, meeting, tmp_path / "scenes", folder, changes))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return folder


def _close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], names: list[str]) -> None:
    for name in names:
        torch.testing.assert_close(left[name].float(), right[name].float(), rtol=2e-3, atol=2e-5, msg=name)


def test_two_processes_are_one_with_twice_the_batch(objects, tmp_path):
    one = trainer(tiny(**SETTINGS), objects, tmp_path / "one", STEPS)
    whole = state(one)
    folder = in_two(tmp_path)
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in ranks[0].items():
        assert torch.equal(value, ranks[1][name]), name  # both have the same networks, and see the same bank
    _close(ranks[0], whole, [name for name in whole if name.startswith(("networks", "averages", "records"))])
    assert torch.equal(ranks[0]["records.step"], whole["records.step"])
    start = state(trainer(tiny(**SETTINGS), objects, tmp_path / "start"))
    moved = (whole["networks.decoder.base.weight"] - start["networks.decoder.base.weight"]).abs().max()
    assert float(moved) > 1e-3  # the compared weights have changed
    again = Trainer(tiny(**SETTINGS), objects, folder)  # one process continues a training of two
    assert again.step == STEPS
    assert all(torch.equal(value, ranks[0][name]) for name, value in state(again).items())


def test_two_processes_continue_where_they_stopped(objects, tmp_path):
    """Twice three steps of two processes are the same as six steps of one process."""
    in_two(tmp_path, reset=0.5)
    folder = in_two(tmp_path, reset=0.5)
    found = torch.load(folder / "rank1.pt", weights_only=True)
    whole = state(trainer(tiny(**SETTINGS, reset=0.5), objects, tmp_path / "one", 2 * STEPS))
    assert int(found["step"]) == 2 * STEPS
    assert torch.equal(found["records.step"], whole["records.step"])
    _close(found, whole, [name for name in whole if name.startswith("records")])


@pytest.mark.parametrize("said", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two"}])
def test_half_of_what_torchrun_sets_is_reported(monkeypatch, said):
    monkeypatch.delenv("RANK", raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="start with torchrun"):
        join_world("cpu")
