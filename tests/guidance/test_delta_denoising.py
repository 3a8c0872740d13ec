"""Delta denoising (Hertz et al. 2023): the gradient is 0 without a difference, and else exactly the difference."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import ring

from threedgen.core.errors import UserError
from threedgen.core.types import RenderOutput
from threedgen.datasets.given import GivenViews
from threedgen.datasets.multiview import PosedPictures, write_transforms
from threedgen.guidance.delta_denoising import DeltaDenoising, delta
from threedgen.guidance.priors.analytic import MixturePrior, by_prompt
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.processes import FlowSchedule
from threedgen.testing import check_guidance

SIZE = 8


def picture(seed: int) -> torch.Tensor:
    return torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed))


def noise(seed: int) -> torch.Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prior() -> MixturePrior:
    return MixturePrior(by_prompt({"a cat": picture(1), "a dog": picture(2), "": picture(3)}), [0.4], SIZE)


def test_equal_samples_under_equal_texts_give_exactly_nothing():
    x, t = noise(1), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    same = Condition(("a cat",) * 3)
    gradient, _ = delta(prior(), x, x, noise(2), t, (same, same), scale=7.5)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_closed_form_has_no_noise():
    """With one spread for all: scale sigma alpha (mu' - mu) / D + sigma alpha (x - x') / D, for every eps."""
    x, reference, t = noise(1), noise(3), torch.full((3,), 0.5, dtype=torch.float64)
    model = prior()
    dog, cat = Condition(("a dog",) * 3), Condition(("a cat",) * 3)
    mean = {n: picture(i).double().permute(2, 0, 1) * 2 - 1 for n, i in (("a cat", 1), ("a dog", 2))}
    alpha, sigma = model.alpha(t)[0], model.sigma(t)[0]
    pull = sigma * alpha / (alpha**2 * 0.4**2 + sigma**2)
    expected = pull * (7.5 * (mean["a cat"] - mean["a dog"]) + x - reference)
    for seed in (4, 5):
        gradient, _ = delta(model, x, reference, noise(seed), t, (dog, cat), scale=7.5)
        torch.testing.assert_close(gradient, expected)


def test_opposed_texts_of_both_sides_travel_together():
    x, reference, t = noise(1), noise(3), torch.full((3,), 0.5, dtype=torch.float64)
    model = prior()
    dog = Condition(("a dog",) * 3, opposed=((("a cat", -1.0),),) * 3)
    cat = Condition(("a cat",) * 3, opposed=((("a dog", 0.0),),) * 3)
    pushed, _ = delta(model, x, reference, noise(2), t, (dog, cat), scale=2.0)
    plain, _ = delta(
        model, x, reference, noise(2), t, (Condition(("a dog",) * 3), Condition(("a cat",) * 3)), scale=2.0
    )
    assert not torch.allclose(pushed, plain)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("given")
    images = torch.stack([picture(10 + index) for index in range(4)])
    write_transforms(path, PosedPictures(images, torch.ones(4, SIZE, SIZE, 1), ring(4, SIZE)))
    return str(path)


def make(folder: str, source: str = "a cat", **options) -> DeltaDenoising:
    config = DeltaDenoising.Config(source=source, path=folder, view_prompts="never", scale=3.0, **options)
    return DeltaDenoising(config, prior=prior())


def test_a_run_starts_from_the_pictures_and_leaves_them_only_for_another_prompt(folder):
    cameras = GivenViews(GivenViews.Config(path=folder, batch=4))(0, 0, 1)
    guidance = make(folder)
    assert cameras.index is not None
    rgb = guidance.images[cameras.index].clone().requires_grad_()
    output = RenderOutput(rgb, torch.ones(4, SIZE, SIZE, 1))
    same = guidance(output, cameras, "a cat", 0, 10, 0)
    assert same.metrics["gradient"] == 0.0
    other = guidance(output, cameras, "a dog", 0, 10, 0)
    (gradient,) = torch.autograd.grad(other.loss, rgb)
    toward = (picture(2) - picture(1)).expand(4, -1, -1, -1)
    assert float((gradient * toward).sum()) < 0.0  # descent adds the dog and takes the cat away
    assert other.preview is not None
    assert other.preview().shape == (SIZE, 4 * SIZE, 3)


def test_it_is_a_guidance(folder):
    cameras = GivenViews(GivenViews.Config(path=folder, batch=3))(0, 0, 1)
    check_guidance(lambda: make(folder), cameras=cameras, prompt="a dog")


def test_an_overflowing_view_is_dropped_and_counted(folder, monkeypatch):
    cameras = GivenViews(GivenViews.Config(path=folder, batch=4))(0, 0, 1)
    real = MixturePrior.predict

    def overflowing(self, z, t, condition):
        answer = real(self, z, t, condition)
        answer.eps[1, 0, 0, 0] = torch.inf
        return answer

    monkeypatch.setattr(MixturePrior, "predict", overflowing)
    rgb = torch.rand(4, SIZE, SIZE, 3, requires_grad=True)
    signal = make(folder)(RenderOutput(rgb, torch.ones(4, SIZE, SIZE, 1)), cameras, "a dog", 0, 10, 0)
    (gradient,) = torch.autograd.grad(signal.loss, rgb)
    assert signal.metrics["dropped"] == 0.25
    assert signal.metrics["loss"] == signal.loss.item()
    assert gradient.isfinite().all()


def test_bad_settings(folder):
    with pytest.raises(UserError, match="scale holds nan; every number of it must be a finite number"):
        DeltaDenoising.Config(scale={"from": 3.0, "to": float("nan")})
    flow = MixturePrior(lambda c: torch.zeros(len(c), 1, SIZE, SIZE, 3), [0.4], SIZE, schedule=FlowSchedule())
    config = DeltaDenoising.Config(source="a cat", path=folder, t=(0.02, 1.0), weighting="recon")
    with pytest.raises(UserError, match=r"^t reaches 1, .* keep t below 1"):
        DeltaDenoising(config, prior=flow)
    with pytest.raises(UserError, match='"delta-denoising" needs `source`'):
        make(folder, source="")
    with pytest.raises(UserError, match="names no folder of pictures"):
        make("")
    with pytest.raises(UserError, match=r"inside \[0, 1\]"):
        make(folder, t=(0.5, 0.2))
    cameras = GivenViews(GivenViews.Config(path=folder, batch=4))(0, 0, 1)
    rgb = torch.zeros(4, SIZE, SIZE, 3, requires_grad=True)
    with pytest.raises(UserError, match="compared on white"):
        make(folder)(RenderOutput(rgb, torch.zeros(4, SIZE, SIZE, 1)), cameras, "a dog", 0, 10, 0)
    with pytest.raises(UserError, match=r"needs cameras\.name=given"):
        make(folder)(RenderOutput(rgb, torch.ones(4, SIZE, SIZE, 1)), ring(4, SIZE), "a dog", 0, 10, 0)
