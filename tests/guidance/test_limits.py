"""The ends of t, where a flow has no noise or no signal: finite if there is a limit, else refused."""

from __future__ import annotations

import pytest
import torch
from test_objectives import SIZE, image, noise

from threedgen.core.errors import UserError
from threedgen.guidance.objectives.base import Question, find_objective, require_limits, weight_function
from threedgen.guidance.priors.analytic import MixturePrior, by_prompt
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.processes import FlowSchedule, NoiseSchedule
from threedgen.guidance.score_distillation import ScoreDistillation


@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("schedule", [FlowSchedule(3.0), NoiseSchedule.scaled_linear()])
@pytest.mark.parametrize("name", ["sds", "recon", "hifa", "sdi", "flow", "csd", "nfsd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_is_finite_where_no_noise_or_no_signal_is_left(name, schedule, level, dtype):
    """The limit of recon is x - x0_hat at both ends, although its formula gives 0 times infinity."""
    prior = MixturePrior(by_prompt({"cube": image(1), "": image(2)}), [0.4], SIZE, schedule=schedule)
    x, t = noise(1, 1, 3, SIZE, SIZE).to(dtype), torch.tensor([level], dtype=dtype)
    kind = find_objective(name)
    weighting = weight_function(kind.weighting)
    rescale = 0.5 if name == "sds" else 0.0
    require_limits(
        prior, (level, level), weighting, plain=not kind.divides, divided=kind.divides or rescale > 0.0
    )
    question = Question(
        prior,
        x,
        noise(2, *x.shape).to(dtype),
        t,
        Condition(("cube",)),
        scale=3.0,
        weighting=weighting,
        rescale=rescale,
        images=image(3).to(dtype).unsqueeze(0),
    )
    answer = kind(kind.Config(), prior)(question)
    assert answer.gradient.isfinite().all()
    assert answer.image_gradient is None or bool(answer.image_gradient.isfinite().all())
    if name == "recon":
        torch.testing.assert_close(answer.gradient, x - answer.x0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "level", "options"),
    [
        ("ism", 1.0, {}),
        ("sjc", 0.0, {}),
        ("sds", 1.0, {"weighting": "recon"}),
        ("sds", 0.0, {"weighting": "uniform", "rescale": 0.5}),
    ],
)
def test_a_weight_without_a_limit_is_refused_before_the_run(name, level, options):
    flow = MixturePrior(by_prompt({"cube": image(1)}), [0.4], SIZE, schedule=FlowSchedule())
    section = {"objective": name, "scale": 3.0, **options}
    side = "above 0" if level == 0.0 else "below 1"
    for times in ((level, level), (0.5, {0: 0.6, 0.5: 1.0}) if level else ({0: 0.5, 0.5: 0.0}, 0.6)):
        with pytest.raises(UserError, match=rf"^t reaches {level:g}, .* keep t {side}"):
            ScoreDistillation(ScoreDistillation.Config(**section, t=times), prior=flow)
    ScoreDistillation(ScoreDistillation.Config(**section, t=(0.02, 0.98)), prior=flow)
    stable = MixturePrior(by_prompt({"cube": image(1)}), [0.4], SIZE)
    ScoreDistillation(ScoreDistillation.Config(**section, t=(0.0, 1.0)), prior=stable)
