"""A prior from its name, a local pipeline folder, or (only when asked by id) the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from threedgen import machine, plugins
from threedgen.cameras import VIEW_FEATURES
from threedgen.errors import UserError
from threedgen.guidance.priors.base import NoiseSchedule, Prior
from threedgen.guidance.priors.diffusers_image import PREDICTION_TYPES, DiffusersImagePrior, TextEmbedder

_REQUIRED = "required"
_INSTALL = "pip install sentencepiece protobuf (the extra threedgen[deepfloyd])"
EMBEDDED_WEIGHTS = Path(__file__).parent / "embedded" / "weights"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_TEXT_ENCODERS = ("CLIPTextModel", "T5EncoderModel")
_SUPPORTED = "Stable Diffusion 1.x/2.x, DeepFloyd IF stage I, or a folder written by `threedgen train prior`"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_NOISE_TABLE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class PriorConfig:
    """Which frozen model guides.

    name:  embedded (the small one that ships), disc (closed form, for trying things out), required (none:
           the recipe wants `path`), an entry point of the group threedgen.prior or package.module:Class.
           The last two are called with this config and the device.
    path:  a local diffusers folder, or a hub id such as owner/name (downloaded when not yet cached); takes
           the place of the first three names.
    dtype: auto (float32 on a CPU, float16 on CUDA, float32 for the embedded prior), float32, float16 or
           bfloat16. The VAE stays in float32.
    """

    name: str = "embedded"
    path: str = ""
    dtype: str = "auto"


def load_prior(config: PriorConfig, device: torch.device | str = "cpu") -> Prior:
    """The prior a recipe names. Raises UserError for anything about it that the user can put right."""
    device = torch.device(device)
    if config.path and config.name in (_REQUIRED, *plugins.BUILTIN["prior"]):
        with _readable(config.path):
            folder = _resolve(config.path)
        return load_folder(folder, device, _choose_dtype(config.dtype, device))
    if config.name == _REQUIRED:
        raise UserError(f"this recipe needs --prior FOLDER (or a hub id OWNER/NAME): {_SUPPORTED}")
    return plugins.find("prior", config.name)(config, device)


def load_embedded(config: PriorConfig, device: torch.device) -> DiffusersImagePrior:
    """The small prior that ships with threedgen. Raises UserError when its weights are not there."""
    if not (EMBEDDED_WEIGHTS / "model_index.json").is_file():
        raise UserError(f"the embedded prior's weights are not in {EMBEDDED_WEIGHTS}: reinstall threedgen")
    # Too small to gain from half precision.
    wanted = "float32" if config.dtype == "auto" else config.dtype
    return load_folder(EMBEDDED_WEIGHTS, device, _choose_dtype(wanted, device))


def load_disc(config: PriorConfig, device: torch.device) -> Prior:
    """The closed-form prior of a coloured disc: no weights at all."""
    from threedgen.guidance.priors.analytic import DiscPrior

    return DiscPrior(device=device)


def load_folder(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> DiffusersImagePrior:
    """A text-to-image pipeline folder as diffusers writes it; only safetensors and JSON are read.

    The parts are loaded one by one: importing and building a whole pipeline takes longer and brings parts
    (safety checkers, feature extractors) that distillation does not use. Raises UserError.
    """
    device = torch.device(device)
    with _readable(folder):
        index = _read_index(folder)
        unet_config = _read_json(folder / "unet" / "config.json")
        has_vae = _class_of(index, "vae") is not None
        _require_supported(folder, index, unet_config, has_vae)
        schedule, prediction_type = _read_scheduler(folder)
        for part in ("unet", "text_encoder", *(["vae"] if has_vae else [])):
            _require_safe_weights(folder / part)

    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet = _load_model(UNet2DConditionModel, folder / "unet", "torch_dtype", dtype).to(device)
    vae = None
    if has_vae:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        vae = _load_model(AutoencoderKL, folder / "vae", "torch_dtype", torch.float32).to(device)
    text = _text_embedder(folder, str(_class_of(index, "text_encoder")), not has_vae, device, dtype)
    text([""])  # a broken tokenizer or text encoder is reported now, and every run needs the empty text
    return DiffusersImagePrior(unet, vae, text, schedule, prediction_type)


def _resolve(path: str) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"prior '{path}' is a file: name the pipeline folder that holds model_index.json")
    # A path whose parent exists is a misspelt folder, not the name of a model.
    if not _HUB_ID.fullmatch(path) or folder.parent.is_dir():
        raise UserError(
            f"prior folder '{path}' does not exist: name a pipeline folder or a hub id owner/name"
        )
    return _download(path)


def _download(hub_id: str) -> Path:
    """The files of a pipeline that are needed, from the local cache or else from the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    wanted = ["model_index.json", "scheduler/*.json", "tokenizer/*"]
    for part, stem in stems.items():
        wanted += [f"{part}/*.json", f"{part}/{stem}.safetensors", f"{part}/{stem}-*.safetensors"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"no folder '{hub_id}', and the hub model of that name cannot be fetched ({_first_line(error)}): "
            "check the name and the connection, or download it and give its folder"
        ) from error


