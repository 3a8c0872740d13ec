from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.transforms import covariances
from threedgen.core.types import GaussianCloud, RenderOutput, ScreenStatistics
from threedgen.loop.optim import Config as OptimizerConfig
from threedgen.loop.optim import Optimizer, build_optimizer
from threedgen.representations import density_control as dc
from threedgen.representations.gaussians import PARAMETERS, Config, Gaussians


def flat_render(scene: Gaussians, size: int, loss_factor: float, mean: bool) -> RenderOutput:
    """Additive 2D splats of x and y on a size x size picture, which give real screen gradients."""
    cloud = scene.at()
    carrier = torch.zeros(2, len(scene), 2, requires_grad=True)
    position = (cloud.means[:, :2] * 0.5 + 0.5) * size + carrier  # pixels, both views
    sigma = cloud.scales[:, 0] * 0.5 * size
    centres = torch.arange(size) + 0.5
    dx = (centres[None, None] - position[..., 0:1]) / sigma[None, :, None]
    dy = (centres[None, None] - position[..., 1:2]) / sigma[None, :, None]
    row, column = torch.exp(-0.5 * dy**2), torch.exp(-0.5 * dx**2)
    image = torch.einsum("bny,bnx,n->byx", row, column, cloud.opacities)
    coordinates = centres / size - 0.5
    target = torch.sigmoid(40.0 * (0.1 - coordinates[:, None] ** 2 - coordinates[None] ** 2))
    error = (image - target) ** 2
    (loss_factor * (error.mean() if mean else error.sum())).backward()
    radii = (3.0 * sigma).expand(2, -1).clone()
    radii[1, ::3] = 0.0  # the second view does not see every third Gaussian
    rgb = image.detach()[..., None].repeat(1, 1, 1, 3)
    return RenderOutput(rgb, rgb[..., :1], screen=ScreenStatistics(carrier, radii, size, size))


def small_scene(count: int = 60, **density: object) -> Gaussians:
    options = {"split_scale": 0.15, "grow": 1.5, "refinements": 1, "begin": 1.0, "end": 1.0, "grow_end": 1.0}
    config = dc.Config(**{**options, **density})  # type: ignore[arg-type]
    draw = generator(3, "sizes", 0)
    scene = Gaussians(Config(count=count, density=config, sh_degree=1), seed=3)
    with torch.no_grad():
        scene.log_scales.copy_(torch.linspace(-2.5, -1.5, count)[torch.randperm(count, generator=draw), None])
    return scene


def optimizer_for(scene: Gaussians) -> Optimizer:
    return build_optimizer(
        scene.parameter_groups(),
        OptimizerConfig(),
        learning_rates={name: 0.0 for name in PARAMETERS},
        total_steps=10,
        owner=scene,
    )


def decisions(size: int, loss_factor: float, mean: bool) -> tuple[dict[str, float], dict[str, Tensor]]:
    scene = small_scene()
    optimizer = optimizer_for(scene)
    metrics = {}
    for step in range(4):
        output = flat_render(scene, size, loss_factor, mean)
        optimizer.step()
        metrics = scene.adapt(step, 4, output, optimizer, seed=0)
        optimizer.zero_grad()
    return metrics, {name: value.detach() for name, value in scene.named_parameters()}


def test_the_reference_decisions_are_not_trivial():
    metrics, _ = decisions(64, 1.0, mean=True)
    assert metrics["cloned"] >= 3
    assert metrics["split"] >= 3


@pytest.mark.parametrize(
    ("size", "factor", "mean"),
    [(64, 1000.0, True), (64, 1e-6, True), (128, 1.0, True), (128, 1.0, False), (256, 1e4, False)],
)
def test_decisions_do_not_depend_on_loss_scale_or_image_size(size: int, factor: float, mean: bool):
    reference, parameters = decisions(64, 1.0, mean=True)
    metrics, others = decisions(size, factor, mean)
    assert metrics == reference
    for name, value in parameters.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_resolution_and_loss_may_change_between_refinements():
    """Steps of different sizes and scales have the same weight: the mean of each over what it shows is 1."""
    for size, factor in ((64, 1.0), (128, 1e5)):
        scene = small_scene()
        seen = dc.relative_gradient(flat_render(scene, size, factor, mean=True).screen)  # type: ignore[arg-type]
        assert seen is not None
        assert float(seen[0].sum() / seen[1].sum()) == pytest.approx(1.0, rel=1e-5)


def screen(gradient: Tensor, radii: Tensor, height: int = 20, width: int = 40) -> ScreenStatistics:
    carrier = torch.zeros_like(gradient, requires_grad=True)
    carrier.grad = gradient
    return ScreenStatistics(carrier, radii, height, width)


