"""The renderers of a device against the float64 implementation in torch on the CPU: pictures and gradients."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_blocks import Block, Place
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, Frames, GaussianCloud, TriMesh
from threedgen.renderers import backends
from threedgen.renderers.mesh import Config as MeshConfig
from threedgen.renderers.mesh import MeshRenderer
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.renderers.volume import VolumeRenderer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import field_scenes  # pyright: ignore[reportMissingImports]
import mesh_scenes  # pyright: ignore[reportMissingImports]
import splatting_scenes  # pyright: ignore[reportMissingImports]

_IMAGES = ("rgb", "alpha", "depth", "normal", "distortion")
# gsplat leaves out the Gaussian that would end a ray, and the other libraries draw it.
_OPAQUE = 2e-3
Leaves = Mapping[str, Tensor]


def rendered(
    renderer: Any, build: Callable[[Leaves], Any], leaves: Leaves, cameras: Cameras, device: str, dtype: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The pictures of a primitive, and the gradients of one random linear functional of them by leaf, in float64 on
    the CPU. build: makes the primitive of its leaves. The normals of a mesh jump at its edges, so that they are
    left out of the functional."""
    moved = {name: leaf.detach().to(device, dtype).clone().requires_grad_() for name, leaf in leaves.items()}
    background = torch.tensor([0.2, 0.7, 0.4], device=device, dtype=dtype)
    output = renderer(build(moved), cameras.to(device, dtype), background)
    images = {name: image for name in _IMAGES if (image := getattr(output, name)) is not None}
    draw = torch.Generator().manual_seed(1)
    loss = torch.zeros((), device=device, dtype=dtype)
    for name, image in images.items():
        if name == "normal" and "vertices" in leaves:
            continue
        loss = loss + (image * torch.randn(image.shape, generator=draw, dtype=torch.float64).to(image)).sum()
    gradients = torch.autograd.grad(loss, list(moved.values()), materialize_grads=True)
    return (
        {name: image.detach().cpu().double() for name, image in images.items()},
        {name: gradient.cpu().double() for name, gradient in zip(moved, gradients, strict=True)},
    )


def compare(
    block: Block, title: str, limits: tuple[float, float], place: Place, renderer: Any,
    build: Callable[[Leaves], Any], leaves: Leaves, cameras: Cameras, share: float = 0.0,
) -> None:  # fmt: skip
    """limits: of the difference of two pixels, and of the relative difference of gradients. share: of the pixels
    that may differ by more, because they lie on an edge."""
    truth = rendered(renderer, build, leaves, cameras, "cpu", torch.float64)
    found = rendered(renderer, build, leaves, cameras, place.device, torch.float32)
    block.must(bool(truth[0]["alpha"].max() > 0.1), f"{title}: the scene is empty")
    for name, image in truth[0].items():
        off = (found[0][name] - image).abs().flatten()
        ranked = off.sort().values[: max(1, round((1.0 - share) * len(off)))]
        block.at_most(f"{title}: largest difference of {name}", float(ranked[-1]), limits[0])
    for name, gradient in truth[1].items():
        off = float((found[1][name] - gradient).norm() / gradient.norm().clamp(min=1e-30))
        block.at_most(f"{title}: relative difference of gradients", off, limits[1])


def _cloud(leaves: Leaves) -> GaussianCloud:
    return GaussianCloud(**leaves)


def _moving(cloud: Callable[..., GaussianCloud], cameras: Cameras) -> tuple[Leaves, Cameras]:
    """The leaves of three clouds of one shape, with a leading dimension, and a camera for each."""
    clouds = [cloud(120, 1, seed=seed) for seed in range(len(cameras))]
    names = splatting_scenes.FIELDS
    return {name: torch.stack([getattr(one, name) for one in clouds]) for name in names}, cameras


def _moments(leaves: Leaves) -> Frames:
    """Each cloud of `_moving` as the moment that the camera of another one sees."""
    count = len(leaves["means"])
    clouds = tuple(_cloud({name: leaf[i] for name, leaf in leaves.items()}) for i in range(count))
    return Frames(clouds, torch.arange(count).flip(0), torch.linspace(0.0, 1.0, count))


