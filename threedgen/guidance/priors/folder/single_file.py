"""A model that is one .safetensors file, as a pipeline folder: its configs, and where its weights are.

The configs follow from the shapes of the tensors and the family. What the file lacks (a tokenizer in any case,
often encoders and the autoencoder) is taken from a pipeline folder of the same family that is named, lies beside
the file, or is in the hub's cache. Nothing is fetched, and nothing but JSON, vocabularies and safetensors is read.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from threedgen.core import cache
from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder import single_configs as configs
from threedgen.guidance.priors.folder.companions import Companions
from threedgen.guidance.priors.folder.files import PipelineFolder, first_line
from threedgen.guidance.priors.folder.single_kinds import DENOISER, VAE, Kind, kind_of
from threedgen.guidance.priors.folder.single_weights import SOURCE, Source, shapes_of

PREDICTIONS = ("epsilon", "v_prediction")
_TABLE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
_ADVICE = {
    Kind.LORA: "name the model with --prior, and this file with prior.lora",
    Kind.CONTROLNET: "name the model with --prior, and this file with prior.control",
    Kind.VAE: "name a file of the whole model, or a pipeline folder that has this one as its vae",
}


@dataclass
class _Assembly:
    """The parts of the folder that is being made: name -> class, config, source of the weights."""

    file: Path
    shapes: dict[str, list[int]]
    index: dict[str, Any]
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def add(self, name: str, prefix: str, form: str, config: dict[str, Any]) -> None:
        """A part whose weights are in the file."""
        library = "transformers" if "architectures" in config else "diffusers"
        self.index[name] = [library, config.get("_class_name") or config["architectures"][0]]
        self.made[name], self.sources[name] = config, Source.of(self.file, prefix, form)

    def has(self, name: str) -> bool:
        return any(key.startswith(name) for key in self.shapes)

    def under(self, prefix: str) -> dict[str, list[int]]:
        return {k.removeprefix(prefix): shape for k, shape in self.shapes.items() if k.startswith(prefix)}


def pipeline_of(file: Path, tokenizer: str = "", prediction: str = "") -> PipelineFolder:
    """The pipeline folder that stands for a single file.

    tokenizer: a pipeline folder of the same family, or the folder of a tokenizer. prediction: what the network
    predicts, a value of PREDICTIONS; "": as the file says. Raises UserError for a file that is no model, and for
    parts that are nowhere.
    """
    kind = kind_of(file)
    if kind not in _READERS:
        raise UserError(f"prior file '{file}' is {kind.value}, not a model: {_ADVICE[kind]}")
    read = _READERS[kind]
    made = _Assembly(file, shapes_of(file), {"_class_name": read.pipeline})
    with blaming(file, kind.value):
        read.parts(made)
    made.made["scheduler"] = _scheduler(made, kind, prediction)
    made.index["scheduler"] = ["diffusers", made.made["scheduler"]["_class_name"]]
    companions = Companions(file, tokenizer, made.made)
    places = companions.parts(read.wanted, made.index, kind.value)
    return PipelineFolder(_written(made, companions), places)


def controlnet_of(file: Path) -> Path:
    """The folder that stands for a ControlNet which is a single file. Raises UserError for any other file."""
    kind, shapes = kind_of(file), shapes_of(file)
    prefix = next(
        (start for start in ("control_model.", "") if f"{start}input_hint_block.0.weight" in shapes), None
    )
    if kind is not Kind.CONTROLNET or prefix is None:
        hint = (
            "" if kind is not Kind.CONTROLNET else " of a folder: name the folder that holds its config.json"
        )
        raise UserError(f"control file '{file}' is {kind.value}{hint or ': name a ControlNet'}")
    made = _Assembly(file, shapes, {})
    with blaming(file, kind.value):
        made.add("control", prefix, "controlnet", configs.controlnet(made.under(prefix)))
    return stored(_texts(made)) / "control"


def _texts(made: _Assembly) -> dict[str, str]:
    """The files of the parts that are made, by their paths."""
    texts = {f"{name}/config.json": json.dumps(config, indent=1) for name, config in made.made.items()}
    return texts | {f"{name}/{SOURCE}": source.text() for name, source in made.sources.items()}


def stored(texts: dict[str, str]) -> Path:
    """The folder of some files: the same for the same content, so that what is stored about it stays true."""
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:24]
    root = cache.user_folder("single-files") or Path(tempfile.gettempdir()) / "threedgen-single-files"
    for name, text in texts.items():
        path = root / digest / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return root / digest


@contextmanager
def blaming(file: Path, what: str) -> Iterator[None]:
    """A file whose tensors are not those of its kind is a UserError about it."""
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise UserError(
            f"prior file '{file}' is not a whole {what} ({type(error).__name__}: {first_line(error)} in the "
            "names and shapes of its tensors): download it again"
        ) from error


def _written(made: _Assembly, companions: Companions) -> Path:
    """The folder of configs and tokenizers."""
    texts = _texts(made)
    texts["scheduler/scheduler_config.json"] = texts.pop("scheduler/config.json")
    for encoder in [name for name in made.made if name.startswith("text_encoder")]:
        name = encoder.replace("text_encoder", "tokenizer")
        files = companions.tokenizer(name, made.index)
        if files is not None:
            made.index[name] = ["transformers", "CLIPTokenizer"]
            texts |= {f"{name}/{file}": text for file, text in files.items()}
    return stored(texts | {"model_index.json": json.dumps(made.index, indent=1)})


def _stable_diffusion(made: _Assembly, side: int) -> None:
    made.add("unet", DENOISER, "unet", configs.unet(made.under(DENOISER), side))
    _add_autoencoder(made, VAE, 0.18215, side=side * 8)
    if made.has("cond_stage_model.transformer."):
        prefix = "cond_stage_model.transformer."
        made.add("text_encoder", prefix, "encoder", configs.clip(made.under(prefix), projected=False))
    if made.has("cond_stage_model.model."):
        prefix = "cond_stage_model.model."
        made.add("text_encoder", prefix, "open-clip", configs.open_clip(made.under(prefix), projected=False))


def _stable_diffusion_1(made: _Assembly) -> None:
    _stable_diffusion(made, 64)
    if made.made["unet"]["in_channels"] == 8:
        made.index["_class_name"] = "StableDiffusionInstructPix2PixPipeline"


def _stable_diffusion_2(made: _Assembly) -> None:
    _stable_diffusion(made, 96)


def _xl(made: _Assembly) -> None:
    first, second = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
    pooled = 1280
    if made.has(first):
        made.add("text_encoder", first, "encoder", configs.clip(made.under(first), projected=False))
    if made.has(second):
        described = configs.open_clip(made.under(second), projected=True)
        pooled = described["projection_dim"]
        made.add("text_encoder_2", second, "open-clip", described)
    made.add("unet", DENOISER, "unet", configs.unet(made.under(DENOISER), 128, pooled))
    made.index["force_zeros_for_empty_prompt"] = True
    _add_autoencoder(made, VAE, 0.13025, side=1024)


def _sd3(made: _Assembly) -> None:
    prefix = DENOISER if made.has(DENOISER) else ""
    made.add("transformer", prefix, "sd3", configs.sd3(made.under(prefix)))
    _add_autoencoder(made, VAE, 1.5305, 0.0609, side=1024)
    first, second = "text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer."
    if made.has(first):
        described = configs.clip(made.under(first), projected=True)
        described["projection_dim"] = described["hidden_size"]
        made.add("text_encoder", first, "encoder-unprojected", described)
    if made.has(second):
        described = configs.clip(made.under(second), projected=True) | {"hidden_act": "gelu"}
        made.add("text_encoder_2", second, "encoder", described)
    _add_t5(made, "text_encoder_3")


def _flux(made: _Assembly) -> None:
    prefix = DENOISER if made.has(DENOISER) else ""
    made.add("transformer", prefix, "flux", configs.flux(made.under(prefix)))
    _add_autoencoder(made, "vae.", 0.3611, 0.1159, side=1024)
    first = "text_encoders.clip_l.transformer."
    if made.has(first):
        made.add("text_encoder", first, "encoder", configs.clip(made.under(first), projected=False))
    _add_t5(made, "text_encoder_2")


def _add_autoencoder(
    made: _Assembly, prefix: str, scale: float, shift: float | None = None, side: int = 512
) -> None:
    if made.has(f"{prefix}encoder.conv_in."):
        described = configs.autoencoder(made.under(prefix), scale, shift, side)
        made.add("vae", prefix, "autoencoder", described)


def _add_t5(made: _Assembly, name: str) -> None:
    prefix = "text_encoders.t5xxl.transformer."
    if made.has(prefix):
        made.add(name, prefix, "encoder", configs.t5(made.under(prefix)))


def _scheduler(made: _Assembly, kind: Kind, prediction: str) -> dict[str, Any]:
    """The config of the noise. Raises UserError if nothing tells what the network predicts."""
    if kind in (Kind.SD3, Kind.FLUX):
        if prediction:
            raise UserError(
                f"prior.prediction has no effect on {kind.value}, which predicts a flow: leave it out"
            )
        dynamic = bool(made.made["transformer"].get("guidance_embeds"))
        shift: dict[str, Any] = {"shift": 3.0}
        if kind is Kind.FLUX:
            shift = {"shift": 3.0 if dynamic else 1.0, "use_dynamic_shifting": dynamic}
            shift |= {"base_shift": 0.5, "max_shift": 1.15} if dynamic else {}
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, **shift}
    if prediction not in ("", *PREDICTIONS):
        raise UserError(f"unknown prior.prediction '{prediction}': use {' or '.join(PREDICTIONS)}")
    marked = "v_pred" in made.shapes  # what trainers of such models write into their files
    if kind is Kind.SD2 and not prediction and not marked:
        raise UserError(
            f"prior file '{made.file}' is {kind.value}, and does not say what it predicts: set "
            "prior.prediction=v_prediction for a model of 768 pixels, or =epsilon for a base model of 512"
        )
    predicted = prediction or ("v_prediction" if marked else "epsilon")
    if kind is Kind.SD2 and predicted == "epsilon":
        made.made["unet"]["sample_size"], made.made.get("vae", {})["sample_size"] = 64, 512
    return {
        "_class_name": "DDIMScheduler",
        **_TABLE,
        "prediction_type": predicted,
        "rescale_betas_zero_snr": "ztsnr" in made.shapes,
    }


class _Reader(NamedTuple):
    """How a family is read. parts: adds what the file has. wanted: the parts that a pipeline of it must have."""

    pipeline: str
    parts: Callable[[_Assembly], None]
    wanted: tuple[str, ...]


_ONE = ("vae", "text_encoder", "tokenizer")
_TWO = (*_ONE, "text_encoder_2", "tokenizer_2")
_READERS = {
    Kind.SD1: _Reader("StableDiffusionPipeline", _stable_diffusion_1, _ONE),
    Kind.SD2: _Reader("StableDiffusionPipeline", _stable_diffusion_2, _ONE),
    Kind.SDXL: _Reader("StableDiffusionXLPipeline", _xl, _TWO),
    Kind.SD3: _Reader("StableDiffusion3Pipeline", _sd3, _TWO),
    Kind.FLUX: _Reader("FluxPipeline", _flux, _TWO),
}
