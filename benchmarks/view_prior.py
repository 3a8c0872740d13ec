"""View priors against the truth: other sides of the objects of the catalogue that no prior was trained on.

    python benchmarks/view_prior.py [NAME or FOLDER ...] [--catalogue DIR] [--objects N] [--sheet PNG]
                                    [--markdown FILE]

Each prior is given one picture of each object (azimuth 30 and elevation 15 degrees) and shows it from eight other
sides. Its answer is the better, in PSNR, of two: what it takes the clean views for when it sees noise alone
(the mean of four), and samples (DDIM, 24 steps, its own guidance scale). The silhouette of a prior with a field is
its alpha; of another one it is what is not white, by the threshold that suits it best.

`image_to_3d.py --objects N` scores what `threedgen image-to-3d` makes with such a prior.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tables import add_markdown, write_markdown
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core.pictures import psnr, resize, silhouette_iou
from threedgen.core.random import generator
from threedgen.core.types import Cameras
from threedgen.datasets.things.thing_set import INSTALLED, thing_set
from threedgen.datasets.things.thing_views import GIVEN, SIDES
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.training.picture_report import HeldOutViews, held_out_views, write_grid

TURNS = tuple(azimuth - GIVEN[0] for azimuth in SIDES)  # degrees, of the sides in the frame of the picture
SIZE = 64  # pixels, of all comparisons
NOISE, DRAWS, STEPS = 0.98, 4, 24  # t and number of answers to noise alone, steps of samples
WHITE = (0.03, 0.06, 0.1, 0.2, 0.3)  # how much a pixel of an object may differ from white at least
SHOWN = 12  # objects on the sheet


def prior_of(name: str) -> Any:
    """An embedded prior by its name, or that of a folder."""
    config = PriorConfig(name="required", path=name) if Path(name).is_dir() else PriorConfig(name=name)
    return load_prior(config)


@torch.no_grad()
def answers(prior: Any, picture: Tensor, index: int) -> list[tuple[Tensor, Tensor | None]]:
    """The two answers of a prior, [8, SIZE, SIZE, 3], and its alphas if it has a field."""
    cameras = ring(TURNS, prior.image_size)
    count, white = len(cameras), torch.ones(len(cameras), 3)
    reference = ReferenceView(picture, 0.0, GIVEN[1], DISTANCE)

    def told(dropped: bool) -> Condition:
        return Condition(
            ("",) * count, cameras=cameras, reference=reference, dropped=dropped, background=white
        )

    asked, without = told(False), told(True)

    def resized(x: Tensor) -> Tensor:
        return resize(prior.decode(x).clamp(0.0, 1.0), SIZE, SIZE)

    means, level = [], torch.full((count,), NOISE)
    z = torch.empty(0)
    for draw in range(DRAWS):
        rng = generator(0, f"view-prior/{index}", draw)
        z = torch.randn(count, 3, prior.image_size, prior.image_size, generator=rng)
        means.append(resized(prior.predict(z, level, asked).x0))
    found: list[tuple[Tensor, Tensor | None]] = [(torch.stack(means).mean(0), None)]
    if hasattr(prior, "rendered"):
        alpha = prior.rendered(asked)[:, 3:].permute(0, 2, 3, 1)
        return [(found[0][0], resize(alpha, SIZE, SIZE))]
    times = torch.linspace(0.999, 0.0, STEPS + 1)
    for now, after in itertools.pairwise(times):
        t, scale = now.expand(count), prior.default_scale
        eps = prior.predict(z, t, without).eps
        eps = eps + scale * (prior.predict(z, t, asked).eps - eps)
        alpha, sigma = (f(t)[:, None, None, None] for f in (prior.alpha, prior.sigma))
        x0 = ((z - sigma * eps) / alpha).clamp(-1.0, 1.0)
        z = prior.add_noise(x0, (z - alpha * x0) / sigma, after.expand(count)) if after > 0.0 else x0
    return [*found, (resized(z), None)]


def measured(name: str, held_out: HeldOutViews) -> tuple[dict[str, Any], Tensor]:
    """PSNR and IoU of each object, and the views, [N, 8, SIZE, SIZE, 3]."""
    prior, kinds = prior_of(name), []
    for index, images in enumerate(held_out.images):
        for kind, answer in enumerate(answers(prior, images[0], index)):
            if kind == len(kinds):
                kinds.append([])
            kinds[kind].append(answer)
        print(f"{name}: {index + 1}/{len(held_out.images)}", end="\r", flush=True)
    true, alpha = held_out.images[:, 1:].flatten(0, 1), held_out.alpha[:, 1:].flatten(0, 1)
    best: tuple[dict[str, Any], Tensor] | None = None
    for kind in kinds:
        views = torch.cat([shown for shown, _ in kind])
        own = None if kind[0][1] is None else torch.cat([a for _, a in kind])
        score = {
            "psnr": psnr(views, true).view(-1, len(SIDES)).mean(1).tolist(),
            "iou": ious(views, own, alpha),
        }
        if best is None or statistics.mean(score["psnr"]) > statistics.mean(best[0]["psnr"]):
            best = score, views.view(-1, len(SIDES), *views.shape[1:])
    assert best is not None
    return best


def ious(views: Tensor, own: Tensor | None, alpha: Tensor) -> list[float]:
    """Of each object."""
    if own is not None:
        masks = [own]
    else:
        masks = [((1.0 - views).abs().amax(-1, keepdim=True) > white).float() for white in WHITE]
    values = [silhouette_iou(mask, alpha).view(-1, len(SIDES)).mean(1) for mask in masks]
    return max(values, key=lambda value: float(value.mean())).tolist()


def ring(azimuths: Sequence[float], size: int) -> Cameras:
    """Cameras of the elevation of the given picture."""
    azimuth = torch.tensor(azimuths)
    full = torch.ones_like(azimuth)
    return orbit(azimuth, GIVEN[1] * full, DISTANCE * full, FOV, size, size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("priors", nargs="*", default=["embedded-view", "embedded-picture"])
    parser.add_argument("--catalogue", default=INSTALLED, metavar="DIR")
    parser.add_argument("--objects", type=int, default=1000, metavar="N")
    parser.add_argument("--sheet", type=Path, metavar="PNG")
    add_markdown(parser)
    arguments = parser.parse_args()
    things = thing_set(arguments.catalogue)
    held_out = held_out_views(things, SIZE, arguments.objects)
    mean: Callable[[list[float]], float] = statistics.mean
    lines = [f"{len(held_out.images)} held-out objects, {len(SIDES)} sides", ""]
    lines += ["| prior | PSNR | IoU |", "|---|---|---|"]
    shown = []
    for name in arguments.priors:
        score, views = measured(name, held_out)
        shown.append(views[:: max(1, len(views) // SHOWN)][:SHOWN])
        lines.append(f"| {name} | {mean(score['psnr']):.2f} | {mean(score['iou']):.3f} |")
        print(lines[-1])
    if arguments.sheet:
        true = held_out.images[:: max(1, len(held_out.images) // SHOWN)][:SHOWN]
        write_grid(true, shown, arguments.sheet)
    print("\n".join(lines))
    write_markdown(arguments.markdown, "\n".join(lines))


if __name__ == "__main__":
    main()