def splatting(place: Place) -> Block:
    """Six scenes and a large one, the moments of a moving one, and clouds that no camera sees."""
    block, renderer = Block(), SplattingRenderer()
    block.measured["backend"] = backends.choose("splatting", "auto", place.device)
    cloud, around = splatting_scenes.random_cloud, splatting_scenes.cameras_around
    opaque = cloud(120, 0, seed=5, size=0.4)
    solid = torch.where(torch.arange(120) % 2 == 0, torch.ones(120), opaque.opacities)
    many, side = (2_000, 24) if place.small else (50_000, 64)
    scenes = {
        "300 Gaussians": (cloud(300), around(48, 48), False),
        "one degree": (cloud(200, 1, seed=3), around(32, 32), False),
        "no degree": (cloud(200, 0, seed=3), around(32, 32), False),
        "wide picture": (cloud(150, 1, seed=4), around(37, 53), False),
        "small picture": (cloud(150, 1, seed=4), around(3, 70), False),
        "opaque": (replace(opaque, opacities=solid), around(48, 48), True),
        f"{many} Gaussians": (cloud(many, 1, seed=6, size=0.02), around(side, side, views=1), True),
    }
    for title, (scene, cameras, covered) in scenes.items():
        leaves = {name: getattr(scene, name) for name in splatting_scenes.FIELDS}
        strict = (2e-5, 1e-4)
        if place.on_gpu and covered:
            strict = (_OPAQUE, 10 * _OPAQUE)
        compare(block, title, strict, place, renderer, _cloud, leaves, cameras)
    compare(block, "three moments", (2e-5, 1e-4), place, renderer, _moments, *_moving(cloud, around(32, 32)))
    unseen = cloud(50)
    for title, scene in (
        ("empty cloud", GaussianCloud(*(getattr(unseen, name)[:0] for name in splatting_scenes.FIELDS))),
        ("cloud beside the picture", replace(unseen, means=unseen.means + 1000.0)),
    ):
        leaves = {name: getattr(scene, name) for name in splatting_scenes.FIELDS}
        images, gradients = rendered(renderer, _cloud, leaves, around(16, 16), place.device, torch.float32)
        block.must(not images["alpha"].any(), f"{title}: something is drawn")
        plain = images["rgb"] - torch.tensor([0.2, 0.7, 0.4], dtype=torch.float32).double()
        block.must(bool(plain.abs().max() < 1e-6), f"{title}: the picture is not the background")
        finite = all(not gradient.any() for gradient in gradients.values())
        block.must(finite, f"{title}: there are gradients")
    return block


def volume(place: Place) -> Block:
    """Every combination of empty cells, early stop, normals and distortion."""
    block = Block()
    block.measured["backend"] = backends.choose("volume", "auto", place.device)
    side = 8 if place.small else 32
    cells = torch.rand(9, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    for occupancy, stop, normals, distortion in itertools.product(
        (None, cells), (0.0, 0.02), (False, True), (False, True)
    ):

        def build(leaves: Leaves, occupancy: Tensor | None = occupancy) -> Any:
            here = None if occupancy is None else occupancy.to(leaves["planes"].device)
            field = field_scenes.field_of(dict(leaves), here)
            return replace(field, bounds=field.bounds.to(leaves["planes"].device))

        config = VolumeRenderer.Config(samples=24, early_stop=stop, normals=normals, distortion=distortion)
        compare(
            block, "with an early stop" if stop else "to the end", (1e-4, 1e-3) if normals else (1e-5, 1e-4),
            place, VolumeRenderer(config), build, field_scenes.leaves(), field_scenes.around(side, side),
            share=0.01 if stop else 0.0,  # a ray on the threshold may stop one sample earlier or later
        )  # fmt: skip
    return block


def mesh(place: Place) -> Block:
    """20 combinations of size, texture and smooth edges, and a mesh of many faces."""
    block = Block()
    block.measured["backend"] = backends.choose("mesh", "auto", place.device)
    sizes = ((16, 16), (17, 5), (33, 47), (24, 24), (40, 7))
    for (height, width), textured, antialias in itertools.product(sizes, (False, True), (False, True)):
        body = mesh_scenes.ball(2, textured=textured)
        _compare_mesh(block, "ball", body, height, width, MeshConfig(antialias=antialias), place)
    corners, rings = (32, 16) if place.small else (256, 196)  # 100 096 faces
    disc = mesh_scenes.disc(corners, rings)
    colors = torch.rand(len(disc.vertices), 3, generator=torch.Generator().manual_seed(0))
    disc = replace(disc, vertex_colors=colors)
    title = f"{len(disc.faces)} faces"
    _compare_mesh(block, title, disc, 48, 48, MeshConfig(antialias=False), place)
    return block


def _compare_mesh(
    block: Block, title: str, body: TriMesh, height: int, width: int, config: MeshConfig, place: Place,
) -> None:  # fmt: skip
    leaves = {name: getattr(body, name) for name in mesh_scenes.LEAVES if getattr(body, name) is not None}

    def build(moved: Leaves) -> TriMesh:
        return replace(body, faces=body.faces.to(moved["vertices"].device), **moved)

    # From angles at which no centre of a pixel lies on an edge: there the answer would be either face.
    angles = torch.tensor([20.3, 140.7]), torch.tensor([15.2, -40.9]), torch.tensor([2.5, 3.3])
    cameras = orbit(*angles, 45.0, height, width)
    compare(block, title, (5e-4, 2e-3), place, MeshRenderer(config), build, leaves, cameras)
