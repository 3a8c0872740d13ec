"""A tiny NerfDiff and a known object for it, for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.png import write_png
from threedgen.core.types import Cameras
from threedgen.datasets import world
from threedgen.datasets.multiview import PosedPictures
from threedgen.nerfdiff.model import NerfDiffArchitecture, NerfDiffModel
from threedgen.nerfdiff.source import Source
from threedgen.nerfdiff.virtual_views import around

SIZE = 16
TINY = NerfDiffArchitecture(size=SIZE, features=4, hidden=16, planes=(8, 16), denoiser=(8, 16))


def tiny_model(seed: int = 0) -> NerfDiffModel:
    torch.manual_seed(seed)
    return NerfDiffModel(TINY).requires_grad_(False).eval()


def source_camera() -> Cameras:
    return orbit(torch.tensor([30.0]), torch.tensor([20.0]), torch.tensor([2.85]), 40.0, SIZE, SIZE)


def seen(cameras: Cameras, shape: str = "cube", color: str = "red") -> PosedPictures:
    images, alpha = world.render(world.canonical(shape, color), cameras)
    return PosedPictures(images.clamp(0.0, 1.0), alpha, cameras)


def cube_source(model: NerfDiffModel | None = None) -> Source:
    camera = source_camera()
    return Source.of(model or tiny_model(), seen(camera).images, camera)


def virtual(count: int) -> Cameras:
    return around(source_camera(), count, (0.0, 50.0))


def write_cut_out(path: Path, pictures: PosedPictures) -> Path:
    """The first picture as a file with transparency."""
    rgba = torch.cat([pictures.images, pictures.alpha], dim=-1)[0]
    return write_png(path, (rgba * 255.0).round().byte().numpy())
