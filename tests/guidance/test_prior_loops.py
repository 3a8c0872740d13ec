"""Three steps of the loop with each kind of prior, and with two priors together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tiny_pipelines import KINDS

from threedgen.cameras.orbit import OrbitSampler
from threedgen.core.errors import UserError
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.prompting.image_conditions import ReferenceConfig, read_reference
from threedgen.guidance.score_distillation import ScoreDistillation
from threedgen.loop.distill import distill
from threedgen.loop.events import StepDone
from threedgen.recipes import typed
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations.gaussians import Gaussians


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "front.png"
    iio.imwrite(file, np.random.default_rng(0).integers(0, 255, (24, 24, 4), dtype=np.uint8))
    return file


def guidance(pipelines, kind: str, **section: Any) -> ScoreDistillation:
    prior: dict[str, Any] = {"path": str(pipelines["sd1" if kind == "controlnet" else kind])}
    if kind == "controlnet":
        prior["control"] = str(pipelines["controlnet"])
    values = {"prior": prior, **section}
    return ScoreDistillation(typed.build(ScoreDistillation.Config, values, "guidance.0"))


def run(guidances: list[ScoreDistillation], weights: list[float] | None = None) -> tuple[Any, list[StepDone]]:
    scene = Gaussians(Gaussians.Config(count=64))
    cameras = OrbitSampler(OrbitSampler.Config(batch=4, resolution=16))
    renderer = SplattingRenderer(SplattingRenderer.Config())
    done: list[StepDone] = []

    def listen(event: Any) -> None:
        if isinstance(event, StepDone):
            done.append(event)

    state = distill(
        scene,
        renderer,
        cameras,
        guidances,
        "a red cube",
        steps=3,
        seed=0,
        listeners=[listen],
        weights=weights,
    )
    return state, done


def section_for(kind: str, picture: Path) -> dict[str, Any]:
    if kind == "zero123":
        return {"reference": {"image": str(picture), "elevation": 5.0}}
    return (
        {"pictures": "depth" if kind == "controlnet" else "render"} if kind in ("controlnet", "edit") else {}
    )


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "zero123plus"]
)  # refused, see its own tests
def test_three_steps(pipelines, kind, picture):
    guide = guidance(pipelines, kind, **section_for(kind, picture))
    start = Gaussians(Gaussians.Config(count=64)).state_dict()
    state, done = run([guide])
    assert len(done) == 3
    ends = state.scene.state_dict()
    assert all(value.isfinite().all() for value in ends.values())
    assert any(not torch.equal(start[name], ends[name]) for name in start)


def test_two_priors_in_one_run_are_a_weighted_sum(pipelines):
    """The gradient is the weighted sum of both, so with a weight of 0 the run is bitwise that of the other
    prior."""
    both = [guidance(pipelines, "sd1"), guidance(pipelines, "if")]
    alone, _ = run(both[:1])
    muted, _ = run(both, [1.0, 0.0])
    mixed, _ = run(both, [1.0, 2.0])
    first = alone.scene.state_dict()
    assert all(torch.equal(first[name], value) for name, value in muted.scene.state_dict().items())
    assert any(not torch.equal(first[name], value) for name, value in mixed.scene.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "section", "expected"),
    [
        ("zero123", {}, "name it with --prior of image-to-3d, .* set reference.image to a file"),
        ("edit", {}, "set pictures to render, depth, normal"),
        ("controlnet", {}, "set pictures to render, depth, normal"),
        ("sd1", {"pictures": "render"}, "uses no pictures"),
        ("sd1", {"reference": {"image": "x.png"}}, "image-to-3d needs a view-conditioned model as --prior"),
        ("zero123", {"reference": {"image": "nowhere.png"}}, "there is no reference picture 'nowhere.png'"),
        (
            "zero123",
            {"negative": "ugly", "perp_neg": 1.0},
            "reads no text, .* leave negative and perp_neg out",
        ),
        ("zero123", {"view_prompts": "always"}, "reads no text, .* leave view_prompts out"),
        ("sd1", {"reference": {"azimuth": 40.0}}, "uses no reference"),
        ("if2", {"pictures": "depth"}, "sharpens the render itself, not 'depth'"),
        ("edit", {"pictures": "nowhere"}, "no pictures at 'nowhere'"),
        ("zero123", {"reference": {"imge": "x.png"}}, r"did you mean 'guidance.0.reference.image'"),
    ],
)
def test_pictures_that_are_missing_or_not_read(pipelines, kind, section, expected):
    with pytest.raises(UserError, match=expected):
        guidance(pipelines, kind, **section)


def test_a_reference_is_on_white_and_square(pipelines, tmp_path):
    file = tmp_path / "half.png"
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:4] = (255, 0, 0, 255)
    iio.imwrite(file, pixels)
    guide = guidance(pipelines, "zero123", reference={"image": str(file)})
    reference = guide._conditions._pictures._reference
    assert reference is not None
    torch.testing.assert_close(reference.image[0, 0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(reference.image[7, 0], torch.ones(3))
    iio.imwrite(file, pixels[:4])
    with pytest.raises(UserError, match="8 x 4 pixels: crop it to a square"):
        guidance(pipelines, "zero123", reference={"image": str(file)})


def test_a_reference_that_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    iio.imwrite(tmp_path / "large.png", np.zeros((64, 64, 3), dtype=np.uint8))
    monkeypatch.setattr("threedgen.datasets.picture.MOST_PIXELS", 1000)
    monkeypatch.setattr(iio, "imread", lambda path: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"large.png' has 64 x 64 pixels, at most"):
        read_reference(ReferenceConfig(image=str(tmp_path / "large.png")))


def test_options_belong_to_the_kind_of_model(pipelines):
    for kind, options, expected in [
        ("sd1", {"guidance": 2.0}, "options.guidance"),
        ("flux", {"guidence": 2.0}, "did you mean 'options.guidance'"),
        ("flux", {"guidance": float("nan")}, "options.guidance is nan; it must be a finite number"),
        ("flux-schnell", {"guidance": 9.0}, "no embedded guidance .FLUX.1-schnell."),
        ("edit", {"image": float("nan")}, "options.image is nan; it must be at least 0"),
        ("if2", {"noise_level": 1000}, "between 0 and 999"),
        ("zero123", {"pose": "radius"}, "stable-zero123"),
    ]:
        with pytest.raises(UserError, match=expected):
            guidance(pipelines, kind, prior={"path": str(pipelines[kind]), "options": options})
    assert PriorConfig().options == {}


def test_settings_of_a_model_beside_the_closed_form_prior():
    for name, value in (
        ("lora", "a.safetensors"),
        ("dtype", "float32"),
        ("options", {"a": 1}),
        ("memory", 8.0),
    ):
        with pytest.raises(UserError, match=f"'disc' has no weights, so {name} has no effect"):
            load_prior(replace(PriorConfig(name="disc"), **{name: value}))
    assert not load_prior(PriorConfig(name="disc")).latent
