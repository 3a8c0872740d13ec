"""Tiny components of a third party, which recipes name as fake_parts:Class. They subclass no class of threedgen."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.schedule import Schedule, value_at
from threedgen.core.types import RenderOutput, Signal


@dataclass(frozen=True)
class Nested:
    rate: float = 0.1
    kind: Literal["plain", "noisy"] = "noisy"


class Points(nn.Module):
    """A representation: N colours, with another row every few steps."""

    renderer = "fake_parts:Averager"
    starts_from = (torch.Tensor,)

    @dataclass(frozen=True)
    class Config:
        count: int = 4
        label: str = ""
        grow_every: int = 7
        forgotten_group: bool = False
        nested: Nested = field(default_factory=Nested)

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.values = nn.Parameter(torch.rand(config.count, 3, generator=generator(seed, "points", 0)))
        self.bias = nn.Parameter(torch.zeros(3))
        if config.forgotten_group:
            self.orphan = nn.Parameter(torch.zeros(1))

    @classmethod
    def from_asset(cls, config, seed, asset):
        scene = cls(config, seed)
        scene.values = nn.Parameter(asset.clone())
        return scene

    def at(self, time=None):
        return self.values + self.bias

    def parameter_groups(self):
        return {"values": [self.values], "bias": [self.bias]}

    def learning_rates(self):
        return {"values": self.config.nested.rate, "bias": 0.01}

    def load_state_dict(self, state_dict, strict=True, assign=False):
        if len(state_dict["values"]) != len(self.values):
            self.values = nn.Parameter(torch.empty_like(state_dict["values"]))
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def adapt(self, step, total, output, optimizer, seed):
        if (step + 1) % self.config.grow_every == 0:
            old = self.values
            row = torch.rand(1, 3, generator=generator(seed, "grow", step))
            self.values = nn.Parameter(torch.cat([old.detach(), row]))
            optimizer.replace_rows(old, self.values, torch.tensor([*range(len(old)), -1]))
        return {"rows": float(len(self.values))}


class Averager:
    """A renderer: every pixel is the mean of the points."""

    @dataclass(frozen=True)
    class Config:
        size: int = 4

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, primitive, cameras, background, rng=None):
        shape = (len(cameras), self.config.size, self.config.size, 3)
        rgb = primitive.mean(0).expand(shape) + 0.01 * background.reshape(-1, 1, 1, 3)
        return RenderOutput(rgb=rgb, alpha=torch.ones(*shape[:3], 1))


class Pull:
    """A guidance that pulls the picture to noisy red. At given steps it can break the gradient, kill the
    process, or raise UserError."""

    @dataclass(frozen=True)
    class Config:
        strength: Schedule = 1.0
        nan_at: tuple[int, ...] = ()
        nan_tries: int = 1
        kill_at: int = -1
        refuse_at: int = -1

    def __init__(self, config: Config, device: str) -> None:
        self.config = config
        self.broken = 0

    def __call__(self, output, cameras, prompt, step, total, seed):
        if step == self.config.kill_at and "FAKE_KILL" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.config.refuse_at:
            raise UserError(f"the guidance refuses step {step}")
        noise = 0.1 * torch.randn(3, generator=generator(seed, "pull", step))
        target = torch.tensor([1.0, 0.0, 0.0]) + noise
        loss = value_at(self.config.strength, step, total) * (output.rgb - target).square().mean()
        if step in self.config.nan_at and self.broken < self.config.nan_tries:
            self.broken += 1
            loss = loss + (output.rgb.sum() * 0.0) / 0.0
        return Signal(loss, {"noise": noise.norm().item()})


RECIPE = """
steps: 40
representation: {name: "fake_parts:Points"}
renderer: {name: "fake_parts:Averager"}
cameras: {batch: 2, resolution: 4}
guidance:
  - {name: "fake_parts:Pull"}
checkpoint: {every: 10}
"""

REAL_RECIPE = """
steps: 40
representation: {name: gaussians, count: 150}
renderer: {name: splatting}
cameras: {batch: 2, resolution: 16}
guidance:
  - {name: score-distillation, prior: {name: disc}, t: {from: [0.3, 0.98], to: [0.02, 0.4]}}
  - {name: "fake_parts:Pull"}
checkpoint: {every: 10}
export: {mesh: {resolution: 24}, turntable: {frames: 2, size: 32}}
"""
