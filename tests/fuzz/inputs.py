"""The kinds of files that are damaged: how small ones are made, and what reads them.

Only what takes no training and no long run is called, so that a try takes a few milliseconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from fuzz.mutations import absurd_number, changed, damage
from fuzz.sandbox import Use
from threedgen.commands.main import main

INPUTS = Path("inputs")
OUT = Path("out")
TINY = (
    *("representation.count=60", "cameras.batch=1", "cameras.resolution=16", "guidance.0.prior.name=disc"),
    *("export.mesh.resolution=16", "export.turntable.frames=2", "export.turntable.size=32"),
)


@dataclass(frozen=True)
class Kind:
    """make: writes small, good inputs into a folder. damage: spoils them with numbers from a generator and says
    how. use: reads them from the folder INPUTS of the current folder, see `fuzz.sandbox.attempt`."""

    make: Callable[[Path], None]
    use: Use
    damage: Callable[[Random, Path], str] = damage


def picture(size: int = 32, shift: int = 0) -> Image.Image:
    """A disc with a square on it, on transparency."""
    made = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(made)
    draw.ellipse([4 + shift, 4, size - 8 + shift, size - 5], fill=(40, 90, 200, 255))
    draw.rectangle([10 + shift, 10, 18 + shift, 20], fill=(200, 60, 40, 255))
    return made


def _recipe(folder: Path) -> None:
    from threedgen.recipes.load import load_recipe

    recipe = load_recipe("text-to-3d", [*TINY], prompt="a cube")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(dict(recipe.resolved)))


def _use_recipe() -> int:
    return main(["text-to-3d", "a cube", "--recipe", str(INPUTS / "recipe.yaml"), "--dry-run"])


def _overrides(folder: Path) -> None:
    (folder / "overrides.json").write_text(json.dumps([*TINY, "optim.nothing=1"][:-1]))


def _damage_overrides(random: Random, root: Path) -> str:
    """Keys and values of the command line: text that is no file."""
    file = root / "overrides.json"
    words = json.loads(file.read_bytes())
    number = random.randrange(len(words))
    key, _, value = words[number].partition("=")
    deed = random.randrange(5)
    if deed == 0:
        value = json.dumps(changed(random, {"a": [value]}).get("a"))
    elif deed == 1:
        value = (absurd_number(random, value.encode()) or b"[").decode()
    elif deed == 2:
        parts = key.split(".")
        parts[random.randrange(len(parts))] = random.choice(
            ["", "0", "-1", "99", "name", "é", "__class__", "a b"]
        )
        key = ".".join(parts)
    elif deed == 3:
        key = key.rpartition(".")[0] or key
    else:
        value = random.choice(
            ["[" * 2000, "{a: ", "!!python/name:os.system", "&a [*a]", "'", "1e400", "\x01", "null"]
        )
    words[number] = random.choice([f"{key}={value}", key, value]) if deed == 4 else f"{key}={value}"
    file.unlink()
    file.write_text(json.dumps(words))
    return f"override {words[number][:100]!r}"


def _use_overrides() -> int:
    return main(["text-to-3d", "a cube", "--dry-run", *json.loads((INPUTS / "overrides.json").read_bytes())])


def _run(folder: Path) -> None:
    assert main(["text-to-3d", "a cube", "--steps", "2", "--out", str(folder / "run"), *TINY]) == 0


def _use_run() -> int:
    """A run is exported, and a copy of it continued."""
    run = INPUTS / "run"
    if main(["export", str(run), "--to", str(OUT / "asset.ply")]) == 2:
        return 2
    shutil.copytree(run, OUT / "copy", symlinks=True)
    report = OUT / "copy" / "report.json"
    if not report.is_dir():  # a finished run would not be continued
        report.unlink(missing_ok=True)
    return 0 if main(["resume", str(OUT / "copy")]) in (0, 2) else 1


_SPLATS = ("a.compressed.ply", "a.splat", "a.spz", "a.sog", "a.splats.glb")


def _meshes(folder: Path) -> None:
    import trimesh
    from splatting_scenes import random_cloud

    from threedgen.datasets.splat_files import SplatParameters
    from threedgen.export import write
    from threedgen.export.splat import write_splats

    box = trimesh.creation.box()
    painted: Any = box.visual
    painted.vertex_colors = np.full((8, 4), 200, np.uint8)
    for suffix in ("glb", "ply", "stl", "off"):
        box.export(folder / f"box.{suffix}")
    (folder / "box.mtl").write_text("newmtl paint\nKd 0.8 0.2 0.1\nd 1.0\nmap_Kd paint.png\n")
    picture().save(folder / "paint.png")
    corners = "".join(f"v {x} {y} {z}\nvt {x} {y}\n" for x in (0, 1) for y in (0, 1) for z in (0, 1))
    faces = "f 1/1 2/2 4/4 3/3\nf 5/5 7/7 8/8 6/6\nf 1/1 5/5 6/6 2/2\nf 3/3 4/4 8/8 7/7\n"
    (folder / "box.obj").write_text(f"mtllib box.mtl\nusemtl paint\n{corners}{faces}")
    cloud = random_cloud(20, degree=1, size=0.2)
    write_splats(folder / "splats.ply", SplatParameters.from_cloud(cloud))
    for name in _SPLATS:
        write(cloud, folder / name)


def _use_meshes() -> None:
    from threedgen.datasets.mesh_files import read_painted
    from threedgen.datasets.splat_files import read_splats

    _each(
        *((lambda suffix=suffix: read_painted(INPUTS / f"box.{suffix}")) for suffix in ("glb", "obj", "ply")),
        *((lambda suffix=suffix: read_painted(INPUTS / f"box.{suffix}")) for suffix in ("stl", "off")),
        *((lambda name=name: read_splats(INPUTS / name)) for name in ("splats.ply", *_SPLATS)),
    )


def _pictures(folder: Path) -> None:
    whole = picture()
    for name in ("a.png", "a.webp", "a.gif", "a.tiff"):
        whole.save(folder / name)
    white = Image.new("RGB", whole.size, "white")
    white.paste(whole, mask=whole.getchannel("A"))
    for name in ("white.jpg", "white.bmp"):
        white.save(folder / name)
    whole.getchannel("A").save(folder / "mask.png")
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 60).save(folder / "depth.png")


def _use_pictures() -> None:
    from threedgen.datasets.cut_outs import cut_out_of

    names = ("a.png", "a.webp", "a.gif", "a.tiff")
    _each(
        *((lambda name=name: cut_out_of(INPUTS / name, size=32)) for name in names),
        lambda: cut_out_of(INPUTS / "white.jpg", INPUTS / "mask.png", INPUTS / "depth.png", size=32),
        lambda: cut_out_of(INPUTS / "white.bmp", INPUTS / "mask.png", size=32),
    )


def _films(folder: Path) -> None:
    import imageio.v3 as imageio

    frames = [picture(shift=shift) for shift in range(3)]
    for name in ("film.gif", "film.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=100, disposal=2)
    (folder / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(folder / "frames" / f"{number}.png")
    white = [
        np.asarray(Image.alpha_composite(Image.new("RGBA", (32, 32), "white"), frame).convert("RGB"))
        for frame in frames
    ]
    imageio.imwrite(folder / "film.mp4", np.stack(white), fps=8, macro_block_size=2)


def _use_films() -> None:
    from threedgen.datasets.films import film_of

    names = ("film.gif", "film.webp", "frames", "film.mp4")
    _each(*((lambda name=name: film_of(INPUTS / name, size=32)) for name in names))


def _data(folder: Path) -> None:
    from threedgen.datasets.multiview import write_srn, write_transforms
    from threedgen.datasets.objects import open_objects

    views = open_objects("shape-world:mug", count=1, size=16, split="train", views=4).load(0)
    write_transforms(folder / "transforms", views)
    _add_depths(folder / "transforms", views.alpha[..., 0])
    for name in ("a", "b"):
        write_srn(folder / "objects" / name, views)
    (folder / "objects" / "captions.json").write_text(json.dumps({"a": "a mug", "b": "a cup"}))


def _add_depths(folder: Path, solid: Any) -> None:
    """Depths of two of the views, as a picture of 16 bits and as an archive."""
    file = folder / "transforms.json"
    document = json.loads(file.read_text())
    levels = [(2000.0 * view).astype(np.uint16) for view in solid.numpy()]
    Image.fromarray(levels[0]).save(folder / "depth.png")
    np.savez_compressed(folder / "depth.npz", levels[1])
    for frame, name in zip(document["frames"], ("depth.png", "depth.npz"), strict=False):
        frame["depth_file_path"] = name
    file.write_text(json.dumps(document))


def _use_data() -> None:
    """What a training or a fit does with the views: it draws rays through them and needs finite ones."""
    from threedgen.datasets.given import read_pictures
    from threedgen.datasets.multiview import object_reach
    from threedgen.datasets.objects import open_objects

    def objects() -> None:
        found = open_objects(str(INPUTS / "objects"))
        for index in range(len(found)):
            found.caption(index)
            _sound(object_reach(found.load(index)))

    _each(lambda: _sound(object_reach(read_pictures(INPUTS / "transforms", depths=True))), objects)


def _sound(reach: float) -> None:
    assert 0.0 <= reach < 1e6, f"views of an object that reaches {reach}"


_SCENE = """
fps: 8
seconds: 2
assets:
  - name: cube
    asset: cube.ply
    prompt: a red cube
    at: [-0.8, 0, 0]
    motion:
      - {prompt: sliding, seconds: 1}
      - {prompt: spinning, seconds: 1, overlap: 0.25}
  - {name: mug, asset: mug.obj, scale: 0.4}
  - name: ball
    prompt: a ball
    path: {points: [{time: 0, at: [0.8, 0, 0]}, {time: 1.75, at: [0.8, 0.5, 0], turn: 30}]}
