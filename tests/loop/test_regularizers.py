from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud, RenderOutput, TriMesh
from threedgen.loop import regularizers
from threedgen.loop.regularizers import Config, Regularizers
from threedgen.representations import gaussian_terms
from threedgen.representations.gaussians import Gaussians


def cloud(opacities: Tensor, scales: Tensor | None = None) -> GaussianCloud:
    count = len(opacities)
    scales = torch.full((count, 3), 0.1) if scales is None else scales
    return GaussianCloud(
        torch.zeros(count, 3), torch.ones(count, 4), scales, opacities, torch.zeros(count, 1, 3)
    )


def output(alpha: Tensor) -> RenderOutput:
    alpha = alpha.reshape(1, 1, -1, 1) if alpha.ndim == 1 else alpha
    return RenderOutput(torch.zeros(*alpha.shape[:3], 3), alpha)


EMPTY = output(torch.zeros(2, 4, 4, 1))


@pytest.mark.parametrize(
    ("term", "wrap"),
    [(gaussian_terms.opacity_binarising, cloud), (regularizers.alpha_binarising, output)],
)
def test_binarising_pushes_to_the_nearer_end(term, wrap):
    values = torch.tensor([0.1, 0.4, 0.6, 0.9], requires_grad=True)
    term(wrap(values)).backward()
    assert values.grad is not None
    assert (values.grad[:2] > 0).all()  # descent lowers these
    assert (values.grad[2:] < 0).all()
    for end in (0.0, 1.0):
        assert float(term(wrap(torch.full((4,), end)))) == 0.0
    assert float(term(wrap(torch.full((4,), 0.5)))) == pytest.approx(1.0)


def test_solidity_keeps_what_is_seen_through_a_haze():
    values = torch.tensor([0.02, 0.3, 0.45, 0.9], requires_grad=True)
    regularizers.solidity(output(values)).backward()
    assert values.grad is not None
    assert (values.grad[:2] > 0).all()  # descent lowers these
    assert (values.grad[2:] < 0).all()
    assert float(regularizers.solidity(output(torch.full((4,), regularizers.SOLID)))) == pytest.approx(
        1.0, abs=1e-3
    )
    for end, most in ((0.0, 0.03), (1.0, 1e-3)):
        assert float(regularizers.solidity(output(torch.full((4,), end))).abs()) < most


def test_flatness_is_the_shortest_axis():
    scales = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.2, 0.6]], requires_grad=True)
    term = gaussian_terms.flatness(cloud(torch.full((2,), 0.5), scales))
    assert float(term.detach()) == pytest.approx(0.15)
    term.backward()
    assert scales.grad is not None
    assert torch.equal(scales.grad > 0, torch.tensor([[True, False, False], [False, True, False]]))


def test_sparsity_is_dreamfusions_and_free_for_an_empty_picture():
    assert float(regularizers.sparsity(EMPTY)) == pytest.approx(0.0, abs=1e-7)
    alpha = torch.tensor([0.0, 0.3, 1.0], requires_grad=True)
    expected = sum(math.sqrt(a * a + 0.01) - 0.1 for a in (0.0, 0.3, 1.0)) / 3
    term = regularizers.sparsity(output(alpha))
    assert float(term.detach()) == pytest.approx(expected, rel=1e-5)
    term.backward()
    assert alpha.grad is not None
    assert (alpha.grad[1:] > 0).all()


def test_anisotropy_is_free_up_to_the_ratio_and_blind_to_size():
    scales = torch.tensor([[0.1, 0.2, 0.39], [0.1, 0.1, 0.1]])
    assert float(gaussian_terms.anisotropy(cloud(torch.ones(2), scales))) == 0.0
    needle = torch.tensor([[0.8, 0.1, 0.1]])
    one = float(gaussian_terms.anisotropy(cloud(torch.ones(1), needle)))
    assert one == pytest.approx(math.log(2.0), rel=1e-5)
    assert float(gaussian_terms.anisotropy(cloud(torch.ones(1), 0.01 * needle))) == pytest.approx(
        one, rel=1e-4
    )


@pytest.mark.parametrize("name", list(gaussian_terms.TERMS))
def test_weights_mean_the_same_for_any_count(name: str):
    torch.manual_seed(0)
    opacities, scales = torch.rand(6), torch.rand(6, 3) * 0.3 + 0.01
    term = gaussian_terms.TERMS[name]
    more = term(cloud(opacities.repeat(7), scales.repeat(7, 1)))
    torch.testing.assert_close(more, term(cloud(opacities, scales)))


@pytest.mark.parametrize("name", list(regularizers.TERMS))
def test_weights_mean_the_same_for_any_image_size(name: str):
    torch.manual_seed(0)
    few = dataclasses.replace(output(torch.rand(1, 4, 4, 1)), distortion=torch.rand(1, 4, 4, 1))
    assert few.distortion is not None
    many = dataclasses.replace(
        output(few.alpha.repeat(3, 2, 5, 1)), distortion=few.distortion.repeat(3, 2, 5, 1)
    )
    term = regularizers.TERMS[name]
    torch.testing.assert_close(term(many), term(few))


def test_the_sum_is_weighted_by_the_schedules_and_a_scene_adds_its_own():
    terms = gaussian_terms.Config(opacity={"from": 0.0, "to": 2.0}, scale=0.5)
    scene = Gaussians(Gaussians.Config(count=8, regularizers=terms))
    both = Regularizers(Config(alpha=3.0), own=scene.penalty)
    half = output(torch.full((1, 2, 2, 1), 0.5))
    for step, weight in ((0, 0.0), (5, 1.0), (10, 2.0)):
        loss, values = both(half, cloud(torch.full((4,), 0.5)), step, 11)
        assert float(loss) == pytest.approx(3.0 + weight * 1.0 + 0.5 * 0.1)
        own = {"regularizers/scale"} | ({"regularizers/opacity"} if step else set())
        assert set(values) == own | {"regularizers/alpha"}


def test_a_scene_s_own_terms_reach_its_parameters():
    scene = Gaussians(Gaussians.Config(count=8, regularizers=gaussian_terms.Config(opacity=1.0)))
    loss, _ = Regularizers(Config(), own=scene.penalty)(EMPTY, scene.at(), 0, 10)
    loss.backward()
    assert scene.opacity_logits.grad is not None
    assert (scene.opacity_logits.grad > 0).all()  # at 0.1: fainter still


def test_nothing_asked_nothing_done_for_any_primitive():
    mesh = TriMesh(torch.zeros(3, 3), torch.zeros(1, 3, dtype=torch.int64))
    loss, values = Regularizers(Config())(EMPTY, mesh, 0, 10)
    assert float(loss) == 0.0
    assert values == {}


def test_distortion_has_to_be_rendered():
    haze = dataclasses.replace(EMPTY, distortion=torch.full((2, 4, 4, 1), 0.25))
    terms = Regularizers(Config(distortion=2.0))
    mesh = TriMesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    loss, values = terms(haze, mesh, 0, 10)
    assert float(loss) == 0.5
    assert values == {"regularizers/distortion": 0.25}
    with pytest.raises(UserError, match=r"renderer\.distortion=true"):
        terms(EMPTY, mesh, 0, 10)


def test_every_config_field_is_a_term():
    assert set(Config.__dataclass_fields__) == set(regularizers.TERMS)
    assert set(gaussian_terms.Config.__dataclass_fields__) == set(gaussian_terms.TERMS)
