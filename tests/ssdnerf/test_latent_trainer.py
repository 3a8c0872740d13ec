"""Training in one stage: the order of an outer step, what each piece of it changes, and that it fits its
pictures."""

import math
from dataclasses import replace

import pytest
import torch
from latent_scenes import VIEWS, assert_same, made, state, tiny, trainer

from threedgen.core.pictures import psnr
from threedgen.core.random import generator
from threedgen.ssdnerf.code_bank import Records
from threedgen.ssdnerf.code_optimizer import CodeOptimizer
from threedgen.ssdnerf.decoder import activate, as_pictures
from threedgen.ssdnerf.losses import rendering_loss
from threedgen.ssdnerf.posed_objects import PosedObjects
from threedgen.ssdnerf.trainer import Trainer
from threedgen.ssdnerf.views import render_code


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> PosedObjects:
    return made(tmp_path_factory.mktemp("scenes"))


def codes_of(of: Trainer) -> torch.Tensor:
    return of.bank.read(range(of.bank.count)).code


def test_the_order_of_a_step_is_the_papers(objects, tmp_path, monkeypatch):
    """The denoiser takes one step, the codes K steps, and the decoder one step with the last of these."""
    of, events = trainer(tiny(inner=3), objects, tmp_path), []
    update, step = of._update, CodeOptimizer.step
    monkeypatch.setattr(of, "_update", lambda name, rate: (events.append(name), update(name, rate)))
    monkeypatch.setattr(CodeOptimizer, "step", lambda self: (events.append("codes"), step(self)))
    weights = {name: value.clone() for name, value in of.networks.decoder.state_dict().items()}
    seen, learnt = [], []
    render = of._render

    def spy(*arguments):
        kept = of.networks.decoder.state_dict()
        seen.append(all(torch.equal(value, weights[name]) for name, value in kept.items()))
        errors = render(*arguments)
        learnt.append(any(parameter.grad is not None for parameter in of.networks.decoder.parameters()))
        return errors

    monkeypatch.setattr(of, "_render", spy)
    of.train_step()
    assert learnt == [False] * 4 + [True] * 2  # its gradient is that of the last rays only
    assert events == ["denoiser", "codes", "codes", "decoder", "codes"]
    assert seen == [True] * 6  # two objects, three times, all with the decoder of the start of the step
    moved = of.networks.decoder.state_dict()
    assert not any(torch.equal(moved[name], weights[name]) for name in ("base.weight", "color.weight"))


def test_the_kept_gradient_is_that_of_the_parameters_before_their_tanh(objects, tmp_path):
    """dL/dc = lambda dL/dx 2 (1 - tanh^2 c), of each object alone, by the denoiser as it was before its step."""
    of = trainer(tiny(), objects, tmp_path, steps=1)  # a denoiser whose prediction is not 0
    records = of.bank.read([0, 1])
    codes = [torch.nn.Parameter(3.0 * code) for code in records.code]
    expected = []
    before = float(of.averages.statistics.mean_square)
    everything = torch.stack([activate(code.detach()) for code in codes]).square().mean()
    mean_square = before + of.config.diffusion.momentum * (float(everything) - before)
    for index, code in enumerate(codes):
        x = as_pictures(activate(code.detach())[None]).requires_grad_()
        loss = of.networks.prior_loss(x, [generator(0, f"noise/{index}", of.step)]).sum()
        (gradient,) = torch.autograd.grad(4.0 / mean_square * loss, x)
        slope = 2.0 * (1.0 - torch.tanh(code.detach()) ** 2)
        expected.append(gradient[0].reshape_as(code) * slope)
    found = of._learn_prior(codes, [0, 1], {})
    assert float(of.averages.statistics.mean_square) == pytest.approx(mean_square)
    assert found is not None
    for kept, true in zip(found, expected, strict=True):
        assert float((kept - true).norm() / true.norm()) < 1e-4


