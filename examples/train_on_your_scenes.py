"""A 3D generator of your own objects: a folder of posed pictures, an SSDNeRF trained on it, new objects as GLBs.

    python examples/train_on_your_scenes.py OUT [FOLDER]

FOLDER holds a folder a scene, with rgb/, pose/ and intrinsics.txt (SRN) or with a transforms.json. Without one it
draws a few mugs and writes them that way. The steps are far too few: this shows the calls. The commands that do the
same are `threedgen train ssdnerf FOLDER --out RUN` and `threedgen sample RUN`.
"""

import sys
from pathlib import Path

from threedgen.datasets.multiview import write_srn
from threedgen.datasets.objects import open_objects
from threedgen.ssdnerf.assets import write_objects
from threedgen.ssdnerf.config import load_config
from threedgen.ssdnerf.model import load_model
from threedgen.ssdnerf.posed_objects import pack
from threedgen.ssdnerf.sampling import sample_codes
from threedgen.ssdnerf.trainer import Trainer
from threedgen.ssdnerf.training import train
from threedgen.ssdnerf.watch import Every, Watch

# A recipe is a set of settings; every one of them can be changed like this, as on the command line.
SETTINGS = (
    "batch=4",
    "codes.resolution=16",
    "diffusion.widths=[32, 64]",
    "diffusion.attention=[false, true]",
    "diffusion.captions=false",
    "rays=256",
    "rendering.samples=32",
)


def write_mugs(folder: Path, count: int = 8, views: int = 6) -> Path:
    """A set in the layout of SRN. Yours comes from Blender, a turntable, or COLMAP: see docs/fitting.md."""
    mugs = open_objects("shape-world:mug", count, size=32, split="train", views=views)
    for index, name in enumerate(mugs.names):
        write_srn(folder / name, mugs.load(index))
    return folder


def main(out: str, folder: str | None = None, steps: int = 60, count: int = 2) -> list[Path]:
    run = Path(out)
    run.mkdir(parents=True, exist_ok=True)
    objects = open_objects(folder or str(write_mugs(run / "mugs")))
    scenes = pack(objects, run / "scenes")  # reads and checks every picture, once
    config = load_config("ssdnerf-tiny", SETTINGS, steps)
    trainer = Trainer(config, scenes, run)  # goes on where a killed one stopped
    watch = Watch(run, trainer.step, Every(grid=500, fid=0))
    about = {"dataset": folder or "mugs"}
    train(trainer, watch, about, save_every=250, report=lambda step, said: print(step, said, end="\r"))
    model = load_model(run)
    codes = sample_codes(model, range(count), seed=0, steps=10)
    names = [f"sample-{number}" for number in range(count)]
    files, empty = write_objects(model, codes, names, run / "samples", {"seed": 0})
    for name in empty:
        print(f"{name} has no surface yet: train longer")
    return files


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    print(*main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None), sep="\n")
