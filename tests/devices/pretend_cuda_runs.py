"""Whole runs on a pretend GPU, and how often a step makes the host wait: one row of a table for each family.

    python tests/devices/pretend_cuda_runs.py FOLDER [FAMILY ...]      (--json: JSON instead, with the places)

FOLDER gets the tiny models and the runs. Exits with 0 only if every run ends well, mixes no devices and makes the
host wait no more often than MOST says. What a GPU's own libraries wait for (gsplat, pytorch3d) is not counted.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretend_cuda import Pretend

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from pretend_cuda_guard import build_guard, load_guard  # noqa: E402  (found on the path above)

STEPS = 6
# Saves and pictures come at the end alone, so that the steps between are plain ones.
_SMALL = (
    *("export.settle=0", "export.turntable.frames=2", "export.turntable.size=16", "cameras.resolution=16"),
    *("export.mesh.resolution=16", "checkpoint.every=0.99", "preview.every=0.99"),
)
_CLOUD = (*_SMALL, "representation.count=60", "representation.density.enabled=false")
_CLOUDS = (
    *(*_SMALL, f"stages.0.steps={STEPS}", f"stages.1.steps={STEPS}"),
    *("stages.0.representation.count=60", "stages.0.representation.density.enabled=false"),
)
_FIELD = (*_SMALL, "representation.resolution=8", "renderer.samples=8")
_MESH = (*_SMALL, "representation.resolution=8")
_WHOLE = ("guidance.0.options.kind=copy", "guidance.0.prior.dtype=float32")
_SD = ("--prior", "{sd1}")


def _text(recipe: str, *settings: str) -> list[str]:
    return ["text-to-3d", "a red cube", "--recipe", recipe, *settings]


def _picture(recipe: str, *settings: str) -> list[str]:
    return ["image-to-3d", "{picture}", "--recipe", recipe, *settings]


FAMILIES: Mapping[str, Sequence[str]] = {
    "text-to-3d": _text("text-to-3d", *_CLOUD),
    "sds": _text("sds", *_CLOUD),
    "sds with Stable Diffusion": _text("sds", *_SD, *_CLOUD),
    "csd": _text("csd", *_SD, *_FIELD),
    "nfsd": _text("nfsd", *_SD, *_FIELD),
    "luciddreamer": _text("luciddreamer", *_SD, *_CLOUD),
    "sdi": _text("sdi", *_SD, *_FIELD),
    "gaussiandreamer": _text("gaussiandreamer", *_CLOUD),
    "dreamgaussian": _text("dreamgaussian", *_CLOUDS),
    "dreamfusion": _text("dreamfusion", *_SD, *_FIELD),
    "hifa": _text("hifa", *_SD, *_FIELD),
    "sjc": _text("sjc", *_SD, *_FIELD),
    "prolificdreamer": _text("prolificdreamer", *_SD, *_FIELD, *_WHOLE),
    "mvdream": _text("mvdream", "--prior", "{mvdream}", *_FIELD, "guidance.0.t=[0.02, 0.9]"),
    "fantasia3d": _text("fantasia3d", *_MESH),
    "image-to-3d": _picture("image-to-3d", *_CLOUD),
    "zero123": _picture("zero123", "--prior", "{zero123}", *_CLOUD),
    "nerfdiff": _picture("nerfdiff", *_SMALL, "renderer.samples=8", "--steps", "12"),
    "text-to-4d": ["text-to-4d", "a blue cube bouncing", *_CLOUDS, "export.moving_faces=100", "--fps", "2"],
    "fit": ["fit", "{mesh}", "--resolution", "16", "--views", "4", *_CLOUD[:3], *_CLOUD[4:]],
}


# One answer whether loss and gradients are finite, and one with all numbers of the step.
_LOOP = 2
# In a field it is asked which samples there are, and which of them are not behind a surface.
_FIELDS = dict.fromkeys(
    ("csd", "nfsd", "sdi", "dreamfusion", "hifa", "sjc", "prolificdreamer", "mvdream", "nerfdiff"), _LOOP + 2
)
# kornia sends the window of SSIM in each call, and in a mesh it is asked which edges, faces and pixels there are.
MOST: Mapping[str, int] = {
    **dict.fromkeys(FAMILIES, _LOOP),
    **_FIELDS,
    **{"fit": _LOOP + 1, "dreamgaussian": 14, "fantasia3d": 21},
}


class Steps:
    """A listener: how often the host had waited at the end of each step, by stage."""

    def __init__(self, gpu: Pretend) -> None:
        self._gpu, self._last = gpu, Counter[tuple[str, str]]()
        self.stages: list[list[Counter[tuple[str, str]]]] = []

    def __call__(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "RunStarted":
            self.stages.append([])
        elif kind == "StepDone":
            self.stages[-1].append(self._gpu.waits - self._last)
        if kind in ("RunStarted", "StepDone"):
            self._last = self._gpu.waits.copy()

    def summary(self) -> dict[str, Any]:
        """The most waits of one step, without the first and the last of each stage (which load and save); and every
        place of that step, most often first."""
        inner = [step for steps in self.stages for step in steps[1:-1]]
        worst = max(inner, key=Counter.total)
        places = {f"{operation} {place}": count for (operation, place), count in worst.most_common()}
        return {"waits": worst.total(), "places": places}


def run(family: str, folder: Path, gpu: Pretend) -> dict[str, Any]:
    """One whole run, from the command line to its files."""
    from threedgen.commands.main import main
    from threedgen.jobs import run as jobs

    steps, plain = Steps(gpu), jobs.distill
    gpu.mixed.clear()
    jobs.distill = lambda *args, **keys: plain(*args, **{**keys, "listeners": [*keys["listeners"], steps]})
    out = folder / family.replace(" ", "-").replace(",", "")
    try:
        words = [word.format_map(_Inputs(folder)) for word in FAMILIES[family]]
        if "--steps" not in words and not any(".steps=" in word for word in words):
            words += ["--steps", str(STEPS)]
        status = main([*words, "--device", "cuda", "--out", str(out)])
    finally:
        jobs.distill = plain
    return {"family": family, "status": status, "mixed": list(gpu.mixed), **steps.summary()}


class _Inputs(dict[str, str]):
    """The files that a command names in braces, made when they are first asked for, on the CPU."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder / "inputs"
        self._folder.mkdir(exist_ok=True)

    def __missing__(self, name: str) -> str:
        from tiny_pipelines import KINDS, Pipelines
        from tiny_video_pipelines import VIDEO_KINDS

        if name in KINDS:
            return str(Pipelines(self._folder, KINDS)[name])
        if name in VIDEO_KINDS:
            return str(Pipelines(self._folder, VIDEO_KINDS)[name])
        return str(
            _mesh(self._folder / "cube.ply") if name == "mesh" else _disc(self._folder / "picture.png")
        )


