"""Moves the vertices of a mesh so that its outlines are those of given views.

A level set of a density is the surface of an asset only up to a few voxels, and what pictures tell of an asset most
exactly is its outline. The vertices move together (Nicolet et al. 2021), so that the surface stays smooth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from threedgen.core.random import generator
from threedgen.core.types import TriMesh
from threedgen.export.mesh import vertex_normals
from threedgen.export.views import View
from threedgen.renderers.mesh import MeshRenderer
from threedgen.representations.smooth_offsets import Smoother

_SMOOTHNESS = 2.0
_RATE = 0.003  # of the diameter, a step of Adam at the start
_TRUSTED = 0.7  # share of the steps that look at one of the trusted views, if there are any


def fit_outline(mesh: TriMesh, views: Sequence[View], steps: int) -> TriMesh:
    """The mesh with other positions and normals; what else it has stays. Views with a trust above 1 are looked at
    more often. Nothing is drawn but from a fixed seed."""
    base, place = torch.unique(mesh.vertices.detach(), dim=0, return_inverse=True)
    diameter = float((base.amax(0) - base.amin(0)).norm())
    smoother = Smoother(place[mesh.faces], len(base), _SMOOTHNESS)
    offsets = torch.zeros_like(base, requires_grad=True)
    optimizer = torch.optim.Adam([offsets], betas=(0.9, 0.99))
    renderer = MeshRenderer()
    trusted = [view for view in views if view.trust > 1.0]
    others = [view for view in views if view.trust <= 1.0] or trusted
    for step in range(steps):
        rng = generator(0, "outline", step)
        among = trusted if trusted and float(torch.rand((), generator=rng)) < _TRUSTED else others
        view = among[int(torch.randint(len(among), (), generator=rng))]
        optimizer.param_groups[0]["lr"] = _RATE * diameter * (1.0 - 0.9 * step / steps)
        vertices = (base + smoother(offsets)).index_select(0, place)
        output = renderer(TriMesh(vertices, mesh.faces), view.camera, torch.zeros(3))
        optimizer.zero_grad()
        (output.alpha[0] - view.alpha).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        vertices = (base + smoother(offsets)).index_select(0, place)
    normals = vertex_normals(vertices.double().numpy(), mesh.faces.numpy())
    return dataclasses.replace(mesh, vertices=vertices, normals=torch.from_numpy(normals).float())