def test_the_kept_gradient_is_in_every_inner_step(objects, tmp_path, monkeypatch):
    of, begun = trainer(tiny(inner=3), objects, tmp_path, steps=1), []
    render, learn = of._render, of._learn_prior
    kept = []

    def spy(index, code, occupied, k):
        assert code.grad is not None
        begun.append(code.grad.clone())
        return render(index, code, occupied, k)

    monkeypatch.setattr(of, "_render", spy)
    monkeypatch.setattr(of, "_learn_prior", lambda *a: kept.append(learn(*a)) or kept[-1])
    of.train_step()
    assert len(begun) == 6
    for k in range(3):
        for place in range(2):
            assert torch.equal(begun[2 * k + place], kept[0][place])


@pytest.mark.parametrize(("learning_rate", "least", "most"), [(1e-4, 0.0, 0.02), (0.1, 0.1, 2.0)])
def test_kept_and_recomputed_gradients_agree_at_small_learning_rates(
    objects, tmp_path, monkeypatch, learning_rate, least, most
):
    """Four inner steps with the kept gradient, and four with a gradient that is computed anew in each step with the
    same noise. At a large learning rate they differ, so the test can tell them apart."""
    moved = []
    config = tiny(inner=4, codes={"learning_rate": learning_rate}, diffusion={"weight": 40.0})
    for recomputed in (False, True):
        of = trainer(config, objects, tmp_path / str(recomputed))
        torch.manual_seed(0)
        torch.nn.init.normal_(of.networks.denoiser.unet.conv_out.weight, std=0.3)  # its first prediction is 0
        denoiser = [value.clone() for value in of.networks.denoiser.parameters()]
        monkeypatch.setattr(of, "_update", lambda name, rate: None)
        render = of._render

        def anew(index, code, occupied, k, of=of, render=render):
            x = as_pictures(activate(code)[None])
            loss = of.networks.prior_loss(x, [generator(0, f"noise/{index}", of.step)]).sum()
            weighted = of.averages.statistics.weight(40.0) * loss
            (code.grad,) = torch.autograd.grad(weighted, code)
            return render(index, code, occupied, k)

        if recomputed:
            monkeypatch.setattr(of, "_render", anew)
        before = codes_of(of)
        of.train_step()
        moved.append(codes_of(of) - before)
        assert all(
            torch.equal(a, b) for a, b in zip(denoiser, of.networks.denoiser.parameters(), strict=True)
        )
    apart = float((moved[0] - moved[1]).norm() / moved[1].norm())
    assert least <= apart < most


def test_adam_on_an_object_continues_from_visit_to_visit(tmp_path):
    """Five steps at once give the same bits as two steps and, from disk, three more."""
    from threedgen.ssdnerf.code_bank import CodeBank

    shape, rng = (3, 2, 4, 4), generator(0, "gradients", 0)
    gradients = torch.randn(5, *shape, generator=rng)
    start = torch.randn(shape, generator=rng)
    whole = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([whole], 0.1, fused=True)
    for gradient in gradients:
        whole.grad = gradient.clone()
        adam.step()
    bank = CodeBank.create(tmp_path, 2, shape, 3)
    zeros, step = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64)
    bank.write([1], Records(start[None], zeros, zeros, step, torch.zeros(1, 3, 3, 3)))
    for part in (gradients[:2], gradients[2:]):
        records = bank.read([1])
        code = torch.nn.Parameter(records.code[0])
        optimizer = CodeOptimizer([code], records, 0.1)
        for gradient in part:
            code.grad = gradient.clone()
            optimizer.step()
        bank.write([1], optimizer.records(records.density))
    found = bank.read([1])
    state = adam.state[whole]
    assert torch.equal(found.code[0], whole.detach())
    assert torch.equal(found.first[0], state["exp_avg"])
    assert torch.equal(found.second[0], state["exp_avg_sq"])
    assert found.step.tolist() == [5]


def test_the_bank_counts_each_objects_own_steps(objects, tmp_path):
    of = trainer(tiny(inner=3), objects, tmp_path, steps=3)
    visits = [index for step in range(3) for index in of.batch_at(step)]
    assert of.bank.read(range(4)).step.tolist() == [3 * visits.count(index) for index in range(4)]


