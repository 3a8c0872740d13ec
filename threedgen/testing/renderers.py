"""Laws of a renderer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from threedgen.core.types import Cameras, GaussianCloud, RadianceField, RenderOutput, TriMesh
from threedgen.testing.common import distance, law, no_global_randomness, views
from threedgen.testing.settings import check_settings_of

_CLOSE = 1e-5


def check_renderer(
    renderer: Any,
    primitive: Callable[[], Any],
    *,
    moved: Callable[[Any, Tensor], Any] | None = None,
    turned: Callable[[Any], Any] | None = None,
) -> None:
    """Checks a renderer on what `primitive()` makes: something inside the unit sphere that does not fill it.

    moved: (primitive, offset [3]) -> the primitive at another position; not needed for the three built-in
    kinds. turned: primitive -> the primitive turned so that (x, y, z) becomes (z, x, y), with any colours; used
    only if the renderer gives normals, and not needed for the built-in kinds. Raises AssertionError naming the
    law that does not hold:

    - some code reads every setting (`check_settings`);
    - pictures have the right shapes and types and finite values, and alpha is in [0, 1];
    - depth is alpha times the camera z of something inside the unit sphere;
    - a normal is no longer than alpha and in world space, so that it turns with the object;
    - where nothing is, the background is seen, in all three of its forms, and d rgb / d background = 1 - alpha;
    - views do not depend on each other, and every picture is repeatable, also with a generator of the same seed;
    - moving camera and object together changes nothing;
    - gradients are finite;
    - the global random states do not change.
    """
    check_settings_of(renderer)
    with no_global_randomness("the renderer"):
        cameras = views()
        output = renderer(primitive(), cameras, torch.tensor([0.2, 0.5, 0.9]))
        _check_shapes(output, cameras)
        _check_background(renderer, primitive, cameras)
        _check_views(renderer, primitive, cameras)
        _check_repeats(renderer, primitive, cameras)
        _check_translation(renderer, primitive, cameras, moved or _moved)
        if output.normal is not None:
            _check_turn(renderer, primitive, cameras, turned or _turned)
        _check_gradients(renderer, primitive, cameras)


def _check_shapes(output: RenderOutput, cameras: Cameras) -> None:
    size = (len(cameras), cameras.height, cameras.width)
    for name, channels in (("rgb", 3), ("alpha", 1), ("depth", 1), ("normal", 3)):
        value = getattr(output, name)
        if value is None:
            law(name in ("depth", "normal"), "shapes", f"{name} is missing")
            continue
        found = tuple(value.shape)
        law(found == (*size, channels), "shapes", f"{name} is {found}, it must be {(*size, channels)}")
        law(value.dtype == torch.float32, "types", f"{name} of a float32 primitive is {value.dtype}")
        law(bool(value.isfinite().all()), "finite", f"{name} has values that are not finite")
    alpha = output.alpha.detach()
    inside = float(alpha.min()) >= -_CLOSE and float(alpha.max()) <= 1.0 + _CLOSE
    law(inside, "alpha", f"alpha must lie in [0, 1], it is in [{alpha.min():.3g}, {alpha.max():.3g}]")
    law(float(alpha.max()) > 0.1, "alpha", "the object is invisible: give one inside the unit sphere")
    if output.depth is not None:
        middle = cameras.centers.norm(dim=1)[:, None, None, None]
        off = (output.depth.detach() - alpha * middle).abs() - alpha
        law(
            float(off.max()) <= 0.05,
            "depth",
            "depth is not alpha x camera z of anything inside the unit sphere",
        )
    if output.normal is not None:
        excess = output.normal.detach().norm(dim=-1, keepdim=True) - alpha
        law(float(excess.max()) <= 1e-3, "normal", f"a normal is longer than alpha (by {excess.max():.2g})")


def _check_background(renderer: Any, primitive: Callable[[], Any], cameras: Cameras) -> None:
    shape = (len(cameras), cameras.height, cameras.width, 3)
    rng = torch.Generator().manual_seed(0)
    scene = primitive()
    backgrounds = {
        "[3]": torch.rand(3, generator=rng),
        "[B, 3]": torch.rand(shape[0], 3, generator=rng),
        "[B, H, W, 3]": torch.rand(shape, generator=rng),
    }
    turned = replace(
        cameras, world_from_camera=cameras.world_from_camera * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    )
    black = renderer(scene, cameras, torch.zeros(3))
    for name, background in backgrounds.items():
        picture = background[:, None, None].expand(shape) if name == "[B, 3]" else background.expand(shape)
        away = renderer(scene, turned, background)
        law(float(away.alpha.max()) <= _CLOSE, "background", "alpha is not 0 where nothing is")
        gap = distance(away.rgb, picture)
        law(gap <= _CLOSE, "background", f"a background {name} is not seen where nothing is")
        leaf = background.clone().requires_grad_()
        output = renderer(scene, cameras, leaf)
        expected = black.rgb + (1.0 - black.alpha) * picture
        gap = distance(output.rgb, expected)
        law(
            gap <= 10 * _CLOSE,
            "background",
            f"rgb over a background {name} is not rgb + (1 - alpha) background",
        )
        (gradient,) = torch.autograd.grad(output.rgb.sum(), leaf)
        through = (1.0 - output.alpha.detach()).expand(shape)
        if name != "[B, H, W, 3]":
            through = through.sum(dim=(1, 2)) if name == "[B, 3]" else through.sum(dim=(0, 1, 2))
        gap = distance(
            gradient / through.abs().max().clamp_min(1.0), through / through.abs().max().clamp_min(1.0)
        )
        law(gap <= 10 * _CLOSE, "background", f"the gradient of a background {name} is not 1 - alpha")


def _check_views(renderer: Any, primitive: Callable[[], Any], cameras: Cameras) -> None:
    scene, background = primitive(), torch.ones(3)
    together = renderer(scene, cameras, background)
    for view in range(len(cameras)):
        alone = renderer(scene, cameras[view : view + 1], background)
        for name in ("rgb", "alpha"):
            gap = distance(getattr(alone, name)[0], getattr(together, name)[view])
            law(gap <= _CLOSE, "views", f"{name} of a view depends on the other views (by {gap:.2g})")


def _check_repeats(renderer: Any, primitive: Callable[[], Any], cameras: Cameras) -> None:
    scene = primitive()
    plain = [renderer(scene, cameras, torch.ones(3)).rgb for _ in range(2)]
    law(distance(*plain) == 0.0, "repeats", "without a generator two pictures of the same thing differ")
    drawn = [renderer(scene, cameras, torch.ones(3), torch.Generator().manual_seed(5)).rgb for _ in range(2)]
    law(distance(*drawn) == 0.0, "repeats", "with generators of the same seed two pictures differ")


def _check_translation(
    renderer: Any, primitive: Callable[[], Any], cameras: Cameras, moved: Callable[[Any, Tensor], Any]
) -> None:
    offset = torch.tensor([0.25, -0.5, 0.125])
    poses = cameras.world_from_camera.clone()
    poses[:, :3, 3] += offset
    here = renderer(primitive(), cameras, torch.ones(3))
    there = renderer(moved(primitive(), offset), replace(cameras, world_from_camera=poses), torch.ones(3))
    # Rounding may change a pixel at an edge, so the mean must agree and not each pixel.
    gap = float((here.rgb - there.rgb).detach().abs().mean())
    law(gap <= 1e-3, "translation", f"moving camera and object together changes the picture (by {gap:.2g})")


def _moved(primitive: Any, offset: Tensor) -> Any:
    if isinstance(primitive, GaussianCloud):
        return replace(primitive, means=primitive.means + offset)
    if isinstance(primitive, TriMesh):
        return replace(primitive, vertices=primitive.vertices + offset)
    if isinstance(primitive, RadianceField):
        query = primitive.query
        return replace(
            primitive,
            query=lambda points, directions: query(points - offset, directions),
            bounds=primitive.bounds + offset,
        )
    raise TypeError(
        f"give a function that moves a {type(primitive).__name__}: check_renderer(..., moved=...)"
    )


_AXES = [2, 0, 1]  # (x, y, z) becomes (z, x, y): a third of a turn, exact in every number format
_AXES_BACK = [1, 2, 0]


def _check_turn(
    renderer: Any, primitive: Callable[[], Any], cameras: Cameras, turned: Callable[[Any], Any]
) -> None:
    poses = cameras.world_from_camera[:, [*_AXES, 3]]
    here = renderer(primitive(), cameras, torch.ones(3))
    there = renderer(turned(primitive()), replace(cameras, world_from_camera=poses), torch.ones(3))
    gap = float((there.normal - here.normal[..., _AXES]).detach().abs().mean())
    law(
        gap <= 1e-3,
        "normal",
        f"normals are not in world space: they do not turn with the object (by {gap:.2g})",
    )


def _turned(primitive: Any) -> Any:
    if isinstance(primitive, TriMesh):
        normals = None if primitive.normals is None else primitive.normals[:, _AXES]
        return replace(primitive, vertices=primitive.vertices[:, _AXES], normals=normals)
    if isinstance(primitive, RadianceField):
        query, cells = primitive.query, primitive.occupancy
        return replace(
            primitive,
            query=lambda points, directions: query(points[:, _AXES_BACK], directions[:, _AXES_BACK]),
            bounds=primitive.bounds[:, _AXES],
            occupancy=None if cells is None else cells.permute(_AXES),
        )
    if isinstance(primitive, GaussianCloud):
        w, x, y, z = primitive.quats.unbind(1)
        # (1 + i + j + k) / 2 times the quaternion.
        quats = 0.5 * torch.stack([w - x - y - z, w + x - y + z, w + x + y - z, w - x + y + z], dim=1)
        return replace(primitive, means=primitive.means[:, _AXES], quats=quats)
    raise TypeError(
        f"give a function that turns a {type(primitive).__name__}: check_renderer(..., turned=...)"
    )


def _check_gradients(renderer: Any, primitive: Callable[[], Any], cameras: Cameras) -> None:
    """The gradients of the tensors of a primitive are finite, and at least one is not zero."""
    scene = primitive()
    if isinstance(scene, RadianceField):
        return  # its query hides what it depends on; check_representation checks these gradients
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in vars(scene).items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    output = renderer(replace(scene, **leaves), cameras, torch.ones(3))
    rng = torch.Generator().manual_seed(1)
    loss = (output.rgb * torch.randn(output.rgb.shape, generator=rng)).sum() + output.alpha.sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {name: gradient for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None}
    for name, gradient in found.items():
        law(bool(gradient.isfinite().all()), "gradients", f"the gradient of {name} is not finite")
    some = any(float(gradient.abs().max()) > 0.0 for gradient in found.values() if gradient.numel())
    law(some, "gradients", "no gradient reaches the primitive")
