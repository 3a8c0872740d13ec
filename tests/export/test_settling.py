"""Gaussians settled on their mesh: they show what it shows, and end where it ends."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from clouds import ball

from threedgen.core.types import GaussianCloud
from threedgen.export import as_mesh
from threedgen.export.mesh import MeshConfig
from threedgen.export.settling import settle
from threedgen.jobs.scores.exported import exported_scores

CONFIG = MeshConfig(resolution=40, faces=1500, texture_size=128)


@pytest.fixture(scope="module")
def hazy() -> GaussianCloud:
    """A ball that ends in a haze."""
    full = ball(radius=0.5, spacing=0.1, deviation=0.12)
    return replace(full, opacities=0.3 * torch.ones(len(full)))


@pytest.fixture(scope="module")
def mesh(hazy):
    return as_mesh(hazy, CONFIG)


def test_settled_gaussians_show_what_the_mesh_shows(hazy, mesh):
    settled = settle(hazy, mesh, 60)
    assert len(settled) == len(hazy)
    before, after = (exported_scores(mesh, cloud, []) for cloud in (hazy, settled))
    assert after["mesh_agreement_psnr"] > before["mesh_agreement_psnr"] + 2.0
    assert after["mesh_agreement_iou"] > before["mesh_agreement_iou"]


def test_the_same_cloud_and_mesh_settle_to_the_same_bits(hazy, mesh):
    one, other = settle(hazy, mesh, 3), settle(hazy, mesh, 3)
    for item in fields(one):
        assert torch.equal(getattr(one, item.name), getattr(other, item.name))


def test_no_steps_change_nothing(hazy, mesh):
    assert settle(hazy, mesh, 0) is hazy
