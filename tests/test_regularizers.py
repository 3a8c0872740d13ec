from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from threedgen import regularizers
from threedgen.errors import UserError
from threedgen.regularizers import Config, Regularizers
from threedgen.types import GaussianCloud, RenderOutput, TriMesh


def cloud(opacities: Tensor, scales: Tensor | None = None) -> GaussianCloud:
    count = len(opacities)
    scales = torch.full((count, 3), 0.1) if scales is None else scales
    return GaussianCloud(
        torch.zeros(count, 3), torch.ones(count, 4), scales, opacities, torch.zeros(count, 1, 3)
    )


def output(alpha: Tensor) -> RenderOutput:
    return RenderOutput(torch.zeros(*alpha.shape[:3], 3), alpha)


EMPTY = output(torch.zeros(2, 4, 4, 1))
PLAIN = cloud(torch.ones(5))


def gradient(term: regularizers.Term, values: Tensor, as_alpha: bool) -> Tensor:
    values = values.clone().requires_grad_(True)
    if as_alpha:
        term(output(values.reshape(1, 1, -1, 1)), PLAIN).backward()
    else:
        term(EMPTY, cloud(values)).backward()
    assert values.grad is not None
    return values.grad


@pytest.mark.parametrize(
    ("term", "as_alpha"), [(regularizers.opacity_binarising, False), (regularizers.alpha_binarising, True)]
)
def test_binarising_pushes_to_the_nearer_end(term: regularizers.Term, as_alpha: bool):
    values = torch.tensor([0.1, 0.4, 0.6, 0.9])
    slope = gradient(term, values, as_alpha)
    assert (slope[:2] > 0).all()  # descent lowers these
    assert (slope[2:] < 0).all()
    for end in (0.0, 1.0):
        assert float(term(output(torch.full((1, 2, 2, 1), end)), cloud(torch.full((3,), end)))) == 0.0
    half = term(output(torch.full((1, 2, 2, 1), 0.5)), cloud(torch.full((3,), 0.5)))
    assert float(half) == pytest.approx(1.0)


def test_sparsity_is_dreamfusions_and_free_for_an_empty_picture():
    assert float(regularizers.sparsity(EMPTY, PLAIN)) == pytest.approx(0.0, abs=1e-7)
    alpha = torch.tensor([0.0, 0.3, 1.0]).reshape(1, 1, 3, 1)
    expected = sum(math.sqrt(a * a + 0.01) - 0.1 for a in (0.0, 0.3, 1.0)) / 3
    assert float(regularizers.sparsity(output(alpha), PLAIN)) == pytest.approx(expected, rel=1e-5)
    assert (gradient(regularizers.sparsity, torch.tensor([0.2, 0.9]), as_alpha=True) > 0).all()


def test_anisotropy_is_free_up_to_the_ratio_and_blind_to_size():
    scales = torch.tensor([[0.1, 0.2, 0.39], [0.1, 0.1, 0.1]])
    assert float(regularizers.anisotropy(EMPTY, cloud(torch.ones(2), scales))) == 0.0
    needle = torch.tensor([[0.8, 0.1, 0.1]])
    one = float(regularizers.anisotropy(EMPTY, cloud(torch.ones(1), needle)))
    assert one == pytest.approx(math.log(2.0), rel=1e-5)
    assert float(regularizers.anisotropy(EMPTY, cloud(torch.ones(1), 0.01 * needle))) == pytest.approx(
        one, rel=1e-4
    )


@pytest.mark.parametrize("name", list(regularizers.TERMS))
def test_weights_mean_the_same_for_any_count_and_image_size(name: str):
    torch.manual_seed(0)
    alpha, opacities, scales = torch.rand(1, 4, 4, 1), torch.rand(6), torch.rand(6, 3) * 0.3 + 0.01
    term = regularizers.TERMS[name]
    once = term(output(alpha), cloud(opacities, scales))
    more = term(output(alpha.repeat(3, 2, 5, 1)), cloud(opacities.repeat(7), scales.repeat(7, 1)))
    torch.testing.assert_close(more, once)


def test_the_sum_is_weighted_by_the_schedules():
    terms = Regularizers(Config(opacity={"from": 0.0, "to": 2.0}, scale=0.5))
    opacities = torch.full((4,), 0.5)
    for step, weight in ((0, 0.0), (5, 1.0), (10, 2.0)):
        loss, values = terms(EMPTY, cloud(opacities), step, 11)
        assert float(loss) == pytest.approx(weight * 1.0 + 0.5 * 0.1)
        assert set(values) == (
            {"regularizers/scale"} if step == 0 else {"regularizers/opacity", "regularizers/scale"}
        )


def test_nothing_asked_nothing_done_for_any_primitive():
    mesh = TriMesh(torch.zeros(3, 3), torch.zeros(1, 3, dtype=torch.int64))
    loss, values = Regularizers(Config())(EMPTY, mesh, 0, 10)
    assert float(loss) == 0.0
    assert values == {}
    with pytest.raises(UserError, match=r"regularizers\.opacity works on Gaussians"):
        Regularizers(Config(opacity=1.0))(EMPTY, mesh, 0, 10)


def test_every_config_field_is_a_term():
    assert set(Config.__dataclass_fields__) == set(regularizers.TERMS)