def _choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise UserError(f"unknown prior dtype '{name}': use auto, {', '.join(_DTYPES)}")
    if device.type == "cpu" and name == "float16":
        raise UserError("prior dtype float16 needs a GPU: use float32, or bfloat16 on a CPU that has it")
    return _DTYPES[name]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"prior file '{path}' is missing: copy the pipeline folder again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"prior file '{path}' cannot be read ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"prior file '{path}' is not a JSON object: copy the folder again")
    return content


def _read_index(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"prior folder '{folder}' does not exist: name a diffusers pipeline folder")
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"prior folder '{folder}' is not a diffusers pipeline: it has no model_index.json "
            "(convert a single checkpoint file with diffusers' save_pretrained first)"
        )
    return _read_json(folder / "model_index.json")


def _class_of(index: dict[str, Any], part: str) -> str | None:
    """The class a pipeline's index names for a part; absent parts are missing or [null, null]."""
    entry = index.get(part)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def _require_supported(folder: Path, index: dict[str, Any], unet: dict[str, Any], has_vae: bool) -> None:
    """Refuse, by what the configs say, every model whose UNet needs inputs this prior does not have."""
    inputs = unet.get("in_channels", 4)
    encoder = _class_of(index, "text_encoder")
    projection = unet.get("class_embed_type") == "projection"
    camera_vector = unet.get("projection_class_embeddings_input_dim")
    reasons = [
        (_class_of(index, "unet") != "UNet2DConditionModel", "it has no UNet2DConditionModel"),
        (_class_of(index, "text_encoder_2") is not None, "it has two text encoders"),
        (encoder not in _TEXT_ENCODERS, f"its text encoder is {encoder}, not {' or '.join(_TEXT_ENCODERS)}"),
        (inputs != (4 if has_vae else 3), f"its UNet takes {inputs} channels (inpainting or upscaling)"),
        (unet.get("class_embed_type") not in (None, "projection"), "its UNet wants class labels"),
        (unet.get("num_class_embeds") is not None, "its UNet wants class labels"),
        (unet.get("addition_embed_type") not in (None, "text"), "its UNet wants added conditions"),
        (projection and camera_vector != VIEW_FEATURES, f"its camera vector is not {VIEW_FEATURES} numbers"),
    ]
    for wrong, reason in reasons:
        if wrong:
            name = index.get("_class_name", "a pipeline without a class name")
            raise UserError(f"prior '{folder}' ({name}) is not supported, {reason}: use {_SUPPORTED}")


