"""Score distillation as the loop calls it: determinism, t, view prompts, sizes, and the calls of the prior."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import ring

from threedgen.core.errors import UserError
from threedgen.core.plugins import BUILTIN
from threedgen.core.types import RenderOutput
from threedgen.guidance.priors.analytic import MixturePrior
from threedgen.guidance.priors.base import Condition, Text
from threedgen.guidance.priors.load import PriorConfig
from threedgen.guidance.score_distillation import ScoreDistillation
from threedgen.recipes import typed

Config = ScoreDistillation.Config


class Recorder(MixturePrior):
    """A Gaussian around a horizontal ramp (grey without a prompt) that records its inputs."""

    def __init__(self, size: int = 8, latent: bool = False, camera_conditioned: bool = False) -> None:
        def means(condition: Condition) -> torch.Tensor:
            ramp = torch.linspace(0.2, 1.0, size).reshape(1, size, 1).expand(size, size, 3)
            grey = torch.full((size, size, 3), 0.4)
            return torch.stack([ramp if p else grey for p in condition.prompts]).unsqueeze(1)

        super().__init__(means, [0.3], size, camera_conditioned=camera_conditioned)
        self.latent = latent
        self.asked: list[tuple[torch.Tensor, torch.Tensor, Condition]] = []
        self.prepared: list[str] = []

    def prepare(self, prompts):
        self.prepared += prompts

    def predict(self, z, t, condition):
        self.asked.append((z, t, condition))
        return super().predict(z, t, condition)


def render(size: int = 8, views: int = 4) -> RenderOutput:
    rgb = torch.rand(views, size, size, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return RenderOutput(rgb=rgb, alpha=torch.ones(views, size, size, 1))


def ask(
    config: Config, step: int = 3, total: int = 10, seed: int = 0, output=None, views: int = 4, **options
):
    prior = Recorder(**options)
    output = output or render(views=views)
    guidance = ScoreDistillation(config, prior=prior)
    signal = guidance(output, ring(len(output.rgb)), "a cube", step, total, seed)
    (gradient,) = torch.autograd.grad(signal.loss, output.rgb)
    return prior, signal, gradient


def test_same_seed_and_step_same_bits_and_another_step_other_ones():
    first, again = ask(Config())[2], ask(Config())[2]
    assert torch.equal(first, again)
    assert not torch.equal(first, ask(Config(), step=4)[2])
    assert not torch.equal(first, ask(Config(), seed=1)[2])


def test_signal():
    prior, signal, gradient = ask(Config(scale=3.0))
    assert set(signal.metrics) == {"t", "gradient", "loss", "dropped"}
    assert signal.preview is not None
    picture = signal.preview()
    assert picture.shape == (8, 4 * 8, 3)
    assert not picture.requires_grad
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert len(prior.asked) == 1  # both branches of guidance in one batch
    # d loss / d rgb = 2 g / B: z = 2 rgb - 1.
    per_view = (gradient * 4 / 2).flatten(1).norm(dim=1).mean()
    assert signal.metrics["gradient"] == pytest.approx(per_view.item(), rel=1e-5)


def test_the_gradient_of_a_smaller_and_a_larger_render_arrives():
    for size in (5, 16, 13):
        gradient = ask(Config(), output=render(size))[2]
        assert gradient.shape == (4, size, size, 3)
        assert (gradient != 0).float().mean() > 0.99


def test_one_t_a_group_and_independent_noise():
    for group, distinct in ((0, 1), (4, 2), (2, 4), (1, 8)):
        prior, _, _ = ask(Config(group=group, scale=1.0), views=8)
        z, t, _ = prior.asked[0]
        assert len(t.unique()) == distinct
        assert torch.equal(t, t.reshape(distinct, -1)[:, :1].expand(-1, 8 // distinct).flatten())
        assert not torch.equal(z[0], z[1])
    with pytest.raises(UserError, match="group 3 does not divide the 4 views"):
        ask(Config(group=3))


def test_t_follows_its_range():
    schedule = typed.convert(typed.hints(Config)["t"], {"from": [0.5, 0.9], "to": [0.1, 0.3]}, "t")
    drawn = {
        step: [ask(Config(t=schedule), step, 11, seed)[1].metrics["t"] for seed in range(40)]
        for step in (0, 10)
    }
    assert all(0.5 <= t <= 0.9 for t in drawn[0])
    assert all(0.1 <= t <= 0.3 for t in drawn[10])
    assert max(drawn[0]) - min(drawn[0]) > 0.25
    annealed = [ask(Config(t=schedule, t_order="annealed"), step, 11)[1].metrics["t"] for step in (0, 5, 10)]
    assert annealed == pytest.approx([0.9, 0.5, 0.1])


def test_the_objective_brings_its_own_weighting_unless_one_is_named():
    own = ask(Config(objective="recon", scale=1.0))[2]
    assert torch.equal(own, ask(Config(objective="recon", weighting="recon", scale=1.0))[2])
    other = ask(Config(objective="recon", weighting="sds", scale=1.0))[2]
    assert not torch.allclose(own, other)
    torch.testing.assert_close(other, ask(Config(scale=1.0))[2], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", BUILTIN["objective"])
def test_a_step_with_each_objective(name):
    """The gradient is finite and deterministic, with one batched call of the prior for objectives without
    inversion."""
    options = {"negative": -0.5, "empty": -0.5} if name == "csd" else {}
    config = Config(objective=name, options=options, scale=3.0, negative="ugly")
    prior, signal, gradient = ask(config)
    assert gradient.isfinite().all()
    assert float(gradient.abs().max()) > 0.0
    assert torch.equal(gradient, ask(config)[2])
    assert signal.preview is not None
    assert signal.preview().shape == (8, 32, 3)
    if name not in ("ism", "sdi"):
        assert len(prior.asked) == 1
    assert {"a cube", ""} <= set(prior.prepared)


def test_the_image_term_reaches_renders_of_another_size():
    plain = ask(Config(objective="hifa", options={"image": 0.0}, scale=1.0), output=render(16))[2]
    both = ask(Config(objective="hifa", options={"image": 0.5}, scale=1.0), output=render(16))[2]
    sds = ask(Config(scale=1.0), output=render(16))[2]
    torch.testing.assert_close(plain, sds, rtol=1e-3, atol=1e-5)
    # For a prior on pixels x = 2 I - 1, so the image term is 0.5 / 4 of the other in the render.
    torch.testing.assert_close(both, 1.125 * sds, rtol=1e-3, atol=1e-5)


def test_an_objective_of_a_third_party():
    from test_check_objective import KeepsNoise

    gradient = ask(Config(objective=f"{KeepsNoise.__module__}:KeepsNoise", scale=1.0))[2]
    assert not torch.allclose(gradient, ask(Config(scale=1.0))[2])


def test_the_scale_is_the_priors_own_unless_given():
    assert ask(Config())[0].asked[0][0].shape[0] == 4  # its own is 1: no second branch
    assert ask(Config(scale=2.0))[0].asked[0][0].shape[0] == 8
    quiet, loud = ask(Config(scale=1.0))[2], ask(Config(scale=30.0))[2]
    assert loud.norm() > 2 * quiet.norm()


def test_rescale_and_clipping_reach_the_gradient():
    plain = ask(Config(scale=30.0))[2]
    scaled = ask(Config(scale=30.0, rescale=0.7))[2]
    clipped = ask(Config(scale=30.0, clip_x0=True))[2]
    assert scaled.norm() < 0.8 * plain.norm()
    assert clipped.norm() < 0.8 * plain.norm()
    assert not torch.equal(scaled, clipped)


def test_view_prompts_are_for_priors_that_know_no_cameras():
    def asked(**options) -> tuple[Text, ...]:
        mode = options.pop("mode", "auto")
        prior, _, _ = ask(Config(view_prompts=mode, negative="ugly", scale=2.0), **options)
        assert set(prior.asked[0][2].prompts) <= set(prior.prepared)  # embedded before the run
        return prior.asked[0][2].prompts

    seen = tuple(f"a cube, {side} view" for side in ("front", "side", "back", "side"))
    assert asked() == (*seen, *["ugly"] * 4)
    assert asked(camera_conditioned=True) == ("a cube",) * 4 + ("ugly",) * 4
    assert asked(camera_conditioned=True, mode="always")[:4] == seen
    assert asked(mode="never")[:4] == ("a cube",) * 4


def test_an_overflowing_view_is_dropped_and_counted():
    class Overflowing(Recorder):
        bad: tuple[int, ...] = (1,)

        def predict(self, z, t, condition):
            answer = super().predict(z, t, condition)
            for view in self.bad:
                answer.eps[view, 0, 0, 0] = torch.inf
            return answer

    output = render()
    guidance = ScoreDistillation(Config(scale=1.0), prior=Overflowing())
    signal = guidance(output, ring(4), "a cube", 0, 10, 0)
    (gradient,) = torch.autograd.grad(signal.loss, output.rgb)
    assert signal.metrics["dropped"] == 0.25
    assert torch.equal(gradient[1], torch.zeros(8, 8, 3))
    assert gradient[[0, 2, 3]].abs().amax((1, 2, 3)).min() > 0
    # If all views overflow something is broken, and the watchdog has to find it.
    Overflowing.bad = (0, 1, 2, 3)
    assert not guidance(output, ring(4), "a cube", 0, 10, 0).loss.isfinite()


@pytest.mark.parametrize("latent", [False, True])
def test_a_preview_is_decoded_when_it_is_wanted_and_only_then(latent, monkeypatch):
    decoded = []
    real = MixturePrior.decode
    monkeypatch.setattr(MixturePrior, "decode", lambda self, x: decoded.append(1) or real(self, x))
    signal = ask(Config(), step=26, latent=latent, total=100)[1]
    assert not decoded
    assert signal.preview is not None
    assert signal.preview().shape == (8, 4 * 8, 3)
    assert decoded == [1]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"objective": "sdss"}, "did you mean 'sds'"),
        ({"t": [0.5, 0.2]}, r"inside \[0, 1\]"),
        (
            {"t": {"from": [0.1, 0.9], "to": [0.1, 1.2]}},
            "t holds 1.2; every number of it must be between 0 and 1",
        ),
        ({"rescale": 2}, r"^guidance\.0\.rescale is 2; it must be between 0 and 1"),
        ({"group": -1}, r"^guidance\.0\.group is -1; it must be at least 0"),
        ({"prior": {"pth": "x"}}, "did you mean"),
        ({"scale": "big"}, "scale"),
        ({"objective": "ism", "options": {"delta_tt": 0.1}}, "did you mean 'options.delta_t'"),
        ({"objective": "nowhere:Objective"}, "cannot import 'nowhere:Objective'"),
        ({"objective": "csd", "rescale": 0.5}, "rescale has no effect on the objective 'csd'"),
        ({"objective": "nfsd", "clip_x0": True}, "clip_x0 has no effect on the objective 'nfsd'"),
        ({"scale": 1.0, "rescale": 0.5}, "rescale has no effect at scale 1"),
        (
            {"objective": "csd", "negative": "blurry"},
            "negative has no effect on the objective 'csd' with these options",
        ),
        (
            {"objective": "csd", "options": {"null": -1.0}},
            "unknown key 'options.null'",
        ),
        ({"scale": float("nan")}, r"^guidance\.0\.scale is nan; it must be a finite number"),
        (
            {"scale": {"from": 3.0, "to": float("nan")}},
            "scale holds nan; every number of it must be a finite",
        ),
        (
            {"scale": {0: 3.0, 0.5: float("inf")}},
            "scale holds inf; every number of it must be a finite number",
        ),
        ({"rescale": float("nan")}, "rescale is nan; it must be between 0 and 1"),
        ({"t": [0.02, float("nan")]}, "t holds nan; every number of it must be between 0 and 1"),
        ({"t": {0: [0.02, 0.98], 0.333: [0.9, 0.1], 0.338: [0.02, 0.5]}}, r"got \[0.9, 0.1\]"),
        (
            {"perp_neg": {"from": 1.0, "to": float("nan")}},
            "perp_neg holds nan; every number of it must be at least",
        ),
        (
            {"objective": "hifa", "options": {"image": float("inf")}},
            "0.options.image is inf; it must be at least 0",
        ),
        (
            {"objective": "ism", "options": {"delta_t": {"from": 0.1, "to": float("nan")}}},
            "delta_t holds nan; every number of it must be greater than 0 and at most 1",
        ),
        (
            {"objective": "sdi", "options": {"inversion_scale": float("nan")}},
            "inversion_scale is nan; it must be a finite number",
        ),
        (
            {"objective": "csd", "options": {"negative": float("nan")}},
            "negative is nan; it must be a finite number",
        ),
        (
            {"objective": "vsd", "options": {"learning_rate": float("inf")}},
            "learning_rate is inf; it must be greater than 0",
        ),
        (
            {"reference": {"elevation": float("nan")}},
            "reference.elevation is nan; it must be between -90 and 90",
        ),
        ({"reference": {"azimuth": float("inf")}}, "reference.azimuth is inf; it must be a finite number"),
        ({"reference": {"distance": 0.0}}, "reference.distance is 0; it must be greater than 0"),
        (
            {"prior": {"lora_scale": float("nan"), "lora": "a"}},
            "lora_scale is nan; it must be a finite number",
        ),
        (
            {"prior": {"control_scale": float("nan"), "control": "a"}},
            "control_scale is nan; it must be at least 0",
        ),
        ({"prior": {"lora_scale": 0.5}}, r"^guidance\.0\.prior\.lora_scale has no effect without lora"),
        ({"prior": {"control_scale": 0.5}}, "control_scale has no effect without control"),
    ],
)
def test_a_wrong_config_is_one_line(section, expected):
    with pytest.raises(UserError, match=expected):
        typed.build(Config, section, "guidance.0")


def test_a_config_survives_the_recipe_file():
    config = typed.build(
        Config, {"t": {"from": [0.3, 0.9], "to": [0.1, 0.4]}, "scale": {"from": 9, "to": 3}}, "g"
    )
    assert typed.build(Config, typed.plain(config), "g") == config
    assert typed.build(Config, typed.plain(Config()), "g").scale is None


def test_clipping_latents_is_refused():
    with pytest.raises(UserError, match="works on latents"):
        ScoreDistillation(Config(clip_x0=True), prior=Recorder(latent=True))


@pytest.mark.parametrize("kind", ["sd1", "sd2", "if", "cameras"])
def test_a_step_with_each_kind_of_pipeline(pipelines, kind):
    guidance = ScoreDistillation(Config(prior=PriorConfig(path=str(pipelines[kind]))))
    output = render(16)
    signal = guidance(output, ring(4, 16), "a red cube", 0, 10, 0)
    (gradient,) = torch.autograd.grad(signal.loss, output.rgb)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.99
    assert guidance.prior.default_scale == {"sd1": 100.0, "sd2": 100.0, "if": 20.0, "cameras": 4.0}[kind]
