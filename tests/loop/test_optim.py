from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from threedgen.core.errors import UserError
from threedgen.loop.optim import Config, Optimizer, build_optimizer, decay_factor


def two_groups() -> dict[str, list[nn.Parameter]]:
    torch.manual_seed(0)
    return {
        "a": [nn.Parameter(torch.randn(5, 3))],
        "b": [nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(2))],
    }


def build(groups: dict[str, list[nn.Parameter]], config: Config | None = None, total: int = 10) -> Optimizer:
    return build_optimizer(
        groups, config or Config(), learning_rates={name: 0.1 for name in groups}, total_steps=total
    )


def descend(optimizer: Optimizer, groups: dict[str, list[nn.Parameter]], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.zeros(())
        for parameters in groups.values():
            for parameter in parameters:
                loss = loss + (parameter - 3.0).pow(4).sum()
        loss.backward()
        optimizer.step()


def values(groups: dict[str, list[nn.Parameter]]) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameters in groups.values() for parameter in parameters]


def test_one_step_is_adams_written_out():
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    config = Config(betas=(0.8, 0.95), eps=1e-3, decay="constant")
    optimizer = build_optimizer({"x": [parameter]}, config, learning_rates={"x": 0.1}, total_steps=3)
    x, m, v = parameter.detach().clone(), torch.zeros(3).double(), torch.zeros(3).double()
    for k in range(1, 4):
        gradient = 2.0 * x * k
        parameter.grad = gradient.clone()
        optimizer.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.95 * v + 0.05 * gradient**2
        x = x - 0.1 * (m / (1 - 0.8**k)) / ((v / (1 - 0.95**k)).sqrt() + 1e-3)
        torch.testing.assert_close(parameter.detach(), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decay", ["constant", "exponential", "cosine"])
def test_decay_starts_at_one_ends_at_final_and_never_rises(decay: str):
    config = Config(decay=decay, final=0.2)  # type: ignore[arg-type]
    factors = [decay_factor(config, i / 20) for i in range(21)]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(1.0 if decay == "constant" else 0.2)
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors))


def test_learning_rates_follow_the_decay_per_group():
    groups = two_groups()
    optimizer = build_optimizer(
        groups, Config(scale=2.0, final=0.25), learning_rates={"a": 0.1, "b": 0.4}, total_steps=5
    )
    assert optimizer.learning_rates() == pytest.approx({"a": 0.2, "b": 0.8})
    descend(optimizer, groups, 4)
    assert optimizer.learning_rates() == pytest.approx({"a": 0.05, "b": 0.2})
    before = groups["a"][0].detach().clone()
    for parameter in [*groups["a"], *groups["b"]]:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.zero_moments(groups["a"][0])
    groups["a"][0].grad = torch.ones(5, 3)
    optimizer.step()
    # The last step used a's decayed rate: with zeroed moments it is rate * correction for k = 5.
    expected = 0.05 * (0.1 / (1 - 0.9**5)) / (0.01 / (1 - 0.99**5)) ** 0.5
    torch.testing.assert_close(before - groups["a"][0].detach(), torch.full((5, 3), expected))


@pytest.mark.parametrize("factor", [2.0**-10, 2.0**10])
def test_steps_do_not_depend_on_the_scale_of_the_loss(factor: float):
    ends = []
    for scale in (1.0, factor):
        groups = two_groups()
        optimizer = build(groups)
        for _ in range(5):
            for parameter in [*groups["a"], *groups["b"]]:
                parameter.grad = scale * (parameter.detach() - 3.0)
            optimizer.step()
        ends.append(values(groups))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)


def test_a_saved_state_continues_bit_for_bit():
    groups = two_groups()
    optimizer = build(groups)
    descend(optimizer, groups, 4)
    saved = {name: value.clone() for name, value in optimizer.state_tensors().items()}
    copies = {name: [nn.Parameter(p.detach().clone()) for p in group] for name, group in groups.items()}
    descend(optimizer, groups, 5)

    other = build(two_groups())
    other.load_state_tensors(saved, copies)
    assert other.steps_taken == 4
    descend(other, copies, 5)
    for one, two in zip(values(groups), values(copies), strict=True):
        assert torch.equal(one, two)


def test_a_loaded_state_shares_no_memory_with_the_snapshot():
    groups = two_groups()
    optimizer = build(groups)
    descend(optimizer, groups, 2)
    saved = {name: value.clone() for name, value in optimizer.state_tensors().items()}
    untouched = {name: value.clone() for name, value in saved.items()}
    optimizer.load_state_tensors(saved, groups)
    descend(optimizer, groups, 2)
    for name, value in untouched.items():
        assert torch.equal(saved[name], value), name


