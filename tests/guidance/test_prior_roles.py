"""What priors declare of themselves, and what holds for priors that declare nothing."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import ring

from threedgen.core.errors import UserError
from threedgen.guidance.priors.analytic import DiscPrior, MixturePrior, Rewritten
from threedgen.guidance.priors.base import Condition, Prior, PriorRoles, WrappedPrior, roles_of
from threedgen.guidance.priors.load import load_folder

NAMES = ("image_condition", "reads_text", "needs_cameras", "frames", "latent_frames")


class Foreign:
    """A prior of a third party, with the contract and nothing else; its `frames` are not declared."""

    image_size, latent, camera_conditioned, default_scale = 8, False, True, 3.0
    frames = 7

    def __init__(self) -> None:
        self._inner = DiscPrior(8)
        self.encode, self.decode = self._inner.encode, self._inner.decode
        self.alpha, self.sigma, self.add_noise = self._inner.alpha, self._inner.sigma, self._inner.add_noise
        self.predict, self.prepare = self._inner.predict, self._inner.prepare


class Clips(MixturePrior):
    """A prior of clips that needs a picture and its cameras."""

    image_condition = "reference"
    reads_text, needs_cameras = False, True
    frames, latent_frames = 5, 2

    def __init__(self) -> None:
        super().__init__(lambda asked: torch.zeros(len(asked), 1, 4, 4, 3), [0.5], 4, camera_conditioned=True)


def declared(roles: PriorRoles) -> dict[str, object]:
    return {name: getattr(roles, name) for name in NAMES}


def test_a_prior_that_inherits_nothing_has_the_defaults():
    prior = Foreign()
    assert isinstance(prior, Prior)
    roles = roles_of(prior)
    assert declared(roles) == {
        "image_condition": "none",
        "reads_text": True,
        "needs_cameras": False,
        "frames": 1,
        "latent_frames": 0,
    }
    with pytest.raises(UserError, match="needs a prior that can be adapted"):
        roles.particle_model("auto", 4, 0)


def test_a_prior_that_inherits_the_roles_declares_them_itself():
    for prior in (Clips(), DiscPrior(8)):
        assert roles_of(prior) is prior


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sd1", {"image_condition": "none", "reads_text": True, "frames": 1}),
        ("edit", {"image_condition": "pictures", "reads_text": True}),
        ("if2", {"image_condition": "render"}),
        ("zero123", {"image_condition": "reference", "reads_text": False, "needs_cameras": True}),
        ("mvdream", {"image_condition": "none", "needs_cameras": True}),
    ],
)
def test_adapters_declare_what_they_need(pipelines, kind, expected):
    prior = load_folder(pipelines[kind])
    assert roles_of(prior) is prior
    assert expected.items() <= declared(prior).items()


@pytest.mark.parametrize("make", [Clips, Foreign, lambda: DiscPrior(8)])
def test_a_wrapped_prior_passes_everything_on(make):
    inner = make()
    prior = WrappedPrior(inner)
    assert isinstance(prior, Prior)
    assert declared(prior) == declared(roles_of(inner))
    for name in ("image_size", "latent", "camera_conditioned", "default_scale"):
        assert getattr(prior, name) == getattr(inner, name)
    images = torch.rand(2, 8, 8, 3)
    x, t = inner.encode(images), torch.tensor([0.2, 0.7])
    condition = Condition(("a", "b"), cameras=ring(2))
    assert torch.equal(prior.encode(images), x)
    assert torch.equal(prior.decode(x), inner.decode(x))
    z = inner.add_noise(x, torch.ones_like(x), t)
    assert torch.equal(prior.add_noise(x, torch.ones_like(x), t), z)
    assert torch.equal(prior.predict(z, t, condition).eps, inner.predict(z, t, condition).eps)


def test_a_rewritten_prior_keeps_the_roles_and_adapts_the_prior_behind_it():
    prior = Rewritten(Clips(), "flow")
    assert declared(prior) == declared(Clips())
    model = Rewritten(DiscPrior(8), "flow").particle_model("copy", 4, 0)
    x, t = torch.zeros(1, 3, 8, 8), torch.tensor([0.5])
    assert model.denoising_loss(x, torch.ones_like(x), t, Condition(("",))).requires_grad
