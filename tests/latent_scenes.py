"""Small sets of objects, and trainings of them that take milliseconds, for tests."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from threedgen.datasets.objects import ObjectSet, open_objects
from threedgen.recipes.layers import merge
from threedgen.ssdnerf.config import Config, config_of
from threedgen.ssdnerf.distributed import World
from threedgen.ssdnerf.model import LatentModel
from threedgen.ssdnerf.posed_objects import PosedObjects, pack
from threedgen.ssdnerf.trainer import Trainer

SIZE, VIEWS = 16, 4
# Processes with CUDA cannot be forked; without it, a fork need not load everything again.
CONTEXT: Any = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
TINY: dict[str, Any] = {
    "steps": 6,
    "batch": 2,
    "inner": 3,
    "rays": 48,
    "warmup": 1,
    "rates": 1.0,
    "fidelity": 1.0,
    "precision": "fp32",
    "codes": {"channels": 2, "resolution": 8, "initial": 0.1, "learning_rate": 0.02},
    "decoder": {"hidden": 8, "directions": False},
    "diffusion": {"widths": [8, 16], "attention": [False, False], "layers": 1, "head": 8},
    "rendering": {"samples": 16, "cells": 8, "threshold": 0.5},
}


def tiny(**changes: Any) -> Config:
    """The settings of TINY with changes, whose sections are merged into those of TINY."""
    return config_of(merge(TINY, changes))


def settings(changes: Mapping[str, Any], path: str = "") -> list[str]:
    """The same as key=value, for command lines."""
    found = []
    for key, value in changes.items():
        if isinstance(value, Mapping):
            found += settings(value, f"{path}{key}.")
        else:
            found.append(f"{path}{key}={str(value).lower() if isinstance(value, bool | list) else value}")
    return found


def some_model(words: Sequence[str] = (), **changes: Any) -> LatentModel:
    """An untrained model whose denoiser predicts something and whose decoder shows something."""
    model = LatentModel(tiny(**changes), words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torch.nn.init.normal_(model.denoiser.unet.conv_out.weight, std=0.1)
        torch.nn.init.normal_(model.decoder.density.weight, std=2.0)
    return model.requires_grad_(False).eval()


def cars(count: int = 4) -> ObjectSet:
    return open_objects("shape-world:car", count, SIZE, "train", views=VIEWS)


def made(folder: Path, count: int = 4) -> PosedObjects:
    """Packed cars of the shape world."""
    return pack(cars(count), folder)


def trainer(
    config: Config, objects: PosedObjects, folder: Path, steps: int = 0, world: World | None = None
) -> Trainer:
    """A trainer that has done `steps` steps."""
    made = Trainer(config, objects, folder, world=world)
    for _ in range(steps):
        made.train_step()
    return made


def state(of: Trainer) -> dict[str, torch.Tensor]:
    """The whole state of a training: networks, averages, moments, and records of all objects."""
    from threedgen.training.optimizer_state import moments

    found = {f"networks.{name}": value.clone() for name, value in of.networks.state_dict().items()}
    found |= {f"averages.{name}": value.clone() for name, value in of.averages.state_dict().items()}
    for name, optimizer in of.optimizers.items():
        found |= {f"{name}.{key}": value.clone() for key, value in moments(optimizer).items()}
    records = of.bank.read(range(of.bank.count))
    found |= {f"records.{name}": value for name, value in vars(records).items()}
    found["step"] = torch.tensor(of.step)
    return found


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
