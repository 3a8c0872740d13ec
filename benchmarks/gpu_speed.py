"""Milliseconds of a picture and its gradients on a device, beside those of the CPU of the same machine."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_blocks import Block, Place

from threedgen.cameras.orbit import orbit
from threedgen.renderers.mesh import MeshRenderer
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.renderers.volume import VolumeRenderer
from threedgen.representations.gaussians import Gaussians
from threedgen.representations.triplane import Triplane

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import mesh_scenes  # pyright: ignore[reportMissingImports]


def speed(place: Place) -> Block:
    """The default Gaussians, the default field and a mesh, four views at a time, with what `auto` takes."""
    block, side = Block(), 16 if place.small else 128
    for device in dict.fromkeys((place.device, "cpu")):
        here = Place(device, place.small, place.work)
        for name, once in _scenes(device, side).items():
            seconds = _timed(once, here)
            block.measured[f"{name} on {device}, ms"] = round(1e3 * seconds, 2)
            block.must(seconds > 0.0, f"{name}: no time was measured")
    for name in ("Gaussians", "field", "mesh") if place.on_gpu else ():
        own, cpu = (block.measured[f"{name} on {device}, ms"] for device in (place.device, "cpu"))
        block.measured[f"{name}: times as fast as the CPU"] = round(cpu / own, 1)
    return block


def _scenes(device: str, side: int) -> dict[str, Callable[[], Any]]:
    angles = torch.arange(4) * 90.0
    cameras = orbit(angles, torch.full((4,), 15.0), torch.full((4,), 2.8), 40.0, side, side).to(device)
    white = torch.ones(3, device=device)
    cloud = Gaussians(Gaussians.Config()).to(device)
    field = Triplane(Triplane.Config()).to(device)
    body = mesh_scenes.ball(4)
    mesh = type(body)(
        body.vertices.to(device).requires_grad_(), body.faces.to(device), body.vertex_colors.to(device)
    )
    pairs = {
        "Gaussians": (SplattingRenderer(), cloud.at),
        "field": (VolumeRenderer(), field.at),
        "mesh": (MeshRenderer(), lambda: mesh),
    }
    return {
        name: lambda renderer=renderer, at=at: renderer(at(), cameras, white).rgb.sum().backward()
        for name, (renderer, at) in pairs.items()
    }


def _timed(once: Callable[[], Any], place: Place) -> float:
    """The median seconds of a call, after one that is not counted."""
    seconds = []
    for _ in range(3 if place.small else 12):
        began = place.now()
        once()
        seconds.append(place.now() - began)
    return statistics.median(seconds[1:])
