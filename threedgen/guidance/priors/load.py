"""Loading of priors: by name, from a local pipeline folder, or by hub id from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.core.material import Light
from threedgen.core.settings import SettingError, at_least, finite, settings
from threedgen.guidance.priors.base import Prior, Shows, check_shows, roles_of
from threedgen.guidance.priors.executors.executor import Choice, Executor, can_defer
from threedgen.guidance.priors.folder import files, light, memory, weights
from threedgen.guidance.priors.folder.files import PipelineFolder, readable
from threedgen.guidance.priors.folder.libraries import or_user_error
from threedgen.guidance.priors.folder.replaced import with_autoencoder, with_variant
from threedgen.guidance.priors.folder.single_file import controlnet_of, pipeline_of
from threedgen.guidance.priors.hub import fetched, is_hub_id
from threedgen.guidance.priors.kept import kept_or_loaded
from threedgen.recipes import typed

_REQUIRED = "required"
_REQUIRED_VIDEO = "required-video"
THINGS = "embedded-things"
EMBEDDED_WEIGHTS = Path(__file__).parent / "embedded" / "weights"
EMBEDDED_THINGS_WEIGHTS = Path(__file__).parent / "embedded" / "things_weights"
EMBEDDED_VIEW_WEIGHTS = Path(__file__).parent / "embedded" / "view_weights"
EMBEDDED_PICTURE_WEIGHTS = Path(__file__).parent / "embedded" / "picture_weights"
EMBEDDED_VIDEO_WEIGHTS = Path(__file__).parent / "embedded" / "video_weights"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_OPTIONAL = ("vae", "text_encoder_3")  # parts that some folders of a family have and others do not
_BYTES = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}


@settings
class PriorConfig:
    """The frozen diffusion model of a guidance, and how it is loaded.

    Attributes:
        name: The model. embedded-things, embedded, embedded-picture, embedded-view and embedded-video are the small
            models that ship with threedgen: for things by their names, for coloured solids, for a picture seen from
            other sides, its denoiser of before, and for clips of a text. disc is a prior in closed form, to try
            things out. required and required-video stand for a model that `path` must name. An entry
            point of the group threedgen.prior, or package.module:Class, is called with these settings and the
            device.
        path: Folder of a diffusers pipeline, a single file of a model in safetensors format, or a hub id such as
            owner/name or owner/name@revision, which is downloaded unless it is in the local cache. It replaces all
            built-in names.
        dtype: Precision of the networks, float32, float16 or bfloat16. auto is float32 on a CPU; on CUDA it is
            float16, bfloat16 for SD3, FLUX, CogVideoX and Wan, and float32 for the embedded models.
        vae_dtype: Precision of the autoencoder, float32 or bfloat16 (many autoencoders overflow in float16). It
            costs more time than the denoiser; in bfloat16 it takes about half the time and memory, and the
            gradient keeps two to three digits.
        lora: File in safetensors format with low-rank changes for the model of `path`.
        lora_scale: Factor on these changes.
        control: Folder or single file of a ControlNet for the Stable Diffusion model of `path`.
        control_scale: Factor on what the ControlNet adds.
        memory (GB): Limit of what the prior may take on its device; 0 is no limit. To stay below it, in this order,
            texts are encoded on the CPU, the autoencoder works in tiles, attention works in slices, and the layers
            of the denoiser are moved to the device one at a time.
        attention_slicing: Compute attention one head at a time, whatever the memory limit is.
        vae_tiling: Encode and decode pictures in tiles, whatever the memory limit is.
        executor: How the network is computed. eager calls it. openvino compiles it on a CPU, in bfloat16 if the
            processor computes in that and dtype is auto, else in float32; it needs threedgen[openvino]. auto does
            that if it is possible and the run is long enough to gain from it. compile takes torch.compile, on a GPU
            with CUDA graphs.
        tokenizer: For a model that is a single file, which has no tokenizer: a pipeline folder of the same family,
            from which everything else that the file lacks is taken as well, or the folder of a tokenizer of CLIP.
        vae: An autoencoder in place of the one of the model of `path`: a single file in safetensors format, or a
            folder of diffusers (of the autoencoder or of a whole pipeline), made for the same kind of model.
        variant: Which of several sets of weights in a folder or hub model is read, by the word in the names of its
            files, such as fp16 or non_ema; whole is the set without one. A part that has no such set is read as if
            it were not set.
        prediction: For a model that is a single file and does not say so: what it predicts, epsilon or
            v_prediction.
        options: Settings of the kind of model that the folder holds (docs/priors.md).
    """

    name: str = "embedded"
    path: str = ""
    dtype: str = "auto"
    vae_dtype: Literal["float32", "bfloat16"] = "float32"
    lora: str = ""
    lora_scale: Annotated[float, finite] = 1.0
    control: str = ""
    control_scale: Annotated[float, at_least(0.0)] = 1.0
    memory: Annotated[float, at_least(0.0)] = 0.0
    attention_slicing: bool = False
    vae_tiling: bool = False
    executor: Choice = "auto"
    tokenizer: str = ""
    vae: str = ""
    variant: str = ""
    prediction: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for file, name, scale in (
            (self.lora, "lora", self.lora_scale),
            (self.control, "control", self.control_scale),
        ):
            if scale != 1.0 and not file:
                raise SettingError(
                    f"{name}_scale", f"has no effect without {name}: set {name} too, or leave it out"
                )


def load_prior(config: PriorConfig, device: torch.device | str = "cpu", shows: Shows = "colors") -> Prior:
    """The prior that a recipe names. shows: what its pictures must show. Raises UserError if it cannot be loaded,
    and if it shows something else."""
    # How a prior keeps to a memory limit depends on the samples of a step.
    planned = str(memory.views_of_a_step()) if config.memory else ""
    prior = kept_or_loaded(config, torch.device(device), planned, _load)
    check_shows(config.path or config.name, roles_of(prior).shows, shows)
    return prior


def _load(config: PriorConfig, device: torch.device) -> Prior:
    if config.path and config.name in (_REQUIRED, _REQUIRED_VIDEO, *plugins.BUILTIN["prior"]):
        with readable(config.path):
            folder = _resolve(config, device)
        return load_folder(folder, device, config=config)
    if config.name == _REQUIRED:
        from threedgen.guidance.priors.adapters.choose import SUPPORTED

        raise UserError(f"this recipe needs --prior FOLDER (or a hub id OWNER/NAME): {SUPPORTED}")
    if config.name == _REQUIRED_VIDEO:
        raise UserError("this recipe needs --video-prior FOLDER, a text-to-video model (docs/priors.md)")
    return plugins.find("prior", config.name)(config, device)


SHIPPED = {
    "embedded": EMBEDDED_WEIGHTS,
    THINGS: EMBEDDED_THINGS_WEIGHTS,
    "embedded-view": EMBEDDED_VIEW_WEIGHTS,
    "embedded-picture": EMBEDDED_PICTURE_WEIGHTS,
    "embedded-video": EMBEDDED_VIDEO_WEIGHTS,
}


def light_of(config: PriorConfig) -> Light | None:
    """The light in which a prior shows everything, as its folder says; None if it says none or is not here.

    No weights are loaded and nothing is fetched. Raises UserError for a damaged light.json.
    """
    folder = Path(config.path).expanduser() if config.path else SHIPPED.get(config.name)
    return None if folder is None else light.read_light(folder)


def load_embedded(config: PriorConfig, device: torch.device) -> Prior:
    """The small text prior that ships with threedgen. Raises UserError if its weights are missing."""
    return _shipped(EMBEDDED_WEIGHTS, config, device)


def load_embedded_things(config: PriorConfig, device: torch.device) -> Prior:
    """The text prior of things that ships with threedgen. Raises UserError if its weights are missing."""
    return _shipped(EMBEDDED_THINGS_WEIGHTS, config, device)


def load_embedded_view(config: PriorConfig, device: torch.device) -> Prior:
    """The small view-conditioned prior that ships with threedgen. Raises UserError if its weights are missing."""
    return _shipped(EMBEDDED_VIEW_WEIGHTS, config, device)


def load_embedded_picture(config: PriorConfig, device: torch.device) -> Prior:
    """The field of pictures that ships with threedgen. Raises UserError if its weights are missing."""
    return _shipped(EMBEDDED_PICTURE_WEIGHTS, config, device)


def load_embedded_video(config: PriorConfig, device: torch.device) -> Prior:
    """The small video prior that ships with threedgen. Raises UserError if its weights are missing."""
    return _shipped(EMBEDDED_VIDEO_WEIGHTS, config, device)


def embedded_video() -> Path:
    """The folder of the small video prior. Raises UserError if it is missing."""
    return _checked(EMBEDDED_VIDEO_WEIGHTS)


def _checked(folder: Path) -> Path:
    if not (folder / "model_index.json").is_file():
        raise UserError(f"the embedded prior's weights are not in {folder}: reinstall threedgen")
    return folder


def _shipped(folder: Path, config: PriorConfig, device: torch.device) -> Prior:
    _checked(folder)
    # Too small to gain from half precision.
    wanted = "float32" if config.dtype == "auto" else config.dtype
    return load_folder(folder, device, _choose_dtype(wanted, device), config)


def load_disc(config: PriorConfig, device: torch.device) -> Prior:
    """The closed-form prior of a coloured disc, which has no weights. Raises UserError for settings of a model."""
    for name, default in vars(PriorConfig(name=config.name)).items():
        if name != "path" and getattr(config, name) != default:
            raise UserError(f"the prior 'disc' has no weights, so {name} has no effect on it: leave it out")
    from threedgen.guidance.priors.analytic import DiscPrior

    return DiscPrior(device=device)


def load_folder(
    path: Path | PipelineFolder,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    config: PriorConfig | None = None,
) -> Any:
    """The prior of a pipeline folder as diffusers writes it; only safetensors and JSON files are read.

    dtype: None: that of the config. The parts are loaded one by one, because building a whole pipeline takes longer
    and loads parts that distillation does not use (safety checkers, feature extractors). Raises UserError.
    """
    from threedgen.guidance.priors.adapters.choose import adapter_of
    from threedgen.guidance.priors.adapters.image import DiffusersImagePrior
    from threedgen.guidance.priors.folder.control import Control
    from threedgen.guidance.priors.folder.lora import Lora
    from threedgen.guidance.priors.folder.multiview_unet import as_diffusers
    from threedgen.guidance.priors.folder.parts import PipelineParts

    device, config = torch.device(device), config or PriorConfig()
    folder = path if isinstance(path, PipelineFolder) else PipelineFolder(path)
    path = folder.path
    with readable(path):
        if config.variant:
            folder = with_variant(folder, config.variant)
        folder = as_diffusers(folder)
        if config.vae:
            folder = with_autoencoder(folder, Path(config.vae).expanduser())
        adapter: Any = adapter_of(folder)
        for part in (*_OPTIONAL, *adapter.parts):
            if folder.class_of(part) is not None:
                weights.require_safe_weights(folder.part(part))
            elif part not in _OPTIONAL:
                raise UserError(f"prior folder '{path}' lacks the part {part}: copy it again")
    options = typed.build(adapter.Config, config.options, "options")
    controlled = issubclass(adapter, DiffusersImagePrior) and folder.class_of("vae") is not None
    if config.control and not controlled:
        raise UserError(
            f"a ControlNet goes beside a Stable Diffusion UNet that reads a text, and '{path}' has none: leave "
            "`control` out"
        )
    frames = adapter.clip_frames(folder, options)
    dtype = dtype or _choose_dtype(config.dtype, device, adapter.half)
    control_part = _control_part(config.control) if config.control else None
    vae_dtype = _DTYPES[config.vae_dtype]
    sizes = _sizes(folder, control_part, dtype, vae_dtype, frames)
    plan = memory.plan(config.memory, sizes, config.attention_slicing, config.vae_tiling)
    lora = Lora(Path(config.lora).expanduser(), config.lora_scale, folder) if config.lora else None
    if lora is not None:
        lora.check()
    control = ()
    if control_part is not None:
        unet = folder.config("unet")
        control = (Control.load(control_part, unet, device, dtype, plan, config.control_scale),)
    why_eager = _why_eager(config)
    plain = device.type == "cpu" and dtype == torch.float32 and lora is None and not why_eager
    deferred = plain and can_defer(config.executor, sizes.network)
    parts = PipelineParts(folder, device, dtype, plan, lora, deferred, _DTYPES[config.vae_dtype])
    prior: Any = adapter.load(parts, options, *control)
    if hasattr(prior.executor, "config"):  # a model of diffusers, and no radiance field
        exact = config.dtype == "float32"
        prior.executor = Executor(
            prior.executor, config.path or config.name, config.executor, exact, why_eager
        )
    # Every run needs the empty text, and what a library says of a broken text encoder is reported now.
    or_user_error(lambda: prior.text([""]), path)
    return prior


def _control_part(path: str) -> Path:
    """The folder of a ControlNet, or the one that stands for its single file."""
    part = Path(path).expanduser()
    return controlnet_of(part) if part.is_file() and part.suffix == ".safetensors" else part


def _why_eager(config: PriorConfig) -> str:
    """Why the settings rule a compiled network out, or ""."""
    if config.control:
        return "it has a ControlNet"
    if config.memory or config.attention_slicing:
        return "its memory is limited, and a compiled network is a second copy of it"
    return ""


def _sizes(
    folder: PipelineFolder, control_part: Path | None, dtype: torch.dtype, vae_dtype: torch.dtype, frames: int
) -> memory.Sizes:
    """Estimated memory of the parts at `dtype`, and of the autoencoder at `vae_dtype`, from the weights in
    their files."""

    def taken(*names: str) -> float:
        parts = [folder.part(name) for name in names if folder.class_of(name) is not None]
        return memory.gigabytes(sum(weights.elements_of(part) for part in parts))

    # A folder without a size is refused by the adapter, so any number will do here.
    side = folder.config("vae").get("sample_size") or 512 if folder.class_of("vae") else 64
    control = weights.elements_of(control_part) if control_part is not None else 0
    network = taken("unet", "transformer") + memory.gigabytes(control)
    encoders = taken("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder", "vision_encoder")
    return memory.Sizes(
        network=network * _BYTES[dtype],
        vae=taken("vae") * _BYTES[vae_dtype],
        codec_bytes=_BYTES[vae_dtype],
        encoders=encoders * _BYTES[dtype],
        pixels=side[0] if isinstance(side, list) else side,
        frames=frames,
    )


def _resolve(config: PriorConfig, device: torch.device) -> Path | PipelineFolder:
    path, folder = config.path, Path(config.path).expanduser()
    if folder.is_file() and folder.suffix == ".safetensors":
        if config.variant:
            raise UserError(
                f"prior.variant is for folders and hub models, and '{path}' is one file: leave it out"
            )
        return pipeline_of(folder, config.tokenizer, config.prediction, own_vae=not config.vae)
    for name in ("tokenizer", "prediction"):
        if getattr(config, name):
            raise UserError(
                f"prior.{name} is for a model that is a single file, not for '{path}': leave it out"
            )
    if folder.is_dir():
        return folder
    if folder.exists():
        raise files.refuse_checkpoint_file(folder)
    # A path whose parent exists is a misspelt folder, not a hub id.
    if not is_hub_id(path) or folder.parent.is_dir():
        raise UserError(
            f"prior folder '{path}' does not exist: name a pipeline folder or a hub id owner/name"
        )
    return fetched(path, _choose_dtype(config.dtype, device) != torch.float32, config.variant)


def _choose_dtype(name: str, device: torch.device, cuda: torch.dtype = torch.float16) -> torch.dtype:
    if name == "auto":
        return cuda if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise UserError(f"unknown prior dtype '{name}': use auto, {', '.join(_DTYPES)}")
    if device.type == "cpu" and name == "float16":
        raise UserError("prior dtype float16 needs a GPU: use float32, or bfloat16 on a CPU that has it")
    return _DTYPES[name]
