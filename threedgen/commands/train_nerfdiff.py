"""`threedgen train nerfdiff DATASET`: trains NerfDiff's two networks together, and writes a folder that
`threedgen eval` and `threedgen image-to-3d --recipe nerfdiff` read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError


def train_nerfdiff(argv: list[str]) -> None:
    """Trains, or goes on with, the model in --out; leaves nerfdiff.json, model.safetensors and losses.jsonl
    there."""
    from threedgen.commands.training import add_config, config_of, machine_name, make_folder, run
    from threedgen.datasets.objects import open_objects
    from threedgen.nerfdiff.bank import PairBank
    from threedgen.nerfdiff.card import write_card
    from threedgen.nerfdiff.model import NerfDiffArchitecture
    from threedgen.nerfdiff.store import save_model
    from threedgen.nerfdiff.trainer import NerfDiffTrainer, NerfDiffTrainingConfig

    options = Parser(prog="threedgen train nerfdiff", description=__doc__)
    options.add_argument(
        "dataset",
        metavar="DATASET",
        help="a folder of SRN scenes (rgb/, pose/, intrinsics.txt), or shape-world:CLASS[,CLASS...]",
    )
    options.add_argument("--out", type=Path, default=Path("runs/nerfdiff"), help="folder, resumed if there")
    options.add_argument(
        "--size", type=int, default=64, help="pixels of the pictures and texels of the planes"
    )
    options.add_argument("--features", type=int, default=8, help="of a texel")
    options.add_argument("--objects", type=int, default=0, help="how many, 0: all, of the shape world 2400")
    add_config(options, NerfDiffTrainingConfig)
    arguments = options.parse_args(argv)
    config, folder = config_of(arguments, NerfDiffTrainingConfig), arguments.out
    if arguments.size < 16 or arguments.size % 16:
        raise UserError(f"--size is {arguments.size}: it must be a multiple of 16")
    if arguments.features < 1 or arguments.objects < 0:
        raise UserError("--features must be at least 1, and --objects 0 or more")
    if not config.denoising >= 0.0 or config.coupled not in (0, 1):
        raise UserError("--denoising must be a weight >= 0, and --coupled 0 or 1")
    drawn = arguments.dataset.startswith("shape-world:")
    objects = open_objects(
        arguments.dataset,
        arguments.objects or (2400 if drawn else None),
        arguments.size,
        "train",
        config.seed,
    )
    make_folder(folder)
    architecture = NerfDiffArchitecture(size=arguments.size, features=arguments.features)
    trainer = NerfDiffTrainer(config, architecture, folder)
    trainer.resume()

    def saved() -> None:
        about = {
            "dataset": arguments.dataset if drawn else Path(arguments.dataset).name,
            "objects": len(objects),
            "training": dataclasses.asdict(config),
            "steps": trainer.step,
            "pictures": trainer.pictures,
            "hours": round(trainer.seconds / 3600, 3),
            "machine": machine_name(config.device),
        }
        save_model(trainer.average, folder, about)
        write_card(trainer.average, config, about, folder)

    run(trainer, lambda progress: PairBank(objects, arguments.size, progress), arguments.save_every, saved)
    saved()
