"""The kinds of models and trainings that are damaged: how small ones are made, and what reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fuzz.inputs import INPUTS, OUT, Kind
from threedgen.commands.main import main

_NERFDIFF = ("train", "nerfdiff", "shape-world:cube", "--objects", "2", "--size", "16", "--batch", "2")
_SSDNERF = ("train", "ssdnerf", "shape-world:car", "--objects", "2", "--size", "16")


def _text_prior(folder: Path) -> None:
    """As `threedgen train prior` writes it: read without diffusers and transformers, unless it is damaged."""
    from threedgen.training.prior_model import PriorArchitecture, PriorModel, save_pipeline

    _import_libraries()
    torch.manual_seed(0)
    shape = PriorArchitecture(16, (8, 16), (False, True), embedding=32, text_width=16, text_layers=1)
    save_pipeline(PriorModel(shape), folder / "model", torch.float32)


def _video_prior(folder: Path) -> None:
    from threedgen.training.video_model import VideoArchitecture, VideoModel, save_video_pipeline

    _import_libraries()
    torch.manual_seed(0)
    save_video_pipeline(
        VideoModel(
            VideoArchitecture(
                16, (8, 16), (False, True), embedding=32, text_width=16, text_layers=1, frames=4
            )
        ),
        folder / "model",
        torch.float32,
    )


def _import_libraries() -> None:
    """So that no try has to import them."""
    from tiny_pipelines import diffusers, transformers

    assert all((diffusers().AutoencoderKL, diffusers().DDPMScheduler, diffusers().UNet2DConditionModel))
    assert all((transformers().AutoTokenizer, transformers().CLIPTextModel, transformers().CLIPTokenizer))


def _pipeline(kind: str, folder: Path) -> None:
    """A pipeline of diffusers with random weights."""
    from tiny_pipelines import KINDS
    from tiny_video_pipelines import VIDEO_KINDS

    torch.manual_seed(0)
    (KINDS | VIDEO_KINDS)[kind](folder / "model")


def _use_model(**options: int) -> None:
    """Loads it, and takes one step of it. options: of the prior."""
    from threedgen.cameras.orbit import orbit
    from threedgen.guidance.priors.base import Condition, ReferenceView
    from threedgen.guidance.priors.load import PriorConfig, load_prior

    prior = load_prior(PriorConfig(path=str(INPUTS / "model"), executor="eager", options=options))
    size, frames = prior.image_size, getattr(prior, "frames", 1)
    cameras = orbit(torch.zeros(1), torch.full((1,), 15.0), torch.full((1,), 3.0), 40.0, size, size)
    reference = ReferenceView(torch.full((size, size, 3), 0.5))
    times = torch.linspace(0.0, 1.0, frames)[None] if frames > 1 else None
    condition = Condition(("a cube",), cameras=cameras, times=times, reference=reference)
    with torch.no_grad():
        z = prior.encode(torch.full((frames, size, size, 3), 0.5))
        prior.predict(z, torch.full((len(z),), 0.5), condition)


def _text_field(folder: Path) -> None:
    from threedgen.training.config import FieldTrainingConfig
    from threedgen.training.field_trainer import FieldTrainer, save_field_pipeline
    from threedgen.training.text_reader import TextReader
    from threedgen.training.things_bank import Shares, ThingsBank
    from threedgen.training.word_pieces import make_word_encoder, write_word_tokenizer

    _import_libraries()
    torch.manual_seed(0)
    pieces = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "mug"]
    with TemporaryDirectory() as words:
        write_word_tokenizer(Path(words) / "tokenizer", pieces)
        make_word_encoder(0.3 * torch.randn(len(pieces), 16)).save_pretrained(Path(words) / "text_encoder")
        plain = Shares(pairs=0.0, counts=0.0, shapes=0.0)
        bank = ThingsBank(16, 0, ["mug"], None, instances=1, views=1, shares=plain)
        trainer = FieldTrainer(FieldTrainingConfig(steps=1), TextReader(Path(words)), 16, folder)
        save_field_pipeline(trainer, bank, folder / "model")


def _picture_field(folder: Path) -> None:
    from threedgen.guidance.priors.picture_field import PictureArchitecture, PictureField
    from threedgen.guidance.priors.radiance_field import save_field
    from threedgen.training.prior_model import write_folder

    torch.manual_seed(0)
    sizes = {"fine": 16, "middle": 16, "coarse": 16, "seen": 16, "rank": 16, "side": 6}
    field = PictureField(PictureArchitecture(**sizes, channels=2, features=4, hidden=8, samples=8))
    write_folder(
        folder / "model",
        "ThreedgenPicturePipeline",
        {"field": ["threedgen", "PictureField"]},
        lambda path: save_field(field, path / "field"),
    )


def _nerfdiff(folder: Path) -> None:
    from nerfdiff_scenes import tiny_model

    from threedgen.nerfdiff.store import save_model

    save_model(tiny_model(), folder / "model", {})


def _use_nerfdiff() -> None:
    from threedgen.nerfdiff.store import load_model

    model = load_model(INPUTS / "model")
    size = model.architecture.size
    with torch.no_grad():
        model.planes(torch.zeros(1, 3, size, size))


def _ssdnerf(folder: Path) -> None:
    from latent_scenes import TINY, settings

    told = settings({**TINY, "steps": 1})
    assert main([*_SSDNERF, "--out", str(folder / "run"), *_QUIET, *told]) == 0


_QUIET = ("--grid-every", "0", "--fid-every", "0")


def _use_ssdnerf() -> None:
    from threedgen.ssdnerf.model import load_model
    from threedgen.ssdnerf.sampling import sample_codes

    sample_codes(load_model(INPUTS / "run"), range(1), seed=0, steps=1)


def _continue_ssdnerf() -> int:
    from latent_scenes import TINY, settings

    return _continued(*_SSDNERF, *_QUIET, *settings({**TINY, "steps": 2}))


def _training(folder: Path) -> None:
    assert main([*_NERFDIFF, "--steps", "1", "--out", str(folder / "run")]) == 0


def _continued(*words: str) -> int:
    """A copy of the training is continued. If that is refused, the copy must be what it was, and is removed; only
    the packed scenes may have been made anew, and the checkpoint may be a later one."""
    if (INPUTS / "run").is_dir():
        shutil.copytree(INPUTS / "run", OUT / "run", symlinks=True)
    status = main([*words, "--out", str(OUT / "run")])
    shutil.rmtree(OUT / "run" / "scenes", ignore_errors=True)
    names = {path.relative_to(INPUTS) for path in INPUTS.rglob("*")}
    later = {path.relative_to(OUT) for path in OUT.glob("run/checkpoint/tensors-*.safetensors")}
    if status == 2 and OUT.is_dir() and {path.relative_to(OUT) for path in OUT.rglob("*")} <= names | later:
        shutil.rmtree(OUT)
    return status


def _of(kind: str) -> Callable[[Path], None]:
    return partial(_pipeline, kind)


MODELS = {
    "models": Kind(_text_prior, _use_model),
    "video models": Kind(_video_prior, _use_model),
    "text fields": Kind(_text_field, _use_model),
    "picture fields": Kind(_picture_field, _use_model),
    "diffusers models": Kind(_of("sd1"), _use_model),
    **{kind: Kind(_of(kind), _use_model) for kind in ("sdxl", "sd3", "flux", "if", "zero123")},
    **{kind: Kind(_of(kind), _use_model) for kind in ("modelscope", "svd", "cogvideox")},
    "wan": Kind(_of("wan"), partial(_use_model, frames=5, size=16)),
    "nerfdiff": Kind(_nerfdiff, _use_nerfdiff),
    "ssdnerf": Kind(_ssdnerf, _use_ssdnerf),
    "ssdnerf trainings": Kind(_ssdnerf, _continue_ssdnerf),
    "trainings": Kind(_training, lambda: _continued(*_NERFDIFF, "--steps", "2")),
}
