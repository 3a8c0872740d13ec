"""The command line: every kind of bad input is one line and exit code 2 and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fake_parts
import pytest
import torch
import trimesh
import yaml

import threedgen
from threedgen.commands.main import COMMANDS, main
from threedgen.datasets.splat_files import read_splats

TINY = [
    "steps=4",
    "guidance.0.prior.name=disc",
    "representation.count=60",
    "cameras.batch=2",
    "cameras.resolution=16",
    "export.mesh.resolution=24",
    "export.turntable.frames=3",
    "export.turntable.size=32",
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)


def python(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def test_help_names_every_command():
    done = python("-m", "threedgen", "--help")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)
    assert "4D" in done.stdout


def test_a_suffix_of_no_format_is_refused_before_anything_heavy_is_imported():
    code = (
        "import sys; from threedgen.commands.main import main\n"
        "assert main(['export', 'nowhere', '--to', 'a.fbx']) == 2\n"
        "heavy = {'torch', 'numpy', 'PIL', 'trimesh', 'omegaconf'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "the suffix '.fbx' is unknown" in done.stderr


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from threedgen.commands.main import main\n"
        "import threedgen, threedgen.recipes.recipe, threedgen.core.plugins, threedgen.core.schedule\n"
        "main(['--help']); main(['recipes', '--help'])\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'omegaconf', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert "usage: threedgen" in capsys.readouterr().out


def test_an_unknown_suffix_is_refused_before_anything_heavy_is_imported():
    code = (
        "import sys; from threedgen.commands.main import main\n"
        "status = main(['export', 'nowhere', '--to', 'asset.fbx'])\n"
        "heavy = {'torch', 'numpy', 'trimesh', 'scipy', 'PIL', 'omegaconf', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = python("-c", code)
    assert done.returncode == 2, done.stderr
    assert "the suffix '.fbx' is unknown; use one of .glb, " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text-to-3d", ""], "the prompt is empty"),
        (["text-to-3d", "  \n"], "the prompt is empty"),
        (["text-to-3d"], "PROMPT"),
        (
            ["text-to-3d", "x", "--recipe", "text-to-3e"],
            "unknown recipe 'text-to-3e', did you mean 'text-to-3d'?",
        ),
        (["text-to-3d", "x", "--recipe", "missing.yaml"], "there is no recipe file"),
        (["text-to-3d", "x", "representation.cuont=3"], "did you mean 'representation.count'?"),
        (["text-to-3d", "x", "--seed", "one"], "--seed: must be a whole number, got 'one'"),
        (["text-to-3d", "x", "--steps", "1e3x"], "--steps: must be a whole number"),
        (["text-to-3d", "x", "--steps", "0"], "steps is 0; it must be at least 1"),
        (["text-to-3d", "x", "cameras.fov=wide"], "'cameras.fov' must be a number"),
        (["text-to-3d", "x", "--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["text-to-3d", "x", "--sed", "1"], "unrecognized arguments: --sed"),
        (
            ["text-to-3d", "x", "a red cube"],
            "'a red cube' is not a setting (key=value): if it belongs to the prompt, put the whole prompt in",
        ),
        (["text-to-3d", "x", "--prior", "no/such/folder"], "no/such/folder"),
        (["text-to-3d", "x", "--prior", "empty"], "no model_index.json"),
        (["text-to-3d", "x", "--prior", "pickle"], "pickle"),
        (["text-to-3d", "x", "--prior", ""], "--prior is empty"),
        (["text-to-3d", "x", "--recipe", "dreamfusion-if"], "this recipe needs --prior FOLDER"),
        (["text-to-3d", "x", "--recipe", "zero123"], "threedgen image-to-3d PICTURE --recipe zero123"),
        (["text-to-3d", "x", "--out", "a_file"], "'a_file' is a file"),
        (["text-to-3d", "x", "--out", "a_file/below"], "cannot write to 'a_file/below': Not a directory"),
        (["text-to-3d", "x", "--out", "/proc/threedgen", *TINY], "cannot write to '/proc/threedgen'"),
        (["text-to-3d", "x", "--out", "full"], "'full' is not empty and not a run"),
        (["text-to-3d", "x", "renderer.backend=voodoo", *TINY], "unknown splatting backend 'voodoo'"),
        (["resume", "nowhere"], "there is no run 'nowhere'"),
        (["resume", "full"], "'full' is not a run"),
        (["export", "full", "--to", "x.glb"], "'full' is not a run"),
        (["export", "full"], "--to"),
        (["render", "nowhere", "--to", "x.mp4"], "there is no run 'nowhere'"),
        (["text-to-3"], "unknown command 'text-to-3', did you mean 'text-to-3d'?"),
        (["nonsense"], "reconstruct, train"),
        (["text-to-3d"], "are required: PROMPT (see"),
        (["train", "priors"], "unknown command 'train priors', did you mean 'train prior'?"),
    ],
)
def test_bad_input(arguments, message, tmp_path, capsys):
    Path("a_file").write_text("x")
    for folder, name in (("full", "photo.png"), ("pickle/unet", "diffusion_pytorch_model.bin")):
        Path(folder).mkdir(parents=True)
        (Path(folder) / name).write_text("{}")
    Path("empty").mkdir()
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]}
    Path("pickle/model_index.json").write_text(json.dumps({"_class_name": "IFPipeline", **parts}))
    Path("pickle/unet/config.json").write_text(json.dumps({"in_channels": 3}))
    Path("pickle/scheduler").mkdir()
    Path("pickle/scheduler/scheduler_config.json").write_text(json.dumps({"beta_schedule": "linear"}))
    before = sorted(path for path in tmp_path.rglob("*"))
    assert main(arguments) == 2
    written = capsys.readouterr().err.strip().splitlines()
    assert written[-1].startswith("threedgen: ")
    assert message in written[-1]
    assert "Traceback" not in "".join(written)
    runs = [path for path in tmp_path.rglob("*") if path.name != "runs"]
    assert sorted(runs) == before, "something was left behind"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(argv):
        raise ZeroDivisionError

    monkeypatch.setitem(COMMANDS, "recipes", broken)
    with pytest.raises(ZeroDivisionError):
        main(["recipes"])


def test_a_run_from_prompt_to_files_and_what_may_be_done_with_it(tmp_path, capsys):
    assert main(["text-to-3d", "A red  cube!", *TINY, "--seed", "3", "representation.opacity=0.5"]) == 0
    run = tmp_path / "runs" / "a-red-cube"
    out = capsys.readouterr()
    assert "runs/a-red-cube/asset.ply" in out.out
    assert "embedded prior" not in out.err, "another prior was named"
    for name in (
        "recipe.yaml",
        "metrics.jsonl",
        "asset.ply",
        "asset.glb",
        "turntable.mp4",
        "contact_sheet.png",
    ):
        assert (run / name).stat().st_size > 0, name
    assert list((run / "previews").glob("*.png"))
    report = json.loads((run / "report.json").read_text())
    assert (report["prompt"], report["seed"], report["steps"]) == ("A red  cube!", 3, 4)
    assert report["peak_memory_bytes"] > 1e8
    assert report["seconds"]["distilling"] > 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4
    mesh = trimesh.load(run / "asset.glb", force="mesh", process=False)
    assert isinstance(mesh, trimesh.Trimesh)
    merged = mesh.copy()
    merged.merge_vertices(merge_tex=True, merge_norm=True)  # the seams of the texture
    assert report["scores"]["watertight"] is bool(merged.is_watertight)
    assert report["scores"]["faces"] == report["asset"]["faces"] == len(mesh.faces)
    assert report["scores"]["vertices"] == len(mesh.vertices)

    assert main(["text-to-3d", "A red  cube!", *TINY, "--out", str(run)]) == 2
    assert "already holds a run (finished)" in capsys.readouterr().err
    assert main(["resume", str(run)]) == 0
    assert "is finished" in capsys.readouterr().out

    for name in ("x.glb", "x.gltf", "x.obj", "x.stl", "x.usdz", "x.html", "x.ply"):
        capsys.readouterr()
        assert main(["export", str(run), "--to", name, "--faces", "500"]) == 0
        size = Path(name).stat().st_size
        words = (
            r"(\S+): (?:(\d+) triangles, )?(?:texture of 512 x 512, )?([\d.]+) kB\n"
            r"(?:colours: (\w+), because .+\n)?"
        )
        said = re.fullmatch(words, capsys.readouterr().out)
        assert said is not None
        assert said[1] == name
        assert float(said[3]) == pytest.approx(size / 1000.0, abs=0.051)
        assert said[4] == (None if name in ("x.stl", "x.html", "x.ply") else "unlit")
        assert (said[2] is None) if name == "x.ply" else 0 < int(said[2]) <= 500
    assert main(["export", str(run), "--to", "x.ply"]) == 0
    if find_spec("DracoPy"):
        bare = ["--faces", "500", "mesh.texture_size=0"]
        assert main(["export", str(run), "--to", "bare.glb", *bare]) == 0
        assert main(["export", str(run), "--to", "small.glb", *bare, "--draco"]) == 0
        assert Path("small.glb").stat().st_size < 0.5 * Path("bare.glb").stat().st_size
    for name in ("x.compressed.ply", "x.splat", "x.spz", "x.sog", "x.splats.glb"):
        assert main(["export", str(run), "--to", name, "mesh.faces=500"]) == 0
        assert Path(name).stat().st_size > 0
    assert Path("x.ply").read_bytes() == (run / "asset.ply").read_bytes()
    plain = read_splats(run / "asset.ply")
    for up in ("y", "-y", "z", "-z"):
        assert main(["export", str(run), "--to", "up.ply", "--up", up, "splats.degree=1"]) == 0
        assert f"comment up: {up}\n".encode() in Path("up.ply").read_bytes()
        back = read_splats("up.ply")
        torch.testing.assert_close(back.means, plain.means)
        assert back.sh.shape[1] == 4
    assert Path("x.glb").stat().st_size < (run / "asset.glb").stat().st_size
    assert main(["render", str(run), "--to", "x.gif"]) == 0
    assert main(["render", str(run), "--to", "frames", "frames=2"]) == 0
    assert len(list(Path("frames").glob("*.png"))) == 2
    assert main(["render", str(run), "--to", "own", "--show", "optimised", "frames=2"]) == 0
    assert Path("own/frame_00000.png").read_bytes() != Path("frames/frame_00000.png").read_bytes()
    # A run made on a GPU is rendered here, where its backend may not exist.
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("backend: auto", "backend: gsplat"))
    assert "backend: gsplat" in recipe.read_text()
    assert main(["render", str(run), "--to", "again", "frames=1"]) == 0
    capsys.readouterr()
    for arguments, message in (
        (
            ["export", str(run), "--to", "x.fbx"],
            "; an asset that moves can also be written as .mp4, .gif, .webp or DIR/*.ply",
        ),
        (["export", str(run), "--to", "x.mp4"], "nothing moves in"),
        (["export", str(run), "--to", "x"], "the file name has no suffix"),
        (["export", str(run), "--to", "x.obj", "--up", "-y"], "--up is for files of 3D Gaussians, and x.obj"),
        (["export", str(run), "--to", "x.mp4", "--up", "z"], "--up is for files of 3D Gaussians, and x.mp4"),
        (["export", str(run), "--to", "x.ply", "--up", "-x"], "--up"),
        (
            ["export", str(run), "--to", "x.ply", "splats.degree=4"],
            "splats.degree is 4; it must be between",
        ),
        (["export", str(run), "--to", "d/f0.ply", "d/f1.ply"], "write --to 'DIR/*.ply' in quotes"),
        (["export", str(run), "--to", "x.glb", "mesh.fases=3"], "did you mean 'export.mesh.faces'?"),
        (["export", str(run), "--to", "x.stl", "--texture-format", "webp"], "Draco are for .glb and .gltf"),
        (["export", str(run), "--to", "x.obj", "--draco"], "Draco are for .glb and .gltf"),
        (["export", str(run), "--to", "x.glb", "--faces", "few"], "must be a whole number, got 'few'"),
        (["export", str(run), "--to", "x.glb", "--faces", "50"], "must be at least 100"),
        (["render", str(run), "--to", "x.avi"], "use one of .mp4, .gif"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_a_second_run_of_a_prompt_gets_its_own_folder(tmp_path, capsys):
    Path("recipe.yaml").write_text(fake_parts.RECIPE)
    arguments = ["text-to-3d", "Red", "--recipe", "recipe.yaml", "--steps", "2", "checkpoint.every=1"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert capsys.readouterr().err.count("warning: no exporter for Tensor") == 2
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["red", "red-2"]


def test_the_embedded_prior_is_introduced_once(capsys):
    main(["text-to-3d", "x", "--out", "run", "renderer.backend=voodoo"])
    written = capsys.readouterr().err
    assert written.count("the embedded prior is used") == 1
    assert "--prior FOLDER" in written
    assert "threedgen things" in written
    main(["text-to-3d", "x", "--out", "run", "--recipe", "sds", "renderer.backend=voodoo"])
    written = capsys.readouterr().err
    assert written.count("the embedded prior of solids") == 1
    assert "cube" in written
    main(["text-to-3d", "x", "--out", "run", "--prior", "./nowhere/folder"])
    assert "small model" not in capsys.readouterr().err


def test_another_seed_shows_another_thing_of_that_name(capsys):
    for words, instance in ((["--seed", "3"], 3), ([], 0), (["guidance.0.prior.options.instance=7"], 7)):
        assert main(["text-to-3d", "a cat", "--dry-run", *words]) == 0
        prior = yaml.safe_load(capsys.readouterr().out)["guidance"][0]["prior"]
        assert (prior["name"], prior["options"]) == ("embedded-things", {"instance": instance})
    assert main(["text-to-3d", "a cat", "--dry-run", "--prior", "embedded", "--strict"]) == 0
    prior = yaml.safe_load(capsys.readouterr().out)["guidance"][0]["prior"]
    assert (prior["name"], prior["options"]) == ("embedded-things", {"instance": 0, "strict": True})
    assert main(["text-to-3d", "a cat", "--dry-run", "--prior", "/models/sd"]) == 0
    prior = yaml.safe_load(capsys.readouterr().out)["guidance"][0]["prior"]
    assert (prior["path"], prior["options"]) == ("/models/sd", {})
    assert main(["text-to-3d", "a cat", "--dry-run", "--strict", "--recipe", "sds"]) == 2
    assert "--strict is for the embedded prior of things" in capsys.readouterr().err


def test_strict_refuses_unknown_words_before_the_run(tmp_path, monkeypatch, capsys):
    """Also with --dry-run: nothing is begun, so nothing is left."""
    monkeypatch.chdir(tmp_path)
    for prompt, word, more in (
        ("a xylofoobarian", "xylofoobarian", []),
        ("a xylofoobarian", "xylofoobarian", ["--dry-run"]),
        ("a blorfy cube", "blorfy", ["--dry-run"]),
    ):
        assert main(["text-to-3d", prompt, "--strict", "--steps", "2", *more]) == 2
        written = capsys.readouterr()
        assert f"has not learnt '{word}' (it knows" in written.err
        assert "distilling" not in written.err
        assert written.out == ""
    assert list(tmp_path.iterdir()) == []


def test_recipes_lists_them(capsys):
    assert main(["recipes"]) == 0
    text, _, latent = capsys.readouterr().out.partition("\n\n")
    printed = text.splitlines()
    listed = [line.split()[0] for line in printed if not line.startswith(" ")]
    folder = Path(threedgen.__file__).parent / "configs"
    assert listed == sorted(path.stem for path in folder.glob("*.yaml"))
    assert {"text-to-3d", "prolificdreamer", "dreamfusion-if"} <= set(listed)
    assert sum(line.strip().startswith("needs: ") for line in printed) == len(listed)
    assert {"ssdnerf-tiny", "ssdnerf-srn-cars"} <= set(latent.split())


def test_doctor(tmp_path, monkeypatch, capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("torch", "cores", "compiled kernels", "CUDA", "gsplat", "torchvision", "splatting: native"):
        assert name in text
    poisoned = tmp_path / "torchvision"
    poisoned.mkdir()
    (poisoned / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["doctor"]) == 1
    assert "pip uninstall torchvision (operator torchvision::nms" in capsys.readouterr().out
