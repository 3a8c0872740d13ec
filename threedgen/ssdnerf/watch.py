"""What a training looks like while it runs: numbers in metrics.jsonl and TensorBoard, pictures in watch/.

The balance of the two losses is what fails first: a prior that pulls harder than the pictures makes all scenes
alike, one that hardly pulls leaves codes that no diffusion can learn. Both are said once, with what to change.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.pictures import resize
from threedgen.core.random import generator
from threedgen.core.types import Cameras
from threedgen.ssdnerf.decoder import activate, as_pictures
from threedgen.ssdnerf.sampling import sample_codes
from threedgen.ssdnerf.views import VIEWS, around, look

if TYPE_CHECKING:
    from threedgen.ssdnerf.trainer import Trainer

METRICS, PICTURES = "metrics.jsonl", "watch"
_MEAN_OVER = 50  # steps a line of the file
_SAMPLES, _SCENES = 6, 2  # of a grid
_STEPS = 25  # of a sample
_DROWNED, _IDLE = 3.0, 1e-3  # of the prior's gradient over the pictures' in the codes
_SATURATED = 0.3  # of the codes' values near +-2
# Pixels of the longer side of what is looked at: of pictures of 800 a point of the FID curve would take minutes.
LARGEST = 128


@dataclass(frozen=True)
class Every:
    """Steps between grids, and between points of the FID curve; 0 for none. samples: of a point, one view each."""

    grid: int = 500
    fid: int = 1000
    samples: int = 128


class Watch:
    """Follows one training, in its folder; a resumed one goes on with the same files."""

    def __init__(self, folder: Path, step: int, every: Every | None = None) -> None:
        """step: at which the training stands: what the file says of later ones is dropped."""
        from threedgen.jobs.listeners.metrics import truncate

        self.headline = ""
        self._folder, self._every = folder, every or Every()
        self._sums: dict[str, list[float]] = {}
        self._said: set[str] = set()
        self._true: Tensor | None = None
        if (folder / METRICS).is_file():
            truncate(folder / METRICS, step + 1)
        self._board = _board(folder)

    def step(self, trainer: Trainer, seen: dict[str, float]) -> None:
        """After each step. seen: what the step said."""
        for name, value in seen.items():
            self._sums.setdefault(name, []).append(value)
        step, last = trainer.step, trainer.step == trainer.config.steps
        due = {name: every > 0 and (step % every == 0 or last) for name, every in self._due().items()}
        if not any(due.values()):
            return
        row: dict[str, float] = {}
        if due["line"]:
            row |= self._means()
            self._warn(row)
        learnt = trainer.config.diffusion.weight > 0
        if due["grid"]:
            write_grid(trainer, self._folder / PICTURES / f"grid_{step:07d}.png", samples=learnt)
        if due["fid"] and learnt:
            row["fid"] = self.fid(trainer)
        if row:
            self._write(step, trainer.seconds, row)

    def _due(self) -> dict[str, int]:
        return {"line": _MEAN_OVER, "grid": self._every.grid, "fid": self._every.fid}

    def _means(self) -> dict[str, float]:
        row = {name: sum(values) / len(values) for name, values in self._sums.items()}
        self._sums.clear()
        if "mse" in row:
            row["psnr"] = -10.0 * math.log10(max(row.pop("mse"), 1e-12))
        if row.get("rendering gradient") and "prior gradient" in row:
            row["balance"] = row["prior gradient"] / row["rendering gradient"]
        shown = (f"{name} {row[name]:.3g}" for name in ("psnr", "prior", "balance") if name in row)
        self.headline = ", ".join(shown)
        return row

    def _warn(self, row: dict[str, float]) -> None:
        balance = row.get("balance", 1.0)
        if balance > _DROWNED:
            self._say(
                "drowned",
                f"the prior pulls {balance:.1f} times as hard as the pictures: lower diffusion.weight",
            )
        if balance < _IDLE:
            self._say(
                "idle",
                f"the prior pulls only {balance:.1e} times as hard as the pictures: raise diffusion.weight",
            )
        if row.get("saturated", 0.0) > _SATURATED:
            self._say(
                "saturated",
                f"{row['saturated']:.0%} of the codes' values are at their bounds: raise codes.regularizer",
            )

    def _say(self, kind: str, text: str) -> None:
        """Once a kind, whatever its numbers are later."""
        if kind not in self._said:
            self._said.add(kind)
            print(f"warning: {text}", file=sys.stderr)

    def fid(self, trainer: Trainer) -> float:
        """FID, by the embedded features, of one view each of some samples against as many training pictures, each
        at its picture's size or at LARGEST pixels.

        Biased upwards by the small number: a curve to be read by its course.
        """
        from threedgen.metrics.distribution import fid
        from threedgen.metrics.features import load_features

        model, count = trainer.averages, self._every.samples
        features = load_features()
        rng = generator(trainer.config.seed, "watch/views", 0)
        scenes = torch.randint(len(trainer.scenes), (count,), generator=rng).tolist()
        views = [int(torch.randint(trainer.scenes.views(scene), (1,), generator=rng)) for scene in scenes]
        if self._true is None:
            self._true = torch.cat(
                [
                    features(_true_pictures(trainer, scene, [view]))
                    for scene, view in zip(scenes, views, strict=True)
                ]
            )
        # One at a time, because scenes may differ in the size of their pictures.
        made = []
        codes = sample_codes(model, range(count), 1, steps=_STEPS)
        for scene, view, code in zip(scenes, views, codes, strict=True):
            camera = reduced(trainer.scenes.cameras(scene)[view : view + 1])
            made.append(features(look(model, code, camera).rgb.cpu()))
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
    """A row a sample, seen from around; then for some scenes a row of pictures and a row of what was learnt. The
    longer side of a picture is at most LARGEST pixels."""
    from threedgen.jobs.listeners.previews import write_rows

    model, rows = trainer.averages, []
    if samples:
        codes = sample_codes(model, range(_SAMPLES), steps=_STEPS)
        cameras = reduced(around(model.viewpoint))
        rows += [_row(look(model, code, cameras).rgb) for code in codes]
    learnt = as_pictures(activate(trainer.bank.read(range(min(_SCENES, len(trainer.scenes)))).code))
    for scene, code in enumerate(learnt.to(model.device)):
        chosen = torch.linspace(0, trainer.scenes.views(scene) - 1, VIEWS).long()
        cameras = reduced(trainer.scenes.cameras(scene)[chosen])
        true = _true_pictures(trainer, scene, chosen.tolist())
        rows += [_row(true), _row(look(model, code, cameras).rgb)]
    path.parent.mkdir(exist_ok=True)
    write_rows(path, rows)


def reduced(cameras: Cameras) -> Cameras:
    """The same views with at most LARGEST pixels on the longer side."""
    return cameras.resized(*_reduced_size(cameras.height, cameras.width))


def reduced_pictures(pictures: Float[Tensor, "V H W 3"]) -> Float[Tensor, "V h w 3"]:
    """The same pictures, of the size that `reduced` gives their cameras."""
    return resize(pictures, *_reduced_size(*pictures.shape[1:3]))


def _reduced_size(height: int, width: int) -> tuple[int, int]:
    share = min(1.0, LARGEST / max(height, width))
    return max(1, round(share * height)), max(1, round(share * width))


def _true_pictures(trainer: Trainer, scene: int, views: list[int]) -> Float[Tensor, "V h w 3"]:
    """Some training pictures of a scene, reduced, in [0, 1]."""
    return reduced_pictures(trainer.scenes.pictures(scene)[views].float() / 255.0)


def _row(pictures: Float[Tensor, "V H W 3"]) -> Float[Tensor, "H V*W 3"]:
    return pictures.detach().cpu().clamp(0.0, 1.0).permute(1, 0, 2, 3).flatten(1, 2)


def _board(folder: Path) -> Any:
    """TensorBoard's writer, None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