def test_rows_keep_their_moments_through_surgery():
    """The gradient i + 1 gives row i moments that identify it wherever it is moved."""
    old = nn.Parameter(torch.zeros(6, 2))
    optimizer = build({"x": [old]})
    old.grad = torch.arange(1.0, 7.0)[:, None].repeat(1, 2)
    optimizer.step()
    source = torch.tensor([5, 0, -1, 3, -1])
    new = nn.Parameter(torch.zeros(5, 2))
    optimizer.replace_rows(old, new, source)
    tags = torch.tensor([6.0, 1.0, 0.0, 4.0, 0.0])[:, None].repeat(1, 2)
    torch.testing.assert_close(optimizer.moments(new)["exp_avg"], 0.1 * tags)
    torch.testing.assert_close(optimizer.moments(new)["exp_avg_sq"], 0.01 * tags**2)
    assert optimizer.moments(old) == {}
    new.grad = torch.ones(5, 2)
    optimizer.step()
    assert (new != 0).all()
    assert int(optimizer.state_tensors()["x.0.step"]) == 2


def test_surgery_before_the_first_step_and_on_a_stranger():
    old = nn.Parameter(torch.zeros(3))
    optimizer = build({"x": [old]})
    new = nn.Parameter(torch.zeros(2))
    optimizer.replace_rows(old, new, torch.tensor([0, -1]))
    new.grad = torch.ones(2)
    optimizer.step()
    assert (new < 0).all()
    with pytest.raises(KeyError):
        optimizer.replace_rows(old, new, torch.tensor([0]))


def test_every_parameter_is_in_exactly_one_group():
    module = nn.Module()
    weight, bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    module.weight, module.bias = weight, bias
    rates = {"x": 0.1, "y": 0.1}

    def attempt(groups: dict[str, list[nn.Parameter]]) -> None:
        build_optimizer(groups, Config(), learning_rates=rates, total_steps=1, owner=module)

    attempt({"x": [weight], "y": [bias]})
    with pytest.raises(UserError, match=r"bias is in no optimizer group"):
        attempt({"x": [weight], "y": []})
    with pytest.raises(UserError, match=r"weight is in 2 optimizer groups \(x, y\)"):
        attempt({"x": [weight], "y": [weight, bias]})
    with pytest.raises(UserError, match="group y holds a parameter"):
        attempt({"x": [weight, bias], "y": [nn.Parameter(torch.zeros(1))]})
    bias.requires_grad_(False)
    attempt({"x": [weight], "y": []})


@pytest.mark.parametrize(
    ("rates", "complaint"),
    [
        ({}, "group x has no learning rate"),
        ({"x": 0.1, "z": 0.1}, "z matches no"),
        ({"x": float("nan")}, "x is nan"),
    ],
)
def test_rates_and_groups_pair_up(rates: dict[str, float], complaint: str):
    with pytest.raises(UserError, match=complaint):
        build_optimizer({"x": []}, Config(), learning_rates=rates, total_steps=1)


@pytest.mark.parametrize(
    "bad", [{"betas": (0.9, 1.0)}, {"eps": 0.0}, {"scale": -1.0}, {"final": 0.0}, {"decay": "lineer"}]
)
def test_bad_config_is_a_user_error(bad: dict[str, object]):
    with pytest.raises(UserError, match=next(iter(bad))):
        Config(**bad)  # type: ignore[arg-type]


def test_a_state_of_another_scene_is_refused():
    groups = two_groups()
    optimizer = build(groups)
    descend(optimizer, groups, 1)
    saved = dict(optimizer.state_tensors())
    other = {"a": [nn.Parameter(torch.zeros(4, 3))], "b": groups["b"]}
    with pytest.raises(UserError, match="belongs to another scene"):
        optimizer.load_state_tensors(saved, other)
    with pytest.raises(UserError, match="does not fit"):
        optimizer.load_state_tensors({**saved, "c.0.exp_avg": torch.zeros(1)}, groups)
    descend(optimizer, groups, 1)  # a refused state changes nothing
    assert optimizer.steps_taken == 2


@pytest.mark.parametrize("layout", ["transposed", "repeated", "plain"])
def test_the_layout_of_a_gradient_in_memory_does_not_matter(layout: str):
    """torch's fused step reads gradients in the order of memory."""
    gradient = {
        "transposed": torch.randn(6, 4).t(),
        "repeated": torch.randn(4, 1).expand(4, 6),
        "plain": torch.randn(4, 6),
    }[layout]
    moved = []
    for value in (gradient, gradient.contiguous()):
        parameter = nn.Parameter(torch.zeros(4, 6))
        optimizer = build_optimizer({"a": [parameter]}, Config(), learning_rates={"a": 0.1}, total_steps=2)
        parameter.grad = value
        optimizer.step()
        moved.append(parameter.detach().clone())
    assert torch.equal(*moved)
    assert torch.equal(moved[0].sign(), -gradient.sign())