def test_relative_gradient_by_hand():
    gradient = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])
    radii = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    seen = dc.relative_gradient(screen(gradient, radii))
    assert seen is not None
    # NDC norms of the visible: 20, 10, 20; their mean 50 / 3.
    torch.testing.assert_close(seen[0], torch.tensor([20.0, 30.0, 0.0]) * 3 / 50)
    assert seen[1].tolist() == [1, 2, 0]


def test_nothing_to_learn_gives_no_statistic():
    blank = torch.zeros(1, 2, 2)
    assert dc.relative_gradient(screen(blank, torch.ones(1, 2))) is None
    assert dc.relative_gradient(screen(torch.ones(1, 2, 2), torch.zeros(1, 2))) is None
    never = ScreenStatistics(torch.zeros(1, 2, 2, requires_grad=True), torch.ones(1, 2), 4, 4)
    assert dc.relative_gradient(never) is None


def test_copies_let_as_much_light_through_as_the_original():
    logits = torch.linspace(-9.0, 9.0, 50, dtype=torch.float64)
    shared = torch.sigmoid(dc.shared_opacity(logits))
    torch.testing.assert_close((1 - shared) ** 2, 1 - torch.sigmoid(logits), rtol=1e-9, atol=1e-12)


def random_gaussians(count: int = 20) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(count, 3).double(),
        torch.randn(count, 4).double(),
        (torch.randn(count, 3) * 0.7 - 2).double(),
        torch.randn(count).double(),
    )


