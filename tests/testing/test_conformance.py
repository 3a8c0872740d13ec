"""The conformance kit on the built-in components."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dfm_scenes import tiny_field
from nerfdiff_scenes import seen, source_camera, tiny_model, write_cut_out
from primitives import cloud, field, mesh

from threedgen.cameras.orbit import orbit
from threedgen.cameras.reference import ReferenceOrbit
from threedgen.core import plugins
from threedgen.datasets.films import Film, write_film
from threedgen.datasets.given import GivenViews
from threedgen.datasets.multiview import PosedPictures, write_transforms
from threedgen.dfm import scene_sample
from threedgen.dfm.store import save_scene_field
from threedgen.guidance.priors.load import PriorConfig
from threedgen.nerfdiff.store import save_model
from threedgen.reconstruction import normal_mesh
from threedgen.reconstruction.network import Reconstructor, ReconstructorArchitecture
from threedgen.reconstruction.store import save_reconstructor
from threedgen.representations import density_control, gaussians
from threedgen.representations.texture_atlas import bake_vertex_colors
from threedgen.testing import check_guidance, check_renderer, check_representation
from threedgen.testing.common import views

# Small sizes: the laws do not depend on them.
REPRESENTATIONS: dict[str, dict[str, Any]] = {
    "gaussians": {"count": 60},
    "triplane": {"resolution": 12, "channels": 4, "hidden": 8},
    "mesh": {"subdivisions": 2},
    "tetrahedra": {"resolution": 10},
}


RENDERERS = {"splatting": cloud, "volume": field, "mesh": mesh}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    cameras = orbit(torch.arange(3) * 120.0, torch.zeros(3), torch.full((3,), 2.85), 40.0, 24, 24)
    alpha = (torch.arange(24 * 24).reshape(1, 24, 24, 1) % 3 == 0).float().expand(3, 24, 24, 1)
    images = torch.linspace(0, 1, 3 * 24 * 24 * 3).reshape(3, 24, 24, 3) * alpha + (1 - alpha)
    write_transforms(folder, PosedPictures(images, alpha, cameras))
    return folder


@pytest.fixture(scope="module")
def nerfdiff(tmp_path_factory):
    """The settings of a tiny NerfDiff and its picture."""
    folder = tmp_path_factory.mktemp("nerfdiff")
    save_model(tiny_model(), folder, {})
    return {"model": str(folder), "image": str(write_cut_out(folder / "picture.png", seen(source_camera())))}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """The folder of a film of three pictures, in which a square moves to the right."""
    rgba = np.zeros((3, 24, 24, 4), np.uint8)
    for number in range(3):
        rgba[number, 8:16, 6 + 2 * number : 14 + 2 * number] = (200, 60, 30, 255)
    folder = tmp_path_factory.mktemp("film")
    write_film(folder, Film(rgba, 3, 0.1, "a square"))
    return str(folder)


def guidances(pictures, nerfdiff, film) -> dict[str, tuple[Any, dict[str, Any]]]:
    given = GivenViews(GivenViews.Config(path=str(pictures), batch=3))(0, 0, 1)
    disc, filmed = PriorConfig(name="disc"), replace(views(3, 24, 24), index=torch.arange(3))
    return {
        "score-distillation": ({"prior": disc}, {}),
        "denoise-and-match": ({"prior": disc}, {}),
        "delta-denoising": (
            {"prior": disc, "path": str(pictures), "source": "a grey wall"},
            {"cameras": given},
        ),
        "pictures": (
            {"path": str(pictures), "l1": 0.5, "ssim": 0.2},
            {"cameras": given, "batch_independent": True},
        ),
        "reference": (
            {"image": str(pictures / "images" / "000000.png")},
            {"cameras": ReferenceOrbit(ReferenceOrbit.Config()).reference(24)},
        ),
        "single-frames": ({"prior": disc, "frames": 3}, {}),
        "reference-clip": ({"film": film}, {"cameras": filmed}),
        "turned-clip": ({"film": film, "prior": disc}, {"cameras": filmed}),
        "nerf-guided-distillation": ({**nerfdiff, "count": 3}, {"remembers": True}),
    }


def _reconstructed(folder):
    """A new reconstructor, and four pictures of a dark square."""
    size, one = 16, torch.ones(4)
    network = Reconstructor(
        ReconstructorArchitecture(size=size, channels=(8, 16), attention=(False, True), heads=8)
    )
    save_reconstructor(network, folder / "model", {})
    alpha = torch.zeros(4, size, size, 1)
    alpha[:, 4:12, 4:12] = 1.0
    cameras = orbit(90.0 * torch.arange(4), 0.0 * one, 2.85 * one, 40.0, size, size)
    write_transforms(
        folder / "pictures", PosedPictures(1.0 - 0.8 * alpha.expand(-1, -1, -1, 3), alpha, cameras)
    )
    return {"model": str(folder / "model"), "pictures": str(folder / "pictures")}


@pytest.mark.parametrize("name", plugins.BUILTIN["representation"])
def test_representations(name, nerfdiff, tmp_path, monkeypatch):
    cls = plugins.find("representation", name)
    settings = nerfdiff if name == "camera-triplane" else REPRESENTATIONS.get(name, {})
    if name == "reconstructed":
        settings = _reconstructed(tmp_path)
    if name == "scene-sample":
        monkeypatch.setattr(scene_sample, "_VOXELS", 24)
        save_scene_field(tiny_field(), tmp_path, {})
        settings = {"model": str(tmp_path), "image": nerfdiff["image"], "sampling": 2, "count": 60}
    if name == "normal-mesh":
        drawn = bake_vertex_colors(mesh(), 32)
        monkeypatch.setattr(normal_mesh, "made_of", lambda config, seed: drawn)
        settings = {"texture_size": 32}
    if name == "dynamic-gaussians":
        (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
        settings = {"asset": str(tmp_path / "a.obj"), "count": 40}
    check_representation(cls, config=cls.Config(**settings))


@pytest.mark.parametrize("name", plugins.BUILTIN["renderer"])
def test_renderers(name):
    check_renderer(plugins.find("renderer", name)(), RENDERERS[name])


@pytest.mark.parametrize("name", plugins.BUILTIN["guidance"])
def test_guidances(name, pictures, nerfdiff, film):
    settings, promises = guidances(pictures, nerfdiff, film)[name]
    cls = plugins.find("guidance", name)
    check_guidance(lambda: cls(cls.Config(**settings), "cpu"), **promises)


def test_gaussians_that_grow():
    grow = density_control.Config(refinements=4, grow=0.5, begin=0.1)
    sizes = set()

    def make(seed):
        scene = gaussians.Gaussians(gaussians.Config(count=60, sh_degree=1, sh_full=0.1, density=grow), seed)
        adapt = scene.adapt
        scene.adapt = lambda *a: (adapt(*a), sizes.add(len(scene)))[0]  # type: ignore[method-assign]
        return scene

    make.renderer = "splatting"  # type: ignore[attr-defined]
    check_representation(make)
    assert len(sizes) > 1, "nothing grew, so the law about the optimizer was not tested"
