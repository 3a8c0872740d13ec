"""Things in other shapes: upright, whole, symmetric, with the normals of the new surface."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from threedgen.core.types import TriMesh
from threedgen.training.deformation import deformed, drawn_warp

SEEDS = range(30)


def ball() -> TriMesh:
    made = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    points = torch.tensor(made.vertices).float()
    return TriMesh(points, torch.tensor(made.faces), normals=points / 0.8)


def test_the_normals_are_those_of_the_new_surface_and_the_left_stays_the_mirror_image_of_the_right() -> None:
    mesh = ball()
    shapes = [deformed(mesh, np.random.default_rng(seed)) for seed in SEEDS]
    assert 1 <= sum(shape is mesh for shape in shapes) <= 15
    for shape in shapes:
        assert shape.normals is not None
        torch.testing.assert_close(shape.vertices.norm(dim=1).max(), torch.tensor(0.8), atol=1e-5, rtol=0)
        edges = shape.vertices[shape.faces]
        flat = torch.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0], dim=1)
        flat = torch.nn.functional.normalize(flat, dim=1)
        mean = torch.nn.functional.normalize(shape.normals[shape.faces].mean(1), dim=1)
        assert float((flat * mean).sum(1).min()) > 0.97
        mirrored = shape.vertices * torch.tensor([-1.0, 1.0, 1.0])
        assert float(torch.cdist(mirrored.double(), shape.vertices.double()).amin(1).max()) < 1e-4


def test_what_is_level_stays_level_and_what_is_above_stays_above() -> None:
    heights = torch.linspace(-1.0, 1.0, 60)
    level = torch.stack([torch.rand(60) - 0.5, torch.full((60,), 0.3), torch.rand(60) - 0.5], dim=1)
    column = torch.stack([torch.zeros(60), heights, torch.zeros(60)], dim=1)
    for seed in SEEDS:
        warp = drawn_warp(1.0, np.random.default_rng(seed))
        assert float(warp(level)[:, 1].std()) < 1e-6
        assert bool((warp(column)[:, 1].diff() > 0.0).all())


def test_a_warp_changes_more_than_proportions() -> None:
    """A straight wall no longer has one width at all heights, in most draws."""
    wall = torch.tensor([[0.5, y, 0.0] for y in (-0.8, 0.0, 0.8)])
    widths = torch.stack([drawn_warp(1.0, np.random.default_rng(seed))(wall)[:, 0] for seed in SEEDS])
    assert float((widths.amax(1) / widths.amin(1)).median()) > 1.2
