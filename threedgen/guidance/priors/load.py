"""A prior from its name, a local pipeline folder, or (only when asked by id) the Hugging Face hub."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Prior
from threedgen.guidance.priors.folder import files, memory
from threedgen.guidance.priors.folder.files import PipelineFolder, first_line, readable
from threedgen.recipes import typed

_REQUIRED = "required"
_REQUIRED_VIDEO = "required-video"
EMBEDDED_WEIGHTS = Path(__file__).parent / "embedded" / "weights"
EMBEDDED_VIEW_WEIGHTS = Path(__file__).parent / "embedded" / "view_weights"
EMBEDDED_VIDEO_WEIGHTS = Path(__file__).parent / "embedded" / "video_weights"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Of a hub model: configs, and each part's weights under the names that diffusers loads by default (not the copies
# for other libraries, and not the single-file checkpoints).
_WANTED = [
    "model_index.json",
    "*/*.json",
    "tokenizer*/*",
    *(f"*/{stem}{end}.safetensors" for stem in ("model", "diffusion_pytorch_model") for end in ("", "-*")),
]
_OPTIONAL = ("vae", "text_encoder_3")  # parts that some folders of a family have and others do not
_BYTES = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}


@dataclass(frozen=True)
class PriorConfig:
    """Which frozen model guides.

    name:  embedded, embedded-view, embedded-video (the small ones that ship, told a text, a picture, or a text and
           asked about clips), disc (closed form, for trying things out), required, required-video (none: the
           recipe wants `path`), an entry point of the group threedgen.prior or package.module:Class.
           The last two are called with this config and the device.
    path:  a local diffusers folder, or a hub id such as owner/name (downloaded when not yet cached); takes
           the place of all other names.
    dtype: auto (float32 on a CPU, float16 on CUDA, bfloat16 there for SD3, FLUX, CogVideoX and Wan, float32 for
           the embedded prior), float32, float16 or bfloat16. The VAE stays in float32.
    lora, lora_scale: a .safetensors file of low-rank changes for the model of `path`, and their strength.
    control, control_scale: the folder of a ControlNet beside the Stable Diffusion of `path`, and its strength.
    memory: GB the prior may take on its device, 0: no limit; see memory.plan for what is done about it.
    attention_slicing, vae_tiling: two of those measures, whatever the budget says.
    options: of the one kind of model that the folder turns out to be, see the Config of its adapter.
    """

    name: str = "embedded"
    path: str = ""
    dtype: str = "auto"
    lora: str = ""
    lora_scale: float = 1.0
    control: str = ""
    control_scale: float = 1.0
    memory: float = 0.0
    attention_slicing: bool = False
    vae_tiling: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.memory < float("inf"):
            raise UserError(f"memory must be a number of GB, 0 for no limit, got {self.memory}")
        if not math.isfinite(self.lora_scale):
            raise UserError(f"lora_scale must be a finite number, got {self.lora_scale}")
        if not 0.0 <= self.control_scale < math.inf:
            raise UserError(f"control_scale must be a number >= 0, got {self.control_scale}")
        for part in ("lora", "control"):
            if getattr(self, f"{part}_scale") != 1.0 and not getattr(self, part):
                raise UserError(f"{part}_scale has no effect without {part}: name its file, or leave it out")


def load_prior(config: PriorConfig, device: torch.device | str = "cpu") -> Prior:
    """The prior a recipe names. Raises UserError for anything about it that the user can put right."""
    device = torch.device(device)
    if config.path and config.name in (_REQUIRED, _REQUIRED_VIDEO, *plugins.BUILTIN["prior"]):
        with readable(config.path):
            folder = _resolve(config.path)
        return load_folder(folder, device, config=config)
    if config.name == _REQUIRED:
        from threedgen.guidance.priors.adapters.choose import SUPPORTED

        raise UserError(f"this recipe needs --prior FOLDER (or a hub id OWNER/NAME): {SUPPORTED}")
    if config.name == _REQUIRED_VIDEO:
        raise UserError("this recipe needs --video-prior FOLDER, a text-to-video model (docs/priors.md)")
    return plugins.find("prior", config.name)(config, device)


def load_embedded(config: PriorConfig, device: torch.device) -> Prior:
    """The small text prior that ships with threedgen. Raises UserError when its weights are not there."""
    return _shipped(EMBEDDED_WEIGHTS, config, device)


def load_embedded_view(config: PriorConfig, device: torch.device) -> Prior:
    """The small view-conditioned prior that ships with threedgen. Raises UserError like `load_embedded`."""
    return _shipped(EMBEDDED_VIEW_WEIGHTS, config, device)


def load_embedded_video(config: PriorConfig, device: torch.device) -> Prior:
    """The small prior of clips that ships with threedgen. Raises UserError like `load_embedded`."""
    return _shipped(EMBEDDED_VIDEO_WEIGHTS, config, device)


def embedded_video() -> Path:
    """The folder of the small prior of clips. Raises UserError where it is not there."""
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
    """The closed-form prior of a coloured disc: no weights at all. Raises UserError for settings of a model."""
    for name, default in vars(PriorConfig(name=config.name)).items():
        if name != "path" and getattr(config, name) != default:
            raise UserError(f"the prior 'disc' is no model, {name} has no effect on it: leave it out")
    from threedgen.guidance.priors.analytic import DiscPrior

    return DiscPrior(device=device)


def load_folder(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    config: PriorConfig | None = None,
) -> Any:
    """The adapter for a pipeline folder as diffusers writes it; only safetensors and JSON are read.

    dtype: None takes the config's. The parts are loaded one by one: importing and building a whole pipeline takes
    longer and brings parts (safety checkers, feature extractors) that distillation does not use. Raises UserError.
    """
    from threedgen.guidance.priors.adapters.choose import adapter_of
    from threedgen.guidance.priors.adapters.image import DiffusersImagePrior
    from threedgen.guidance.priors.folder.control import Control
    from threedgen.guidance.priors.folder.lora import Lora
    from threedgen.guidance.priors.folder.parts import Parts

    device, config = torch.device(device), config or PriorConfig()
    folder = PipelineFolder(path)
    with readable(path):
        adapter: Any = adapter_of(folder)
        for part in (*_OPTIONAL, *adapter.parts):
            if folder.class_of(part) is not None:
                files.require_safe_weights(path / part)
            elif part not in _OPTIONAL:
                raise UserError(f"prior folder '{path}' lacks the part {part}: copy it again")
    options = typed.build(adapter.Config, config.options, "options")
    controlled = issubclass(adapter, DiffusersImagePrior) and folder.class_of("vae") is not None
    if config.control and not controlled:
        raise UserError(f"control: a ControlNet goes beside a Stable Diffusion UNet, and '{path}' has none")
    frames = adapter.clip_frames(folder, options)
    dtype = dtype or _choose_dtype(config.dtype, device, adapter.half)
    sizes = _sizes(folder, config, dtype, frames)
    plan = memory.plan(config.memory, sizes, config.attention_slicing, config.vae_tiling)
    lora = Lora(Path(config.lora).expanduser(), config.lora_scale, folder) if config.lora else None
    if lora is not None:
        lora.check()
    control = ()
    if config.control:
        control_folder = Path(config.control).expanduser()
        unet = folder.config("unet")
        control = (Control.load(control_folder, unet, device, dtype, plan, config.control_scale),)
    prior = adapter.load(Parts(folder, device, dtype, plan, lora), options, *control)
    prior.text([""])  # a broken tokenizer or text encoder is reported now, and every run needs the empty text
    return prior


def _sizes(folder: PipelineFolder, config: PriorConfig, dtype: torch.dtype, frames: int) -> memory.Sizes:
    """What the parts would take in memory, from their files (which may hold another precision: then roughly)."""

    def weights(*names: str) -> float:
        parts = [folder.path / name for name in names if folder.class_of(name) is not None]
        return memory.gigabytes(sum(files.elements_of(part) for part in parts))

    # Without a size the folder is about to be refused: any number does.
    side = folder.config("vae").get("sample_size") or 512 if folder.class_of("vae") else 64
    control = files.elements_of(Path(config.control).expanduser()) if config.control else 0
    network = weights("unet", "transformer") + memory.gigabytes(control)
    encoders = weights("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")
    return memory.Sizes(
        network=network * _BYTES[dtype],
        vae=weights("vae") * _BYTES[torch.float32],
        encoders=encoders * _BYTES[dtype],
        pixels=side[0] if isinstance(side, list) else side,
        frames=frames,
    )


def _resolve(path: str) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise files.refuse_checkpoint_file(folder)
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

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"no folder '{hub_id}', and the hub model of that name cannot be fetched ({first_line(error)}): "
            "check the name and the connection, or give a folder with model_index.json, "
            "scheduler/scheduler_config.json, and for each of unet (or transformer), vae, text_encoder its "
            "config.json and .safetensors, and tokenizer/"
        ) from error


def _choose_dtype(name: str, device: torch.device, cuda: torch.dtype = torch.float16) -> torch.dtype:
    if name == "auto":
        return cuda if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise UserError(f"unknown prior dtype '{name}': use auto, {', '.join(_DTYPES)}")
    if device.type == "cpu" and name == "float16":
        raise UserError("prior dtype float16 needs a GPU: use float32, or bfloat16 on a CPU that has it")
    return _DTYPES[name]
