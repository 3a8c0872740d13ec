"""Measurements of a training while it runs: numbers in metrics.jsonl and TensorBoard, pictures in watch/.

The balance of the two losses is what fails first. If the gradient of the prior is larger than that of the pictures,
all objects become alike. If it is almost nothing, the codes become too irregular for a diffusion to learn. A
warning reports each case once, with the setting to change.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.pictures import resize
from threedgen.core.random import generator
from threedgen.core.types import Cameras
from threedgen.ssdnerf.decoder import activate, as_pictures
from threedgen.ssdnerf.sampling import sample_codes
from threedgen.ssdnerf.views import VIEWS, render_code, turntable

if TYPE_CHECKING:
    from threedgen.ssdnerf.trainer import Trainer

METRICS, PICTURES = "metrics.jsonl", "watch"
_MEAN_OVER = 50  # steps for each line of the file
_SAMPLES, _OBJECTS = 6, 2  # in a grid
_STEPS = 25  # sampling steps
_STRONG, _WEAK = 3.0, 1e-3  # norm of the gradient of the prior over that of the pictures, in the codes
_SATURATED = 0.3  # share of the values of the codes near +-2
# Pixels of the longer side of pictures and renders. At 800 pixels a point of the FID curve would take minutes.
LARGEST = 128


@dataclass(frozen=True)
class Every:
    """Steps between grids of pictures, and between points of the FID curve; 0 for none.

    samples: number of samples of a point, each in one view.
    """

    grid: int = 500
    fid: int = 1000
    samples: int = 128


class Watch:
    """Measures one training, and writes into its folder. A training that continues uses the same files."""

    def __init__(self, folder: Path, step: int, every: Every | None = None) -> None:
        """step: steps done so far. Lines of the file about later steps are removed."""
        from threedgen.jobs.listeners.logs import TENSORBOARD, board, installed
        from threedgen.jobs.listeners.metrics import read, truncate

        self.headline = ""
        self._folder, self._every = folder, every or Every()
        self._warned: set[str] = set()
        self._true: Tensor | None = None
        if (folder / METRICS).is_file():
            truncate(folder / METRICS, step + 1)
        self._has_line = any(row["step"] == step for row in read(folder / METRICS))
        self._board = board(folder) if installed(TENSORBOARD) else None

    def catch_up(self, trainer: Trainer) -> None:
        """Is called before the first step of this process. Writes what was due after the last checkpoint and
        is missing, because the training was stopped between the two."""
        if not trainer.step:
            return
        if self._has_line and self._due(trainer)["line"]:
            trainer.unwritten.clear()  # they are in that line
        self._measure(trainer, self._has_line, self._grid(trainer.step).is_file())

    def step(self, trainer: Trainer) -> None:
        """Is called after each step, the numbers of which are in `trainer.unwritten`."""
        self._measure(trainer)

    def _measure(self, trainer: Trainer, has_line: bool = False, has_grid: bool = False) -> None:
        """Writes what is due and not there yet."""
        due, step = self._due(trainer), trainer.step
        row: dict[str, float] = {}
        if due["line"] and not has_line:
            row |= self._means(trainer.unwritten)
            self._warn(row)
        learnt = trainer.config.diffusion.weight > 0
        if due["grid"] and not has_grid:
            write_grid(trainer, self._grid(step), samples=learnt)
        if due["fid"] and learnt and not has_line:
            row["fid"] = self.fid(trainer)
        if row:
            self._write(step, trainer.seconds, row)

    def _due(self, trainer: Trainer) -> dict[str, bool]:
        step, last = trainer.step, trainer.step == trainer.config.steps
        intervals = {"line": _MEAN_OVER, "grid": self._every.grid, "fid": self._every.fid}
        return {name: every > 0 and (step % every == 0 or last) for name, every in intervals.items()}

    def _grid(self, step: int) -> Path:
        return self._folder / PICTURES / f"grid_{step:07d}.png"

    def _means(self, sums: dict[str, list[float]]) -> dict[str, float]:
        row = {name: sum(values) / len(values) for name, values in sums.items()}
        sums.clear()
        if "mse" in row:
            row["psnr"] = -10.0 * math.log10(max(row.pop("mse"), 1e-12))
        if row.get("rendering gradient") and "prior gradient" in row:
            row["balance"] = row["prior gradient"] / row["rendering gradient"]
        texts = (f"{name} {row[name]:.3g}" for name in ("psnr", "prior", "balance") if name in row)
        self.headline = ", ".join(texts)
        return row

    def _warn(self, row: dict[str, float]) -> None:
        balance = row.get("balance", 1.0)
        if balance > _STRONG:
            self._warn_once(
                "strong",
                f"the gradient of the prior is {balance:.1f} times that of the pictures: lower diffusion.weight",
            )
        if balance < _WEAK:
            self._warn_once(
                "weak",
                f"the gradient of the prior is only {balance:.1e} times that of the pictures: raise "
                "diffusion.weight",
            )
        if row.get("saturated", 0.0) > _SATURATED:
            self._warn_once(
                "saturated",
                f"{row['saturated']:.0%} of the values of the codes are at their bounds: raise codes.regularizer",
            )

    def _warn_once(self, kind: str, text: str) -> None:
        """Prints the first warning of each kind only."""
        if kind not in self._warned:
            self._warned.add(kind)
            print(f"warning: {text}", file=sys.stderr)

    def fid(self, trainer: Trainer) -> float:
        """FID, by the embedded features, of one view of each of some samples against as many training pictures.

        Renders have the size of the pictures, or LARGEST pixels if that is less. The small number of samples biases
        it upwards: the course of the curve matters, and not its values.
        """
        from threedgen.metrics.distribution import fid
        from threedgen.metrics.features import load_features

        model, count = trainer.averages, self._every.samples
        features = load_features()
        rng = generator(trainer.config.seed, "watch/views", 0)
        objects = torch.randint(len(trainer.objects), (count,), generator=rng).tolist()
        views = [int(torch.randint(trainer.objects.views(index), (1,), generator=rng)) for index in objects]
        if self._true is None:
            self._true = torch.cat(
                [
                    features(_true_pictures(trainer, index, [view]))
                    for index, view in zip(objects, views, strict=True)
                ]
            )
        # One at a time, because objects may differ in the size of their pictures.
        made = []
        codes = sample_codes(model, range(count), 1, steps=_STEPS)
        for index, view, code in zip(objects, views, codes, strict=True):
            camera = reduced(trainer.objects.cameras(index)[view : view + 1])
            made.append(features(render_code(model, code, camera).rgb.cpu()))
        return fid(torch.cat(made), self._true)

    def _write(self, step: int, seconds: float, row: dict[str, float]) -> None:
        line = {"step": step, "seconds": round(seconds, 1)}
        line |= {name: float(f"{value:.5g}") for name, value in row.items()}
        with (self._folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, step)


def write_grid(trainer: Trainer, path: Path, samples: bool = True) -> None:
    """Writes a grid: a row of views for each sample, then for some objects a row of pictures and a row of renders
    of their codes. The longer side of a picture is at most LARGEST pixels."""
    from threedgen.jobs.listeners.previews import write_rows

    model, rows = trainer.averages, []
    if samples:
        codes = sample_codes(model, range(_SAMPLES), steps=_STEPS)
        cameras = reduced(turntable(model.viewpoint))
        rows += [_row(render_code(model, code, cameras).rgb) for code in codes]
    learnt = as_pictures(activate(trainer.bank.read(range(min(_OBJECTS, len(trainer.objects)))).code))
    for index, code in enumerate(learnt.to(model.device)):
        chosen = torch.linspace(0, trainer.objects.views(index) - 1, VIEWS).long()
        cameras = reduced(trainer.objects.cameras(index)[chosen])
        true = _true_pictures(trainer, index, chosen.tolist())
        rows += [_row(true), _row(render_code(model, code, cameras).rgb)]
    path.parent.mkdir(exist_ok=True)
    write_rows(path, rows)


def reduced(cameras: Cameras) -> Cameras:
    """The same views with at most LARGEST pixels on the longer side."""
    return cameras.resized(*_reduced_size(cameras.height, cameras.width))


def reduced_pictures(pictures: Float[Tensor, "V H W 3"]) -> Float[Tensor, "V h w 3"]:
    """The same pictures at the size that `reduced` gives their cameras."""
    return resize(pictures, *_reduced_size(*pictures.shape[1:3]))


def _reduced_size(height: int, width: int) -> tuple[int, int]:
    share = min(1.0, LARGEST / max(height, width))
    return max(1, round(share * height)), max(1, round(share * width))


def _true_pictures(trainer: Trainer, index: int, views: list[int]) -> Float[Tensor, "V h w 3"]:
    """Some training pictures of an object, reduced, in [0, 1]."""
    return reduced_pictures(trainer.objects.pictures(index)[views].float() / 255.0)


def _row(pictures: Float[Tensor, "V H W 3"]) -> Float[Tensor, "H V*W 3"]:
    return pictures.detach().cpu().clamp(0.0, 1.0).permute(1, 0, 2, 3).flatten(1, 2)