def _disc(path: Path) -> Path:
    """A red disc on nothing."""
    import imageio.v3 as iio
    import numpy as np

    rows, columns = np.mgrid[:32, :32] - 15.5
    cover = 255 * (rows**2 + columns**2 < 121)
    iio.imwrite(
        path, np.dstack([np.full((32, 32), 200), *[np.full((32, 32), 40)] * 2, cover]).astype(np.uint8)
    )
    return path


def _mesh(path: Path) -> Path:
    import trimesh

    trimesh.creation.box().export(path)
    return path


def _choose_backends() -> None:
    """The backends of a pretend GPU: plain torch, and the stand-in for gsplat."""
    from threedgen.renderers import backends

    def absent() -> str:
        return "not on a pretend GPU"

    table: Any = {
        kind: {
            name: (module, (lambda: None) if name == "torch" else absent, devices)
            for name, (module, _, devices) in of_kind.items()
        }
        for kind, of_kind in backends._BACKENDS.items()
    }
    table["splatting"]["gsplat"] = ("pretend_cuda_splatting", lambda: None, ("cuda",))
    table["mesh"]["pytorch3d"] = ("pretend_cuda_meshes", lambda: None, ("cuda",))
    table["mesh"]["native"] = backends._BACKENDS["mesh"]["native"]
    backends._BACKENDS, backends._PREPARE = table, {}  # there is nothing to compile
    backends.available.cache_clear()


def pretend() -> None:
    """Makes a GPU appear in this process, for good. torch must not have been imported yet."""
    load_guard(build_guard())
    import torch
    from pretend_cuda import install

    install()
    torch.set_num_threads(1)
    _choose_backends()


def main() -> int:
    as_json, arguments = "--json" in sys.argv, [word for word in sys.argv[1:] if word != "--json"]
    folder = Path(arguments[0]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pretend()
    from pretend_cuda import Pretend

    good = True
    report, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115  (the commands print their files)
    print("| recipe | waits a step | at most | operations on two devices |\n|---|---|---|---|", file=report)
    for family in arguments[1:] or FAMILIES:
        with Pretend() as gpu:
            try:
                found = run(family, folder, gpu)
            except Exception:  # noqa: BLE001  (the other families are run all the same)
                found = {"family": family, "status": traceback.format_exc(), "mixed": list(gpu.mixed)}
        if found["status"] != 0 or found["mixed"] or not 0 < found["waits"] <= MOST[family]:
            good = False
            print(json.dumps(found), file=sys.stderr)
        row = f"| {family} | {found.get('waits')} | {MOST[family]} | {len(found['mixed'])} |"
        print(json.dumps(found) if as_json else row, file=report, flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