def test_every_object_keeps_what_is_known_of_its_own_emptiness(objects, tmp_path):
    of = trainer(tiny(batch=3, codes={"initial": 1.0}), objects, tmp_path, steps=1)
    mine = of.batch_at(0)
    records, none = of.bank.read(mine), torch.zeros(8, 8, 8)
    for index, code, density in zip(mine, records.code, records.density, strict=True):
        alone = of.grids.update(of.networks.decoder, activate(code), none, 0, f"occupancy/{index}", 0)
        torch.testing.assert_close(density.float(), alone, rtol=1e-3, atol=0)  # half precision on disk
    assert not torch.equal(records.density[0], records.density[1])


def test_without_a_prior_it_is_an_auto_decoder(objects, tmp_path):
    """A training with diffusion.weight = 0 is the same, bit for bit, as one without the step of the prior."""
    without, never = (tiny(diffusion={"weight": weight}) for weight in (0.0, 4.0))
    plain, cut = trainer(without, objects, tmp_path / "0"), trainer(never, objects, tmp_path / "cut")
    cut._learn_prior = lambda *_: None  # type: ignore[method-assign]
    for of in (plain, cut):
        for _ in range(3):
            seen = of.train_step()
        assert "prior" not in seen
    assert_same(state(plain), state(cut))
    first = trainer(without, objects, tmp_path / "again").networks.denoiser.state_dict()
    assert all(
        torch.equal(value, first[name]) for name, value in plain.networks.denoiser.state_dict().items()
    )
    pulled = trainer(never, objects, tmp_path / "4", steps=3)
    assert not torch.equal(codes_of(plain), codes_of(pulled))


def test_an_auto_decoder_fits_its_pictures(objects, tmp_path):
    config = tiny(
        steps=24,
        batch=4,
        inner=4,
        warmup=5,
        rates={"from": 1.0, "to": 0.1},
        codes={"resolution": 32, "channels": 4, "learning_rate": 0.1, "regularizer": 0.0},
        decoder={"hidden": 16, "learning_rate": 0.03},
        diffusion={"weight": 0.0},
        rays=256,
        rendering={"samples": 24},
    )
    of = trainer(config, objects, tmp_path, steps=24)
    codes = as_pictures(activate(codes_of(of)))
    found = [
        psnr(
            render_code(of.networks, code, objects.cameras(index)).rgb,
            objects.pictures(index).float() / 255.0,
        ).mean()
        for index, code in enumerate(codes)
    ]
    assert min(map(float, found)) > 25.0


def test_a_linear_decoder_under_a_gaussian_prior_ends_at_the_ridge_solution(objects, tmp_path, monkeypatch):
    """The whole loop, with its kept gradients, its bank and its running mean square."""
    config = tiny(
        steps=230, inner=4, rates={"from": 1.0, "to": 1e-3},
        codes={"channels": 1, "resolution": 2, "learning_rate": 0.1, "regularizer": 0.0},
        diffusion={"widths": [8], "attention": [False], "momentum": 1.0},
        rendering={"cells": 1, "weight": 2.0},
    )  # fmt: skip
    of = trainer(config, objects, tmp_path)
    of.grids.update = lambda *_: torch.zeros(1, 1, 1)  # type: ignore[method-assign]
    rng = generator(0, "toy", 0)
    decoder, true = torch.randn(4, 9, 12, generator=rng), torch.rand(4, 9, generator=rng)
    mean, variance = 0.3 * torch.randn(12, generator=rng), 0.1 + torch.rand(12, generator=rng)
    schedule = of.networks.schedule
    share = torch.arange(2000, dtype=torch.float64) / 2000 + 0.25e-3
    alpha, sigma = schedule.alpha(share)[:, None], schedule.sigma(share)[:, None]
    # E 1/2 w(t) (x_hat - x)^2 = 1/2 q (x - mean)^2 + what no x changes: see test_latent_losses.
    pull = (alpha * sigma**3 / (alpha**2 * variance + sigma**2) ** 2).mean(0)
    solutions, scale = [], 2.0 * 2.0 * (1.0 - math.exp(-0.1 * VIEWS)) / 3

    def expected(clean: torch.Tensor, mine: list[int]) -> torch.Tensor:
        return (0.5 * pull * (clean.flatten(1) - mean).square()).mean(1)

    def render(index: int, code: torch.nn.Parameter, occupied: object, k: int) -> tuple[float, float]:
        seen = (decoder[index] @ activate(code).flatten()).reshape(3, 3)
        loss = rendering_loss(seen, true[index].reshape(3, 3), 2.0, objects.views(index))
        loss.backward()
        return float(loss.detach()), 0.0

    monkeypatch.setattr(of, "_diffusion", expected)
    monkeypatch.setattr(of, "_render", render)
    of.config = replace(config, batch=4)  # one mean square for all
    for _ in range(config.steps):
        of.train_step()
    weight = of.averages.statistics.weight(4.0)
    for a, y in zip(decoder.double(), true.double(), strict=True):
        left = scale * a.T @ a + torch.diag(weight / 12 * pull)
        solutions.append(torch.linalg.solve(left, scale * a.T @ y + weight / 12 * pull * mean))
    found, solution = activate(codes_of(of)).flatten(1), torch.stack(solutions)
    assert float(solution.abs().max()) < 1.9
    assert float((found - solution).norm() / solution.norm()) < 1e-3


