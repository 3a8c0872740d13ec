"""Animated GLBs and films: the mesh follows the motion, and other software reads the file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_gltf import icosphere, issues

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.types import GaussianCloud
from threedgen.export import animation
from threedgen.export.animation import Animation, Timing, animated, film
from threedgen.export.gltf import read_glb, write_glb
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations import deformation
from threedgen.representations.dynamic_gaussians import Config, DynamicGaussians


def rest(count: int = 300) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator(0, "rest", 0)), dim=1)


def shifted(timing: Timing) -> torch.Tensor:
    """All points are displaced by (1, 2, 3) at the end."""
    return rest() + timing.moments()[:, None, None] * torch.tensor([1.0, 2.0, 3.0])


def bouncing() -> Animation:
    timing = Timing(seconds=1.0, fps=6.0)
    return animated(icosphere(), rest(), shifted(timing), timing)


def arrays(path: Path) -> tuple[dict, list[np.ndarray]]:
    """The JSON of a GLB and the numbers of its accessors."""
    raw = path.read_bytes()
    length = struct.unpack_from("<I", raw, 12)[0]
    document, data = json.loads(raw[20 : 20 + length]), raw[20 + length + 8 :]
    found = []
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        kind = np.dtype("<u4" if accessor["componentType"] == 5125 else "<f4")
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
        found.append(
            np.frombuffer(data, kind, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)
        )
    return document, found


def test_the_frames_of_a_file_are_those_of_the_motion(tmp_path):
    motion = bouncing()
    assert len(motion.times) == 7
    torch.testing.assert_close(motion.times, torch.linspace(0.0, 1.0, 7))
    document, numbers = arrays(write_glb(tmp_path / "a.glb", icosphere(), {"prompt": "it"}, motion))
    primitive = document["meshes"][0]["primitives"][0]
    (clip,) = document["animations"]
    (sampler,) = clip["samplers"]
    times, weights = numbers[sampler["input"]][:, 0], numbers[sampler["output"]].reshape(7, 6)
    assert np.all(np.diff(times) > 0.0)
    base = numbers[primitive["attributes"]["POSITION"]]
    targets = np.stack([numbers[target["POSITION"]] for target in primitive["targets"]])
    for frame in range(7):
        seen = base + np.tensordot(weights[frame], targets, 1)
        np.testing.assert_allclose(seen, motion.vertices[frame].numpy(), atol=1e-5)
    half = base + np.tensordot(0.5 * (weights[2] + weights[3]), targets, 1)  # what a viewer shows in between
    np.testing.assert_allclose(half, (0.5 * (motion.vertices[2] + motion.vertices[3])).numpy(), atol=1e-5)
    accessor = document["accessors"][sampler["input"]]
    assert accessor["min"] == [0.0]
    assert accessor["max"] == [1.0]


def test_the_mesh_of_an_animated_file_can_be_read(tmp_path):
    mesh = icosphere()
    back, extras = read_glb(write_glb(tmp_path / "a.glb", mesh, {"seed": 1}, bouncing()))
    assert torch.equal(back.vertices, mesh.vertices)
    assert extras == {"seed": 1}


def test_the_khronos_validator_finds_nothing_in_an_animation(tmp_path):
    found = issues(write_glb(tmp_path / "a.glb", icosphere(), {"prompt": "it"}, bouncing()))
    assert (found["numErrors"], found["numWarnings"]) == (0, 0), found["messages"]


def test_a_film_shows_the_motion_and_ends_before_the_first_frame_comes_again():
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(300, 1)
    cloud = GaussianCloud(
        0.4 * rest(), quats, torch.full((300, 3), 0.05), torch.full((300,), 0.9), torch.zeros(300, 1, 3)
    )
    scene = DynamicGaussians(Config(deformation=deformation.Config(kind="fourier", terms=1)), 0, cloud)
    coefficients: Any = scene.field.coefficients
    with torch.no_grad():
        coefficients[3] = torch.tensor([0.0, 0.8, 0.0])  # up and down with the sine
    frames = list(film(SplattingRenderer(), scene, animation.Config(1.0, 8.0, azimuth=0.0), 48))
    assert len(frames) == 8
    rows = np.arange(48.0)[:, None]
    heights = [float((rows * (frame[..., 0] < 200)).sum() / (frame[..., 0] < 200).sum()) for frame in frames]
    assert heights[2] < heights[0] - 4.0
    assert heights[6] > heights[0] + 4.0
    assert heights[0] == pytest.approx(heights[4], abs=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0.0}, "fps is 0; it must be greater than 0 and at most 240"),
        ({"fps": float("nan")}, "fps is nan; it must be greater than 0 and at most 240"),
        ({"seconds": -1.0}, "seconds is -1; it must be greater than 0"),
        ({"seconds": float("inf")}, "seconds is inf; it must be greater than 0"),
        (
            {"seconds": 0.01},
            "0.01 seconds at 24 frames per second are a single frame, in which nothing moves",
        ),
        ({"seconds": 100.0, "fps": 60.0}, "100 seconds at 60 frames per second are more than 5000 frames"),
    ],
)
def test_impossible_times_are_refused(settings, message):
    with pytest.raises(UserError, match=f"^{message}"):
        Timing(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turn": float("inf")}, "turn is inf; it must be a finite number"),
        ({"azimuth": float("nan")}, "azimuth is nan; it must be a finite number"),
        ({"radius": 0.0}, "radius is 0; it must be greater than 0"),
        ({"fps": 0.0}, "fps is 0; it must be greater than 0 and at most 240"),
        ({"seconds": 0.01}, "0.01 seconds at 24 frames per second are a single frame"),
    ],
)
def test_impossible_cameras_are_refused(settings, message):
    with pytest.raises(UserError, match=f"^{message}"):
        animation.Config(**settings)


def test_only_a_loop_leaves_out_its_last_moment():
    timing = Timing(1.0, 4.0)
    assert timing.shown().tolist() == [0.0, 0.25, 0.5, 0.75]
    assert Timing(1.0, 4.0, loop=False).shown().tolist() == timing.moments().tolist()