def _read_scheduler(folder: Path) -> tuple[NoiseSchedule, str]:
    """The training noise table and the prediction type, whichever sampler the folder names."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    config = _read_json(folder / "scheduler" / "scheduler_config.json")
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTION_TYPES:
        raise UserError(f"prior '{folder}' predicts '{kind}': supported are {', '.join(PREDICTION_TYPES)}")
    if "beta_schedule" not in config and "trained_betas" not in config:
        name = config.get("_class_name", "unknown")
        raise UserError(f"prior '{folder}' has the scheduler {name}, without betas: use {_SUPPORTED}")
    given = {key: config[key] for key in _NOISE_TABLE_KEYS if key in config}
    try:
        table = DDPMScheduler(**given).alphas_cumprod
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"prior '{folder}': no such noise schedule ({_first_line(error)})") from error
    return NoiseSchedule(table), kind


def _require_safe_weights(part: Path) -> None:
    """Every safetensors file of a part is whole; a folder of pickles is refused, never opened."""
    files = sorted(part.glob("*.safetensors"))
    if not files:
        pickles = sorted(file.name for file in part.glob("*") if file.suffix in _PICKLES)
        if pickles:
            raise UserError(
                f"prior part '{part}' has only pickle weights ({pickles[0]}), which can run code: "
                "convert it with save_pretrained(..., safe_serialization=True)"
            )
        raise UserError(f"prior part '{part}' has no safetensors weights: copy the folder again")
    for index in part.glob("*.safetensors.index.json"):
        for name in set(_read_json(index).get("weight_map", {}).values()):
            if not (part / name).is_file():
                raise UserError(f"prior file '{part / name}' is missing: copy the folder again")
    for file in files:
        try:
            whole = _is_whole(file)
        except OSError as error:
            raise UserError(f"prior file '{file}' cannot be read ({_first_line(error)})") from error
        if not whole:
            raise UserError(f"prior file '{file}' is truncated or corrupt: copy or download it again")


def _is_whole(file: Path) -> bool:
    """A safetensors file: 8 bytes of header length, a JSON header, exactly the bytes the header promises."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            return False
        try:
            header = json.loads(stream.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return False
    return 8 + length + max(ends, default=0) == size


def _variant(part: Path) -> str | None:
    """'fp16' when the half-precision copy is the only one in the folder."""
    files = [file.name for file in part.glob("*.safetensors")]
    return "fp16" if all(".fp16" in name for name in files) else None


def _load_model(model: Any, part: Path, dtype_keyword: str, dtype: torch.dtype) -> Any:
    """`from_pretrained` of a diffusers or transformers class, offline, complete or not at all."""

    def load() -> tuple[Any, dict[str, Any]]:
        return model.from_pretrained(
            str(part),
            local_files_only=True,
            use_safetensors=True,
            variant=_variant(part),
            output_loading_info=True,
            **{dtype_keyword: dtype},
        )

    with _quiet():
        loaded, info = _or_user_error(load, part)
    # Both libraries would fill absent weights with random numbers and go on.
    if info["missing_keys"]:
        absent = sorted(info["missing_keys"])
        raise UserError(
            f"prior part '{part}' lacks {len(absent)} weights (first: {absent[0]}): copy it again"
        )
    return loaded


def _text_embedder(
    folder: Path, encoder_class: str, pixels: bool, device: torch.device, dtype: torch.dtype
) -> TextEmbedder:
    config = _read_json(folder / "text_encoder" / "config.json")
    tokenizer_part = folder / "tokenizer"
    # T5 overflows in float16; CLIP does not.
    if encoder_class == "T5EncoderModel" and dtype == torch.float16:
        dtype = torch.bfloat16

    def load_tokenizer() -> Any:
        from transformers import AutoTokenizer

        _require_sentencepiece(tokenizer_part)
        return AutoTokenizer.from_pretrained(
            str(tokenizer_part), local_files_only=True, trust_remote_code=False
        )

    def load() -> tuple[Any, Any]:
        import transformers

        tokenizer = _or_user_error(load_tokenizer, tokenizer_part)
        encoder = _load_model(getattr(transformers, encoder_class), folder / "text_encoder", "dtype", dtype)
        return tokenizer, encoder.requires_grad_(False).eval().to(device)

    # 77 tokens is what CLIP and IF were trained with; tiny encoders may have fewer positions.
    length = min(77, int(config.get("max_position_embeddings") or 77))
    masked = pixels or bool(config.get("use_attention_mask"))
    return TextEmbedder(load, length, masked=masked, lower_case=pixels)


def _require_sentencepiece(part: Path) -> None:
    """A tokenizer that is a SentencePiece model and nothing else has to be converted (DeepFloyd IF's)."""
    if (part / "tokenizer.json").is_file() or not (part / "spiece.model").is_file():
        return
    absent = [name for name in ("sentencepiece", "protobuf") if machine.version(name) is None]
    if absent:
        raise UserError(f"prior part '{part}' needs {' and '.join(absent)}: {_INSTALL}")


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and warnings of the libraries while a model loads: what matters becomes a UserError."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = transformers_logging.is_progress_bar_enabled()
    try:
        for library in libraries:
            library.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _readable(path: Path | str) -> Iterator[None]:
    """A folder that must not even be looked into is an OSError of `is_dir` and its like (before Python 3.14)."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read the prior '{path}': {error.strerror or error}; check its permissions"
        ) from error


def _or_user_error(load: Callable[[], _T], part: Path) -> _T:
    from safetensors import SafetensorError

    try:
        return load()
    except ImportError as error:
        raise UserError(
            f"prior part '{part}' needs a package that is not here ({_first_line(error)}): {_INSTALL}"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"prior part '{part}' cannot be loaded ({_first_line(error)}): copy it again"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
