"""Codes of things, and the choice of the thing that a text means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.guidance.priors.instances import FILE, Instances, load_instances, save_instances
from threedgen.training.instance_codes import codes_of, soft_hull
from threedgen.training.things_store import cameras_of


@pytest.fixture
def table() -> Instances:
    """Three things of one name, the second drawn half as often as the others, and one of another name."""
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    return Instances(keys, torch.arange(4.0)[:, None].expand(-1, 3), torch.tensor([2.0, 1.0, 2.0, 5.0]))


def test_a_text_means_the_things_of_its_name_as_often_as_they_were_drawn(table: Instances) -> None:
    vectors = torch.tensor([[3.0, 0.1]])
    drawn = torch.cat([table.choose(vectors, seed) for seed in range(2000)])
    shares = torch.bincount(drawn, minlength=4) / 2000.0
    torch.testing.assert_close(shares, torch.tensor([0.4, 0.2, 0.4, 0.0]), atol=0.04, rtol=0.0)


def test_the_choice_is_a_function_of_text_and_seed(table: Instances) -> None:
    vectors = F.normalize(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    together = table.choose(vectors, 3)
    assert torch.equal(together, torch.cat([table.choose(vector[None], 3) for vector in vectors]))


def test_the_table_is_read_as_it_was_written(table: Instances, tmp_path: Path) -> None:
    save_instances(table, tmp_path)
    read = load_instances(tmp_path, 2, 3)
    for name, value in vars(table).items():
        torch.testing.assert_close(getattr(read, name), value)


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "weight"])
def test_a_damaged_table_is_refused(table: Instances, tmp_path: Path, damage: str) -> None:
    tensors = {name: value.clone().contiguous() for name, value in vars(table).items()}
    if damage == "shape":
        tensors["codes"] = tensors["codes"][:, :2].contiguous()
    elif damage == "nan":
        tensors["keys"][0, 0] = torch.nan
    elif damage == "weight":
        tensors["weights"][1] = 0.0
    if damage != "missing":
        save_file(tensors, tmp_path / FILE)
    with pytest.raises(UserError, match="copy the folder again"):
        load_instances(tmp_path, 2, 3)


def test_the_hull_of_a_ball_is_full_in_the_ball_alone() -> None:
    angles = torch.arange(0.0, 360.0, 30.0)
    views = torch.stack([angles, 40.0 * torch.sin(angles), 2.8 * torch.ones_like(angles)], dim=1)
    cameras = cameras_of(views, 64)
    pixel = torch.arange(64) + 0.5
    across = (pixel[None, :] - 32.0) / cameras.intrinsics[0, 0, 0]
    down = (pixel[:, None] - 32.0) / cameras.intrinsics[0, 1, 1]
    angle = torch.sqrt(across**2 + down**2).atan()
    alpha = (angle < torch.asin(torch.tensor(0.5 / 2.8))).float().expand(len(views), -1, -1)
    hull = soft_hull(alpha, cameras)
    along = torch.linspace(-0.75, 0.75, 12)
    radius = torch.stack(torch.meshgrid(along, along, along, indexing="ij"), -1).flatten(0, 2).norm(dim=1)
    assert bool((hull[radius < 0.45] == 1.0).all())
    assert bool((hull[radius > 0.62] < 0.9).all())


def test_codes_tell_things_of_a_word_apart_and_leave_out_what_words_share() -> None:
    rng = torch.Generator().manual_seed(0)
    words = torch.arange(3).repeat_interleave(10)
    directions = torch.linalg.qr(torch.randn(40, 2, generator=rng)).Q.T
    scores = torch.randn(30, 2, generator=rng)
    scores = scores - scores.view(3, 10, 2).mean(1)[words]
    means = 5.0 * torch.randn(3, 40, generator=rng)
    codes = codes_of(means[words] + scores * torch.tensor([2.0, 0.5]) @ directions, words, 4)
    assert float(codes[:, 2:].abs().max()) < 1e-2  # two directions are all there is
    torch.testing.assert_close(codes[:, :2].square().mean(0), torch.ones(2), atol=0.1, rtol=0.0)
    # Each code is one of the directions, up to the correlation of the drawn scores.
    both = torch.corrcoef(torch.cat([codes[:, :2], scores], dim=1).T)[:2, 2:].abs()
    assert bool((both.amax(1) > 0.9).all())
    moved = codes_of(means[words] + 3.0 + scores * torch.tensor([2.0, 0.5]) @ directions, words, 4)
    torch.testing.assert_close(moved, codes, atol=1e-3, rtol=0.0)
