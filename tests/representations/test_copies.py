"""Every built-in representation can be copied with its caches, and its Config can be sent to another process."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from splatting_scenes import random_cloud
from torch import Tensor

from threedgen.core import plugins
from threedgen.core.types import Frames, RadianceField
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat import write_splats
from threedgen.recipes import typed

# They need a trained model: tests/nerfdiff, tests/testing.
ELSEWHERE = {"camera-triplane", "normal-mesh", "reconstructed", "scene-sample"}
SMALL: dict[str, dict[str, Any]] = {
    "gaussians": {"count": 30, "sh_degree": 1, "scales": [0.01, 0.2]},
    "dynamic-gaussians": {
        "deformation": {"width": 8, "turns": True},
        "trajectory": {"degree": 1, "terms": 1},
        "after": {"run": "gone", "overlap": 0.25},
        "regularizers": {"rigidity": {"from": 1.0, "to": 0.0}, "handover": 2.0},
        "closing": 0.25,
    },
    "triplane": {"resolution": 8, "channels": 4, "hidden": 8, "occupancy": {"resolution": 8}},
    "mesh": {"subdivisions": 1, "smoothness": 3.0},
    "tetrahedra": {"resolution": 8, "level": 2.0},
}
TIMES = torch.tensor([0.4, 1.0])


@pytest.fixture(params=sorted(set(plugins.BUILTIN["representation"]) - ELSEWHERE))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[type[Any], Any]:
    """The class and a small Config of each, built as a recipe builds it."""
    values = dict(SMALL[request.param])
    if request.param == "dynamic-gaussians":
        write_splats(tmp_path / "asset.ply", SplatParameters.from_cloud(random_cloud(20)))
        values["asset"] = str(tmp_path / "asset.ply")
    cls = plugins.find("representation", request.param)
    return cls, typed.build(cls.Config, values, "representation")


def tensors(scene: Any) -> list[Tensor]:
    """What the primitive is made of, differentiable."""
    primitive = scene.at(TIMES)
    if isinstance(primitive, RadianceField):
        points = torch.linspace(-0.8, 0.8, 30).reshape(10, 3)
        return list(primitive.query(points, points))
    frames = primitive.frames if isinstance(primitive, Frames) else (primitive,)
    values = [value for frame in frames for value in vars(frame).values()]
    return [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]


def use(scene: Any) -> None:
    """One step of a loop, after which every cache is filled and the parameters have moved."""
    loss, _ = scene.penalty(scene.at(TIMES), 0, 10)
    loss = loss + sum(value.square().sum() for value in tensors(scene))
    torch.as_tensor(loss).backward()
    with torch.no_grad():
        for parameter in scene.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad.sign()


def test_a_copy_is_the_same_scene_and_shares_nothing_that_changes(made: tuple[type[Any], Any]) -> None:
    cls, config = made
    scene = cls(config, 3)
    use(scene)
    twin = copy.deepcopy(scene)
    before = [value.detach().clone() for value in tensors(scene)]
    for value, same in zip(before, tensors(twin), strict=True):
        assert torch.equal(value, same)
    use(twin)
    for value, same in zip(before, tensors(scene), strict=True):
        assert torch.equal(value, same)
    assert any(not torch.equal(value, moved) for value, moved in zip(before, tensors(twin), strict=True))


def test_a_config_survives_pickling_and_makes_the_same_scene(made: tuple[type[Any], Any]) -> None:
    cls, config = made
    back = pickle.loads(pickle.dumps(config))
    assert back == config
    first, second = cls(config, 3).state_dict(), cls(back, 3).state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
