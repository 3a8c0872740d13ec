"""Single-stage against two-stage training of codes, decoder and diffusion, with many and with few views a scene.

    python benchmarks/ssdnerf.py            everything: hours on one core; it goes on where it was stopped
    python benchmarks/ssdnerf.py --views 3 --steps 200 --scenes 64 --samples 32 --objects 4    a look at it

Single-stage trains all together for --steps steps. Two-stage, with the same number of steps of each network and
of the codes: an auto-decoder first (no prior; the codes' smoothness takes its place), then the diffusion on
codes that stay as they are. Both are measured on objects that were never trained on: FID and KID of
unconditional samples, and PSNR and SSIM of what one view is turned into. The ablation takes the single-stage
model of the most views.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from threedgen.core.atomic import replacing
from threedgen.datasets.objects import ObjectSet, open_objects
from threedgen.evaluation import evaluate_objects, evaluate_samples
from threedgen.evaluation.samples import VIEWS
from threedgen.ssdnerf.config import Config, load_config
from threedgen.ssdnerf.model import LatentModel
from threedgen.ssdnerf.posed_objects import PosedObjects, pack
from threedgen.ssdnerf.reconstruction import Finetuning, Guiding, Reconstructed, Reconstruction
from threedgen.ssdnerf.trainer import Trainer
from threedgen.ssdnerf.views import Sampled
from threedgen.ssdnerf.watch import write_grid

CATEGORY, SIZE = "shape-world:car", 64
SMOOTHNESS = 0.3  # of the two-stage codes
WAYS = {
    "guidance and finetuning": Reconstruction(),
    "guidance only": Reconstruction(finetuning=Finetuning(outer=0)),
    "finetuning only": Reconstruction(guiding=Guiding(steps=0)),
    "both, finetuning without prior": Reconstruction(finetuning=Finetuning(prior=0.0)),
}


def trained(config: Config, scenes: PosedObjects, folder: Path, start: Path | None = None) -> Trainer:
    """A training of `config` in `folder`, from its last checkpoint on to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, scenes, folder)
    if trainer.step == 0 and start is not None:
        trainer.start_from(start)
    begun = time.perf_counter()
    while trainer.step < config.steps:
        seen = trainer.train_step()
        if trainer.step % 100 == 0 or trainer.step == config.steps:
            trainer.save()
            said = {name: round(value, 4) for name, value in seen.items()}
            print(f"  {folder.name} {trainer.step} {time.perf_counter() - begun:.0f} s {said}", flush=True)
    if not list(folder.glob("grid.png")):
        write_grid(trainer, folder / "grid.png", samples=config.diffusion.weight > 0)
    return trainer


def models(arguments: argparse.Namespace, views: int) -> dict[str, tuple[LatentModel, float]]:
    """Both models of so many views a scene, with the seconds of their trainings."""
    objects = open_objects(CATEGORY, arguments.scenes, SIZE, "train", views=views)
    scenes = pack(objects, arguments.work / f"scenes-{views}")
    config = load_config("ssdnerf-tiny", arguments.settings, arguments.steps)
    single = trained(config, scenes, arguments.work / f"single-{views}")
    first = replace(
        config,
        diffusion=replace(config.diffusion, weight=0.0),
        codes=replace(config.codes, smoothness=SMOOTHNESS),
    )
    codes = trained(first, scenes, arguments.work / f"codes-{views}")
    second = trained(replace(config, inner=0), scenes, arguments.work / f"diffusion-{views}", codes.folder)
    return {
        "single-stage": (single.averages, single.seconds),
        "two-stage": (second.averages, codes.seconds + second.seconds),
    }


def of_samples(model: LatentModel, objects: ObjectSet, count: int) -> dict[str, float]:
    """FID and KID of `count` samples against as many objects, from the same cameras."""
    found = evaluate_samples(Sampled(model, steps=25), objects, count=count)
    return {"fid": found.fid or 0.0, "kid": 1e3 * (found.kid or 0.0)}