def moments(means: Tensor, quats: Tensor, logs: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mass (opacity x volume), mass-weighted mean, and mass-weighted second moment of each Gaussian."""
    cloud = GaussianCloud(means, quats, logs.exp(), torch.sigmoid(logits), torch.zeros(len(means), 1, 3))
    mass = cloud.opacities * cloud.scales.prod(-1)
    second = covariances(cloud) + means[:, :, None] * means[:, None, :]
    return mass, mass[:, None] * means, mass[:, None, None] * second


def test_axis_split_keeps_mass_mean_and_covariance():
    means, quats, logs, logits = random_gaussians()
    child_means, child_logs, child_logits = dc.split_along_axis(means, quats, logs, logits)
    before = moments(means, quats, logs, logits)
    after = moments(child_means, quats.repeat(2, 1), child_logs, child_logits)
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(two[:20] + two[20:], one, rtol=1e-10, atol=1e-13)
    assert (child_logs.amax(-1) < logs.amax(-1).repeat(2) + 1e-12).all()


def test_sample_split_keeps_the_mean_on_average_and_the_covered_area_roughly():
    mean = torch.zeros(1, 3).repeat(4000, 1) + 1.0
    quats = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).repeat(4000, 1)
    logs = torch.tensor([[-1.0, -2.0, -3.0]]).repeat(4000, 1)
    logits = torch.zeros(4000)
    draw = generator(0, "test", 0)
    child_means, child_logs, child_logits = dc.split_by_samples(mean, quats, logs, logits, draw)
    torch.testing.assert_close(child_means.mean(0), torch.ones(3), atol=0.02, rtol=0)
    cloud = GaussianCloud(mean, quats, logs.exp(), logits.sigmoid(), torch.zeros(4000, 1, 3))
    torch.testing.assert_close(torch.cov(child_means.T), covariances(cloud)[0], atol=0.01, rtol=0.1)
    area = 2 * (2 * child_logs[0, 0]).exp() * child_logits[0].sigmoid()
    assert 0.7 < float(area / ((2 * logs[0, 0]).exp() * 0.5)) < 1.0


def test_optimizer_rows_stay_with_their_parameter_rows():
    """Row i is tagged i + 1 in every tensor and in every moment; after a refinement the tags still agree."""
    scene = small_scene(prune_opacity=0.05)
    count = len(scene)
    optimizer = optimizer_for(scene)
    tags = torch.arange(1.0, count + 1)
    for name in PARAMETERS:
        parameter = getattr(scene, name)
        parameter.grad = tags.reshape(-1, *[1] * (parameter.ndim - 1)).expand(parameter.shape).clone()
    optimizer.step()  # rates are zero: only the moments change
    with torch.no_grad():
        scene.sh_rest.copy_(tags[:, None, None].expand_as(scene.sh_rest))
        scene.opacity_logits[::7] = -8.0
    means = scene.means.detach().clone()
    carrier = torch.randn(2, count, 2, generator=generator(0, "test", 1))
    output = RenderOutput(
        torch.zeros(2, 4, 4, 3), torch.zeros(2, 4, 4, 1), screen=screen(carrier, torch.ones(2, count))
    )
    metrics = scene.adapt(0, 1, output, optimizer, seed=0)
    assert metrics["pruned"] == len(tags[::7])
    assert metrics["cloned"] > 0
    assert metrics["split"] > 0
    assert (
        metrics["gaussians"] == count - metrics["pruned"] + metrics["cloned"] + metrics["split"] == len(scene)
    )
    parent = scene.sh_rest[:, 0, 0].detach()
    fresh = int(metrics["cloned"] + 2 * metrics["split"])
    # The geometry comes from the parent that the tag names: clones lie on it, halves lie around it.
    origin = means[(parent - 1).long()]
    halves = int(metrics["split"])
    assert torch.equal(scene.means[: -2 * halves], origin[: -2 * halves])
    first_half, second_half = scene.means[-2 * halves : -halves], scene.means[-halves:]
    torch.testing.assert_close((first_half + second_half) / 2, origin[-halves:])
    expected = parent.clone()
    expected[-fresh:] = 0.0
    assert not set(parent.tolist()) & set(tags[::7].tolist())
    for name in PARAMETERS:
        parameter = getattr(scene, name)
        first = optimizer.moments(parameter)["exp_avg"]
        assert first.shape == parameter.shape, name
        wanted = 0.1 * expected.reshape(-1, *[1] * (parameter.ndim - 1)).expand_as(parameter)
        torch.testing.assert_close(first, wanted, msg=name)
    assert optimizer_for(scene) is not None  # every new parameter is in exactly one group
    assert len(scene.gradient_sum) == len(scene.view_count) == len(scene)


def test_a_refined_scene_can_be_trained_on_while_the_old_render_is_still_held():
    scene = small_scene()
    optimizer = optimizer_for(scene)
    held = []
    for step in range(3):
        output = flat_render(scene, 32, 1.0, mean=True)
        held.append(output)
        optimizer.step()
        scene.adapt(step, 3, output, optimizer, seed=0)
        optimizer.zero_grad()
    flat_render(scene, 32, 1.0, mean=True)
    assert scene.means.grad is not None
    assert scene.means.grad.shape == scene.means.shape


def train(scene: Gaussians, optimizer: Optimizer, begin: int, end: int) -> list[float]:
    counts = []
    for step in range(begin, end):
        optimizer.zero_grad()
        output = flat_render(scene, 32, 1.0, mean=True)
        optimizer.step()
        counts.append(scene.adapt(step, 12, output, optimizer, seed=0)["gaussians"])
    return counts


def test_a_run_saved_between_refinements_continues_with_the_same_bits(tmp_path: Path):
    """The statistics gathered since the last refinement are part of the state."""

    def fresh(count: int) -> tuple[Gaussians, Optimizer]:
        scene = small_scene(count, refinements=3, begin=0.2, end=1.0, grow_end=0.8, split="samples")
        rates = scene.learning_rates()
        optimizer = build_optimizer(
            scene.parameter_groups(), OptimizerConfig(), learning_rates=rates, total_steps=12
        )
        return scene, optimizer

    whole, optimizer = fresh(60)
    counts = train(whole, optimizer, 0, 12)
    assert len(set(counts)) == 3  # two growing refinements, then one that found nothing to prune

    first, optimizer = fresh(60)
    train(first, optimizer, 0, 5)
    checkpoint.save(
        tmp_path,
        {
            **checkpoint.prefixed("scene", first.state_dict()),
            **checkpoint.prefixed("optimizer", optimizer.state_tensors()),
        },
        {},
    )
    second, optimizer = fresh(7)
    tensors, _ = checkpoint.load(tmp_path)
    second.load_state_dict(checkpoint.unprefixed("scene", tensors))
    optimizer.load_state_tensors(checkpoint.unprefixed("optimizer", tensors), second.parameter_groups())
    assert train(second, optimizer, 5, 12) == counts[5:]
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def refine(config: dc.Config, statistic: Tensor | None = None, **changes: Tensor) -> dc.Edit:
    count = 40
    means = torch.randn(count, 3, generator=generator(0, "means", 0)) * 0.3
    rows = {
        "means": means,
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        "log_scales": torch.full((count, 3), math.log(0.05)),
        "opacity_logits": torch.linspace(-1, 1, count),
        **changes,
    }
    return dc.refine(**rows, statistic=statistic, config=config, generator=generator(0, "x", 0))  # type: ignore[arg-type]


def test_the_cap_keeps_the_strongest_candidates():
    statistic = torch.arange(40.0)
    edit = refine(dc.Config(max_count=45, grow=10.0), statistic)
    assert len(edit.parents) == 45
    assert edit.split == 5
    assert sorted(set(edit.parents[edit.fresh].tolist())) == [35, 36, 37, 38, 39]
    assert len(refine(dc.Config(max_count=30, grow=10.0), statistic).parents) == 40  # over the cap: no growth


def test_each_reason_to_prune_works_alone():
    config = dc.Config(stray=0.0)
    assert refine(config).pruned == 0
    logits = torch.zeros(40)
    logits[3] = -6.0
    edit = refine(config, opacity_logits=logits)
    assert edit.pruned == 1
    assert 3 not in edit.parents
    scales = torch.full((40, 3), math.log(0.05))
    scales[4, 1] = 0.0
    assert 4 not in refine(config, log_scales=scales).parents
    means = torch.randn(40, 3, generator=generator(0, "means", 0)) * 0.1
    means[5] = torch.tensor([0.0, 1.3, 0.0])
    assert 5 not in refine(config, means=means).parents
    means[5] = torch.tensor([0.0, 0.9, 0.0])
    assert 5 in refine(config, means=means).parents
    assert 5 not in refine(dc.Config(stray=5.0), means=means).parents


def test_at_most_half_is_pruned_at_once_the_faintest_first():
    logits = torch.linspace(-9.0, -5.0, 40)
    edit = refine(dc.Config(stray=0.0), opacity_logits=logits)
    assert edit.pruned == 20
    assert edit.parents.tolist() == list(range(20, 40))


def test_without_a_statistic_nothing_grows():
    edit = refine(dc.Config(), None)
    assert edit.cloned == edit.split == 0


def test_refinements_are_fractions_of_the_run():
    config = dc.Config(refinements=5, begin=0.2, end=1.0, grow_end=0.6, resets=1)
    for total in (11, 101, 1001):
        steps = {step: dc.refinement_at(config, step, total) for step in range(total)}
        found = {step / (total - 1): plan for step, plan in steps.items() if plan is not None}
        assert list(found) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert [plan.grow for plan in found.values()] == [True, True, True, False, False]
        assert [plan.reset for plan in found.values()] == [False, True, False, False, False]
    assert all(dc.refinement_at(config, step, 1) is not None for step in range(1))
    assert all(dc.refinement_at(dc.Config(enabled=False), step, 50) is None for step in range(50))


def test_an_opacity_reset_lowers_opacities_and_forgets_their_moments():
    scene = small_scene(resets=1, prune_opacity=0.02, grow=1e9)
    optimizer = optimizer_for(scene)
    output = flat_render(scene, 32, 1.0, mean=True)
    optimizer.step()
    with torch.no_grad():
        scene.opacity_logits.fill_(2.0)
    scene.adapt(0, 1, output, optimizer, seed=0)
    torch.testing.assert_close(scene.at().opacities, torch.full((len(scene),), 0.04))
    assert all(float(moment.abs().max()) == 0 for moment in optimizer.moments(scene.opacity_logits).values())
    assert float(optimizer.moments(scene.means)["exp_avg"].abs().max()) > 0


@pytest.mark.parametrize(
    "bad",
    [
        {"begin": 0.9, "end": 0.2},
        {"refinements": 0},
        {"grow_end": 0.05},
        {"split": "both"},
        {"max_count": 0},
        {"prune_opacity": 0.7},
        {"grow": 0.0},
        {"grow": math.nan},
        {"prune_radius": -1.0},
        {"resets": -1},
    ],
)
def test_bad_config_is_a_user_error(bad: dict[str, object]):
    with pytest.raises(UserError, match=next(iter(bad))):
        dc.Config(**bad)  # type: ignore[arg-type]


def test_infinity_switches_a_rule_off():
    scene = small_scene()
    rows = (scene.means, scene.quats, scene.log_scales, scene.opacity_logits)
    off = dc.Config(
        grow=math.inf, split_scale=math.inf, prune_scale=math.inf, prune_radius=math.inf, stray=0.0
    )
    with torch.no_grad():
        scene.means[0], scene.log_scales[1] = 1e6, 1e6
        edit = dc.refine(*rows, torch.full((60,), 1e30), off, generator(0, "density", 0))
        assert (edit.cloned, edit.split, edit.pruned) == (0, 0, 0)
        edit = dc.refine(*rows, torch.full((60,), 1e30), dc.Config(), generator(0, "density", 0))
    assert edit.cloned + edit.split > 0
    assert edit.pruned >= 2