def test_the_mean_square_is_followed_slowly(objects, tmp_path):
    of = trainer(tiny(diffusion={"momentum": 0.25}), objects, tmp_path)
    clean = activate(of.bank.read(of.batch_at(0)).code)
    assert float(of.averages.statistics.mean_square) == 1.0
    of.train_step()
    assert float(of.averages.statistics.mean_square) == pytest.approx(
        0.75 + 0.25 * float(clean.square().mean())
    )


def test_fidelity_weighs_pictures_and_regularizer(objects, tmp_path):
    """Without a prior, half the fidelity gives half the gradient."""
    moved = []
    for fidelity in (1.0, 0.5):
        of = trainer(tiny(fidelity=fidelity, diffusion={"weight": 0.0}), objects, tmp_path / str(fidelity))
        code = torch.nn.Parameter(of.bank.read([0]).code[0])
        code.grad = torch.zeros_like(code)
        of._render(0, code, None, 0)
        moved.append(code.grad)
    torch.testing.assert_close(moved[1], 0.5 * moved[0])


def test_smoothness_pulls_neighbours_together(objects, tmp_path):
    smooth, rough = (
        trainer(
            tiny(codes={"smoothness": weight, "initial": 1.0}, diffusion={"weight": 0.0}),
            objects, tmp_path / str(weight), steps=4,
        )
        for weight in (50.0, 0.0)
    )  # fmt: skip

    def roughness(of: Trainer) -> float:
        return float(codes_of(of).diff(dim=-1).square().mean())

    assert roughness(smooth) < 0.9 * roughness(rough)


def test_rays_of_all_views_are_drawn_and_each_inner_step_sees_others(objects, tmp_path, monkeypatch):
    of, drawn = trainer(tiny(inner=2), objects, tmp_path), []
    rays = type(objects).rays

    def spy(self, index, count, rng):
        cameras, colors = rays(self, index, count, rng)
        drawn.append((index, cameras.world_from_camera, colors))
        return cameras, colors

    monkeypatch.setattr(type(objects), "rays", spy)
    of.train_step()
    assert [len(colors) for _, _, colors in drawn] == [48] * 4
    same = [poses for index, poses, _ in drawn if index == drawn[0][0]]
    assert len(same) == 2
    assert not torch.equal(same[0], same[1])
    assert len(torch.cat(same).flatten(1).unique(dim=0)) == VIEWS


def test_noise_is_an_objects_own_whoever_draws_it(objects, tmp_path):
    """The loss of an object is the same alone and beside another."""
    of = trainer(tiny(), objects, tmp_path, steps=1)
    clean = as_pictures(activate(of.bank.read([0, 1]).code))
    both = of._diffusion(clean, [0, 1])
    alone = torch.cat([of._diffusion(clean[:1], [0]), of._diffusion(clean[1:], [1])])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-6)