def of_views(model: LatentModel, how: Reconstruction, objects: ObjectSet) -> dict[str, float]:
    """PSNR, SSIM and seconds of reconstructions from one view."""
    found = evaluate_objects(Reconstructed(model, how), objects, "short")
    measured = {"psnr": found.mean("psnr"), "ssim": found.mean("ssim"), "fid1": found.fid}
    return {
        **{name: float(value or 0.0) for name, value in measured.items()},
        "seconds": found.seconds or 0.0,
    }


class Results:
    """What was measured, in a file that a second run goes on with if it is asked for the same."""

    def __init__(self, path: Path, asked: dict[str, Any]) -> None:
        self.path, self.asked = path, asked
        self.rows: dict[str, dict[str, Any]] = {}
        if path.is_file():
            document = json.loads(path.read_text())
            if document["asked"] != asked:
                sys.exit(f"{path} is of {document['asked']}: choose another --work")
            self.rows = document["rows"]

    def measure(self, name: str, measure: Any) -> dict[str, Any]:
        """The row of that name, measured if it is not there."""
        if name not in self.rows:
            self.rows[name] = measure()
            with replacing(self.path) as path:
                path.write_text(json.dumps({"asked": self.asked, "rows": self.rows}, indent=1))
            print(f"  {name}: {self.rows[name]}", flush=True)
        return self.rows[name]


def compare(arguments: argparse.Namespace) -> None:
    asked = ("scenes", "steps", "samples", "objects", "settings")
    results = Results(arguments.work / "results.json", {name: getattr(arguments, name) for name in asked})
    held_out = open_objects(CATEGORY, arguments.samples, SIZE, "test")
    shown = open_objects(CATEGORY, arguments.objects, SIZE, "test")
    ablated = None
    for views in arguments.views:
        for name, (model, seconds) in models(arguments, views).items():
            row = f"{name}, {views} views"
            results.measure(f"{row}/samples", lambda m=model: of_samples(m, held_out, arguments.samples))
            results.measure(f"{row}/1 view", lambda m=model: of_views(m, Reconstruction(), shown))
            results.measure(f"{row}/cost", lambda s=seconds: {"minutes": s / 60.0})
            ablated = ablated or model
    assert ablated is not None
    for name, how in WAYS.items():
        results.measure(f"ablation/{name}", lambda h=how, m=ablated: of_views(m, h, shown))
    print_tables(results.rows, arguments)


def print_tables(rows: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    print(f"\n{arguments.scenes} scenes, {arguments.steps} steps; {arguments.samples} samples x ", end="")
    print(f"{VIEWS} views; 1 view of {arguments.objects} held-out objects\n")
    print("| training | FID (embedded) | KID x 1000 | PSNR dB | SSIM | minutes |\n|---|---|---|---|---|---|")
    for views in arguments.views:
        for name in ("single-stage", "two-stage"):
            row = f"{name}, {views} views"
            made, seen, cost = (rows[f"{row}/{part}"] for part in ("samples", "1 view", "cost"))
            drawn = f"{made['fid']:.2f} | {made['kid']:.2f}"
            print(f"| {row} | {drawn} | {seen['psnr']:.2f} | {seen['ssim']:.3f} | {cost['minutes']:.1f} |")
    print("\n| from one view | PSNR dB | SSIM | FID (embedded) | s |\n|---|---|---|---|---|")
    for name in WAYS:
        row = rows[f"ablation/{name}"]
        print(
            f"| {name} | {row['psnr']:.2f} | {row['ssim']:.3f} | {row['fid1']:.2f} | {row['seconds']:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="changes of ssdnerf-tiny")
    parser.add_argument("--work", type=Path, default=Path("runs/ssdnerf-benchmark"), help="folder, resumed")
    parser.add_argument("--views", type=int, nargs="+", default=[50, 10, 3])
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--objects", type=int, default=20)
    arguments = parser.parse_intermixed_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    compare(arguments)


if __name__ == "__main__":
    main()
