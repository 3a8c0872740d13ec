"""The conformance kit on components that break a law, one component for each law."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from primitives import cloud, field, mesh
from torch import nn

from threedgen.core import plugins
from threedgen.core.random import generator
from threedgen.core.types import GaussianCloud, RadianceField, RenderOutput, Signal, TriMesh
from threedgen.testing import check_guidance, check_renderer, check_representation
from threedgen.testing import guidances as kit_guidances
from threedgen.testing import renderers as kit_renderers
from threedgen.testing.common import views


class Grid(nn.Module):
    """A radiance field of one number and one colour; each flag breaks one law."""

    @dataclass(frozen=True)
    class Config:
        broken: str = ""

    renderer = "volume"

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        self.broken = config.broken
        rng = None if self.broken == "global randomness" else generator(seed, "grid", 0)
        self.density = nn.Parameter(2.0 + torch.rand(1, generator=rng))
        self.color = nn.Parameter(torch.rand(3, generator=generator(seed, "grid", 1)))
        self.unused = nn.Parameter(torch.zeros(2))
        self.count = 0
        if self.broken == "determinism":
            self.density.data += id(self) % 997

    def at(self, time=None):
        def query(points, directions):
            density = self.density.abs() * (1.0 + 0.0 * points[:, 0])
            if self.broken == "gradients":
                density = density + (self.density - self.density.detach()).sqrt()
            color = torch.sigmoid(self.color)
            extra = 0.0 if self.broken == "silent" else 1e-3 * self.unused.sum()
            return density, (color + extra).expand(len(points), 3)

        return RadianceField(query, torch.tensor([[-0.5] * 3, [0.5] * 3]))

    def parameter_groups(self):
        groups = {"density": [self.density], "color": [self.color], "unused": [self.unused]}
        if self.broken == "groups":
            del groups["unused"]
        if self.broken == "twice":
            groups["unused"] = [self.unused, self.color]
        return groups

    def learning_rates(self):
        rates = dict.fromkeys(self.parameter_groups(), 0.01)
        if self.broken == "rates":
            rates["colour"] = rates.pop("color")
        if self.broken == "nan rate":
            rates["color"] = float("nan")
        return rates

    def adapt(self, step, total, output, optimizer, seed):
        if self.broken == "adapt":
            self.color = nn.Parameter(self.color.detach().clone())
        if self.broken == "resume":
            self.count += 1
            with torch.no_grad():
                self.color += 0.01 * self.count
        return {}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("groups", "parameter groups: parameter unused is in no optimizer group"),
        ("twice", "parameter groups: parameter color is in 2 optimizer groups"),
        ("rates", "learning rates: groups"),
        ("nan rate", "learning rates: rates must be numbers"),
        ("determinism", "determinism: two objects made with the same seed differ"),
        ("gradients", "gradients: the gradient of 'density' is not finite"),
        ("silent", "gradients: no gradient reached 'unused'"),
        ("adapt", "adapt: 'color' was replaced in step 0"),
        ("resume", "resume: 'scene.density' differs by"),
        ("global randomness", "determinism|global randomness"),
    ],
)
def test_a_broken_representation(broken, message):
    check_representation(Grid)
    with pytest.raises(AssertionError, match=message) as error:
        check_representation(Grid, config=Grid.Config(broken=broken))
    assert "\n" not in str(error.value)


class Broken:
    """A renderer with one law broken."""

    def __init__(self, broken, name="splatting"):
        self.inner, self.broken, self.calls = plugins.find("renderer", name)(), broken, 0

    def __call__(self, primitive, cameras, background, /, rng=None):
        output = self.inner(primitive, cameras, background)
        self.calls += 1
        rgb, alpha = output.rgb, output.alpha
        if self.broken == "shapes":
            alpha = alpha[..., 0]
        elif self.broken == "alpha":
            alpha = alpha * 1.5
        elif self.broken == "background":
            rgb = rgb * 0.9
        elif self.broken == "detached":
            rgb = rgb.detach() + 0.0 * background.sum()
        elif self.broken == "views":
            rgb = rgb + 0.01 * len(cameras)
        elif self.broken == "repeats":
            rgb = rgb + 1e-6 * self.calls
        elif self.broken == "global":
            torch.rand(1)
        elif self.broken == "translation":
            rgb = rgb + 0.1 * alpha * cameras.centers[:, :1, None, None]
        elif self.broken == "types":
            rgb = rgb.double()
        return RenderOutput(rgb, alpha, *self.geometry(output, cameras))

    def geometry(self, output, cameras):
        """depth and normal"""
        depth, normal = output.depth, output.normal
        if self.broken == "depth":
            depth = 100.0 * depth
        elif self.broken == "expected depth":
            depth = depth / output.alpha.clamp_min(1e-3)
        elif self.broken == "long normals":
            normal = 7.0 * normal
        elif self.broken == "camera normals":
            normal = torch.einsum("bij,bhwj->bhwi", cameras.camera_from_world[:, :3, :3], normal)
        return depth, normal


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("shapes", "shapes: alpha is"),
        ("types", "types: rgb of a float32 primitive"),
        ("alpha", r"alpha: alpha must lie in \[0, 1\]"),
        ("background", "background: a background"),
        ("detached", "background: the gradient"),
        ("views", "background|views"),
        ("repeats", "repeats|background"),
        ("global", "global randomness: the renderer changed the global random state of torch"),
        ("translation", "translation: moving camera and object together"),
    ],
)
def test_a_broken_renderer(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_renderer(Broken(broken), cloud)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("depth", "depth: depth is not alpha x camera z"),
        ("expected depth", "depth: depth is not alpha x camera z"),
        ("long normals", "normal: a normal is longer than alpha"),
        ("camera normals", "normal: normals are not in world space"),
    ],
)
def test_a_renderer_with_broken_geometry(broken, message):
    check_renderer(Broken("", "mesh"), mesh)
    with pytest.raises(AssertionError, match=message):
        check_renderer(Broken(broken, "mesh"), mesh)


@pytest.mark.parametrize("make", [cloud, field, mesh])
def test_a_turned_primitive_is_the_same_to_turned_cameras(make):
    scene, cameras = make(), views()
    if isinstance(scene, GaussianCloud):
        scene = replace(scene, sh=scene.sh[:, :1])  # colours that look the same from all sides
    if isinstance(scene, RadianceField):
        cells = torch.ones(4, 4, 4, dtype=torch.bool)
        cells[3, :, :2] = False
        scene = replace(scene, occupancy=cells)
    name = {GaussianCloud: "splatting", RadianceField: "volume", TriMesh: "mesh"}[type(scene)]
    render, there = (
        plugins.find("renderer", name)(),
        replace(cameras, world_from_camera=cameras.world_from_camera[:, [2, 0, 1, 3]]),
    )
    before = render(scene, cameras, torch.ones(3)).rgb
    after = render(kit_renderers._turned(scene), there, torch.ones(3)).rgb
    assert float((after - before).abs().mean()) < 1e-4


class Guide:
    """A guidance with one law broken."""

    def __init__(self, broken=""):
        self.broken, self.calls = broken, 0
        self.model = nn.Linear(3, 1).requires_grad_(broken == "reaches")

    def __call__(self, output, cameras, prompt, step, total, seed):
        self.calls += 1
        with torch.no_grad():
            noise = torch.randn(3, generator=generator(seed, "guide", step))
        rgb = output.rgb
        if self.broken == "in place":
            with torch.no_grad():
                rgb *= 0.5
        loss = self.model(rgb - noise).square().mean()
        if self.broken == "scalar":
            loss = loss[None]
        if self.broken == "nan":
            loss = loss * float("nan")
        if self.broken == "calls":
            loss = loss * self.calls
        if self.broken == "detached":
            loss = loss.detach()
        if self.broken == "global":
            np.random.rand()  # noqa: NPY002
        if self.broken == "views":
            loss = loss * len(cameras)
        if self.broken == "first view":
            loss = self.model(rgb[:1] - noise).square().mean()
        return Signal(loss, {"x": float("inf") if self.broken == "metrics" else 1.0})


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("scalar", "gradient|loss: the loss must be a scalar"),
        ("nan", "loss: the loss is not finite"),
        ("calls", "determinism: the same step and seed"),
        ("detached", "gradient: the loss does not depend"),
        ("in place", "pictures: the guidance changed the renders"),
        ("reaches", "gradient: a gradient reached the model behind"),
        ("global", "global randomness: the guidance changed the global random state of numpy"),
        ("metrics", "metrics: 'x' is inf"),
        ("views", "views: the loss of several views"),
        ("first view", "gradient: view 1 of 3 gets no gradient"),
    ],
)
def test_a_broken_guidance(broken, message):
    torch.manual_seed(0)
    model = Guide().model.state_dict()

    def make(kind):
        guide = Guide(kind)
        guide.model.load_state_dict(model)
        return guide

    good, bad = make(""), make(broken)
    check_guidance(lambda: good, batch_independent=True)
    with pytest.raises(AssertionError, match=message):
        check_guidance(lambda: bad, batch_independent=True)


class Reaching:
    """A guidance whose loss goes through an unfrozen model, which it holds as `hold` makes it."""

    def __init__(self, hold):
        model = nn.Linear(3, 1)
        self.held, self.apply = hold(model), lambda pictures: model(pictures)

    def __call__(self, output, cameras, prompt, step, total, seed):
        return Signal(self.apply(output.rgb).square().mean())


class ReachingModule(nn.Module):
    """A guidance of the same kind that is a torch module and has the model as a submodule."""

    def __init__(self):
        super().__init__()
        self.prior = nn.Linear(3, 1)

    def forward(self, output, cameras, prompt, step, total, seed):
        return Signal(self.prior(output.rgb).square().mean())


class Holder:
    def __init__(self, model):
        self.inner = {"unet": (model,)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reaching(lambda model: [model]),
        lambda: Reaching(lambda model: {"unet": model}),
        lambda: Reaching(Holder),
        ReachingModule,
    ],
)
def test_a_guidance_that_reaches_into_its_model(make):
    guide = make()
    with pytest.raises(AssertionError, match="gradient: a gradient reached the model behind"):
        check_guidance(lambda: guide)
    for module in [guide] if isinstance(guide, nn.Module) else kit_guidances._modules(guide, 3, set()):
        module.requires_grad_(False)
    check_guidance(lambda: guide)