"""


def _scene(folder: Path) -> None:
    from splatting_scenes import random_cloud

    from threedgen.datasets.splat_files import SplatParameters
    from threedgen.export.splat import write_splats

    write_splats(folder / "cube.ply", SplatParameters.from_cloud(random_cloud(20, degree=0, size=0.2)))
    (folder / "mug.obj").write_text(
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 2 3 4\nf 1 3 4\n"
    )
    (folder / "scene.yaml").write_text(_SCENE)


def _use_scene() -> int:
    return main(["compose", str(INPUTS / "scene.yaml"), "--dry-run", "--out", str(OUT)])


def _each(*uses: Callable[[], object]) -> None:
    """Calls all of them, and then raises the first UserError of theirs."""
    from threedgen.core.errors import UserError

    refused: list[UserError] = []
    for use in uses:
        try:
            use()
        except UserError as error:
            refused.append(error)
    if refused:
        raise refused[0]


FILES = {
    "recipes": Kind(_recipe, _use_recipe),
    "overrides": Kind(_overrides, _use_overrides, _damage_overrides),
    "runs": Kind(_run, _use_run),
    "meshes": Kind(_meshes, _use_meshes),
    "pictures": Kind(_pictures, _use_pictures),
    "films": Kind(_films, _use_films),
    "data sets": Kind(_data, _use_data),
    "scenes": Kind(_scene, _use_scene),
}
