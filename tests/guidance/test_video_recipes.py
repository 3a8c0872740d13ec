"""Video models in recipes: a run of text-to-4d with each, and the messages if one cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from splatting_scenes import random_cloud
from tiny_pipelines import edit

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat import write_splats
from threedgen.guidance.priors.adapters.choose import adapter_of
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.pipelines.text_to_4d import MotionWish, motion_recipe

QUICK = [
    *("export.mesh.resolution=32", "export.moving_faces=500", "export.turntable.size=32"),
    *("export.turntable.frames=4", "cameras.resolution=16", "cameras.batch=1"),
]
SHORT = "guidance.0.prior.options.frames"


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    path = tmp_path_factory.mktemp("asset") / "asset.ply"
    write_splats(path, SplatParameters.from_cloud(random_cloud(200, degree=0)))
    return path


def text_to_4d(asset, folder, out, *settings: str) -> int:
    command = ["text-to-4d", "a dog running", "--asset", str(asset), "--video-prior", str(folder)]
    timing = ["--steps", "2", "--seconds", "1", "--fps", "4"]
    return main([*command, "--out", str(out), *timing, *QUICK, *settings])


def test_a_run_with_a_text_to_video_model(video_pipelines, asset, tmp_path):
    """The prompt names no motion of the shape world, and the clips have the length of the model."""
    out = tmp_path / "run"
    assert text_to_4d(asset, video_pipelines["modelscope"], out, f"{SHORT}=3") == 0
    assert {"anim.glb", "anim.mp4", "report.json"} <= {path.name for path in out.iterdir()}
    assert json.loads((out / "report.json").read_text())["asset"]["motion"] > 0.0


def test_a_run_with_an_image_to_video_model(video_pipelines, asset, tmp_path):
    import imageio.v3 as iio

    picture = tmp_path / "dog.png"
    iio.imwrite(picture, (torch.rand(16, 16, 3) * 255).byte().numpy())
    folder = video_pipelines["svd"]
    told = f"guidance.0.reference.image={picture}"
    assert text_to_4d(asset, folder, tmp_path / "run", told) == 0
    assert (tmp_path / "run" / "anim.glb").is_file()


def test_clips_are_as_long_as_the_model_sees_them(video_pipelines, asset):
    def frames(kind: str, *settings: str) -> int:
        wish = MotionWish("a dog", Path(asset), video_prior=str(video_pipelines[kind]))
        recipe = motion_recipe("text-to-4d", wish, settings)
        return recipe.cameras.config.frames

    assert frames("modelscope") == 16
    assert frames("cogvideox") == 9
    assert frames("wan", f"{SHORT}=5") == 5
    assert frames("wan", f"{SHORT}=5", "cameras.frames=5") == 5
    with pytest.raises(UserError, match=r"clips of 5 frames: leave cameras\.frames out"):
        frames("wan", f"{SHORT}=5", "cameras.frames=8")


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("svd", [], "makes a picture move: set guidance.0.reference.image"),
        ("modelscope", [f"{SHORT}=1"], "options.frames is 1; it must be at least 2"),
        (
            "modelscope",
            ["guidance.0.prior.options.fps=8"],
            "unknown key 'options.fps'; known in 'options': frames, size",
        ),
        ("animatediff", [f"{SHORT}=40"], "has positions for 32 frames, not 40"),
        ("wan", [f"{SHORT}=8"], "compresses groups of 4 frames after the first: set it to 9 or 13"),
        ("cogvideox", [f"{SHORT}=7"], "compresses groups of 4 frames after the first: set it to 5 or 9"),
        (
            "cogvideox",
            ["guidance.0.prior.options.size=40"],
            "are multiples of 16 pixels: set it to 32",
        ),
        (
            "modelscope",
            ["guidance.0.prior.options.size=30"],
            "are multiples of 4 pixels: set it to 28",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    kind, settings, said, video_pipelines, asset, tmp_path, capsys
):
    assert text_to_4d(asset, video_pipelines[kind], tmp_path / "run", *settings) == 2
    found = capsys.readouterr().err.strip()
    assert said in found
    assert found.count("threedgen:") == 1


@pytest.mark.parametrize(("kind", "batch"), [("modelscope", 3), ("modelscope", 4), ("cogvideox", 9)])
def test_a_still_recipe_is_told_how_to_use_a_video_model(kind, batch, video_pipelines, tmp_path, capsys):
    """Also if its views happen to be whole clips."""
    settings = [f"{SHORT}=3"] if kind == "modelscope" else []
    command = ["text-to-3d", "a dog", "--prior", str(video_pipelines[kind]), "--out", str(tmp_path / "run")]
    assert main([*command, "--steps", "1", f"cameras.batch={batch}", "cameras.resolution=16", *settings]) == 2
    assert "name it with --video-prior of text-to-4d" in capsys.readouterr().err


def test_without_times_or_whole_clips_it_says_so(video_pipelines):
    prior: Any = load_prior(PriorConfig(path=str(video_pipelines["modelscope"]), options={"frames": 3}))
    with pytest.raises(UserError, match="clips of 3 frames, not 4 pictures"):
        prior.encode(torch.rand(4, 8, 8, 3))
    z, t = torch.randn(1, 12, 16, 16), torch.tensor([0.5])
    with pytest.raises(UserError, match="name it with --video-prior of text-to-4d"):
        prior.predict(z, t, Condition(("a dog",)))
    picture: Any = load_prior(PriorConfig(path=str(video_pipelines["svd"])))
    moments = torch.linspace(0.0, 1.0, 4)[None]
    with pytest.raises(UserError, match=r"set `reference\.image`, the picture"):
        picture.predict(torch.randn(1, 16, 16, 16), t, Condition(("",), times=moments))


@pytest.mark.parametrize(
    ("kind", "part", "changes", "said"),
    [
        ("modelscope", "vae", {}, "its autoencoder is AutoencoderTiny, not AutoencoderKL"),
        ("svd", "vae", {}, "its autoencoder is AutoencoderTiny, not AutoencoderKLTemporalDecoder"),
        ("modelscope", "", {"vae": [None, None]}, "lacks the part vae"),
        ("wan", "", {"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "it has two transformers"),
        ("wan", "transformer", {"in_channels": 9}, "takes 9 channels, not 4"),
        ("wan", "transformer", {"image_dim": 8}, "its transformer needs a picture"),
        ("cogvideox", "transformer", {"in_channels": 8}, "takes 8 channels, not 4"),
        ("svd", "unet", {"in_channels": 4}, "takes 4 channels, not 8"),
        ("animatediff", "unet", {"addition_embed_type": "text_time"}, "needs added conditions"),
        ("animatediff", "unet", {"encoder_hid_dim_type": "ip_image_proj"}, "needs pictures beside the text"),
        ("svd", "scheduler", {"timestep_type": "discrete"}, "no continuous noise levels"),
        ("svd", "scheduler", {"sigma_max": None}, "no continuous noise levels"),
        ("wan", "scheduler", {"prediction_type": "epsilon"}, "not that of a flow model"),
    ],
)
def test_models_that_look_alike_are_refused(kind, part, changes, said, video_pipelines, tmp_path):
    import shutil

    folder = tmp_path / kind
    shutil.copytree(video_pipelines[kind], folder)
    if part and changes:
        edit(folder / part / f"{'scheduler_' if part == 'scheduler' else ''}config.json", **changes)
    else:
        edit(folder / "model_index.json", **(changes or {"vae": ["diffusers", "AutoencoderTiny"]}))
    with pytest.raises(UserError, match=said):
        load_prior(PriorConfig(path=str(folder)))


def test_which_folders_hold_video_models(pipelines, video_pipelines):
    assert not adapter_of(PipelineFolder(pipelines["sd1"])).video
    assert all(adapter_of(PipelineFolder(video_pipelines[kind])).video for kind in video_pipelines)


@pytest.mark.parametrize("kind", ["modelscope", "svd", "cogvideox", "wan"])
def test_tiles_keep_the_shapes_and_the_gradient(kind, video_pipelines):
    """At sizes that the default tiles of an autoencoder would not divide."""
    options: dict[str, Any] = {"svd": {}, "modelscope": {"frames": 5}, "wan": {"frames": 5, "size": 48}}.get(
        kind, {"size": 48}
    )
    prior: Any = load_prior(
        PriorConfig(path=str(video_pipelines[kind]), options=options, vae_tiling=True, attention_slicing=True)
    )
    images = torch.rand(prior.frames, 16, 16, 3, requires_grad=True)
    x = prior.encode(images)
    (gradient,) = torch.autograd.grad(x.square().sum(), images)
    assert bool(gradient.isfinite().all())
    assert (gradient.abs().amax((1, 2, 3)) > 0.0).all()
    assert prior.decode(x.detach()).shape == (prior.frames, prior.image_size, prior.image_size, 3)
    whole: Any = load_prior(PriorConfig(path=str(video_pipelines[kind]), options=options))
    assert whole.encode(images).shape == x.shape
    seams = (whole.encode(images) - x).abs().max()
    assert (seams > 0.0) == (kind != "svd")  # whose autoencoder has no tiles
