"""The parts of a pipeline folder as diffusers and transformers build them: offline, complete or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from threedgen.core.errors import UserError
from threedgen.guidance.priors.codec import Latents, Pixels
from threedgen.guidance.priors.folder.files import PipelineFolder, first_line
from threedgen.guidance.priors.folder.libraries import (
    _class,
    _require_sentencepiece,
    diffusers_class,
    load_model,
    or_user_error,
)
from threedgen.guidance.priors.folder.lora import Lora
from threedgen.guidance.priors.folder.memory import Plan
from threedgen.guidance.priors.processes import FlowSchedule, KarrasSchedule, NoiseSchedule

_SHIFT_KEY = "snr_shift_scale"
_NOISE_TABLE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    _SHIFT_KEY,
)
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Parts:
    """Loads the parts of one folder, each where and how the run wants it.

    device, dtype: of the denoiser and the text encoders. plan: what is done to save memory.
    lora: low-rank changes that are added to the parts, or None.
    """

    folder: PipelineFolder
    device: torch.device
    dtype: torch.dtype
    plan: Plan
    lora: Lora | None = None

    def network(self, name: str, part: str) -> Any:
        """The denoiser: the diffusers class `name` from the folder `part`, with the low-rank changes merged in."""
        network = load_model(diffusers_class(name), self.folder.path / part, "torch_dtype", self.dtype)
        if self.lora is not None:
            self.lora.merge(network, part)
        return self.plan.place_network(network, self.device)

    def latents(self, size: int | None = None, name: str = "AutoencoderKL") -> Latents:
        """Pictures through the autoencoder of the class `name`. size: pixels; None: its own sample size."""
        own = size or self.side("vae", 32)
        codec = Latents(self.autoencoder(name), own)
        self.plan.place_codec(codec)
        return codec

    def autoencoder(self, name: str) -> Any:
        """The diffusers class `name` from the folder vae, in float32 (in float16 it overflows)."""
        vae = load_model(diffusers_class(name), self.folder.path / "vae", "torch_dtype", torch.float32)
        return vae.to(self.device)

    def codec(self, part: str = "unet", absent: int | None = None) -> Latents | Pixels:
        """Pictures to samples of the size of a denoiser: latents when there is an autoencoder.

        Where sample_size is null, the default of UNets, the autoencoder's counts. absent: see side.
        """
        if self.folder.class_of("vae") is None:
            return Pixels(self.side(part, absent))
        if self.folder.config(part).get("sample_size", absent) is None:
            return self.latents()
        return self.latents(self.side(part, absent) * _reduction(self.folder.config("vae")))

    def side(self, part: str, absent: int | None = None) -> int:
        """sample_size of a config, one number or a pair; absent: what its class takes where the key is not there.

        Raises UserError where it is no size.
        """
        said = self.folder.config(part).get("sample_size", absent)
        side = said[0] if isinstance(said, list) and said else said
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise UserError(
                f"prior '{self.folder.path}' does not say its size, sample_size in {part}/config.json is {said}: "
                "write the side of the samples it was trained at"
            )
        return side

    def noise_table(self) -> tuple[NoiseSchedule, str]:
        """The training noise table and the prediction type, whichever sampler the folder names."""
        path, config = self.folder.path, self.folder.config("scheduler")
        kind = config.get("prediction_type", "epsilon")
        if kind not in PREDICTION_TYPES:
            raise UserError(f"prior '{path}' predicts '{kind}': supported are {', '.join(PREDICTION_TYPES)}")
        return read_noise_table(path, config), kind

    def flow(self, tokens: int, scale: float) -> FlowSchedule:
        """The rectified flow of the folder. tokens: in a picture. scale: of the network's time input.

        A scheduler with use_dynamic_shifting takes its shift from the number of tokens, exp of a line through
        (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift); any other has a fixed one.
        """
        config = self.folder.config("scheduler")
        if config.get("prediction_type") == "flow_prediction" and config.get("use_flow_sigmas"):
            # A sampler that was written for tables, told to step through a flow.
            return FlowSchedule(float(config.get("flow_shift", 1.0)), scale)
        if "base_shift" not in config and "shift" not in config:
            name = config.get("_class_name", "unknown")
            raise UserError(
                f"prior '{self.folder.path}' has the scheduler {name}, which is not of a flow model"
            )
        if not config.get("use_dynamic_shifting"):
            return FlowSchedule(float(config.get("shift", 1.0)), scale)
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        first, last = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        line = first + (last - first) * (tokens - low) / (high - low)
        return FlowSchedule(float(torch.tensor(line).exp()), scale)

    def karras(self) -> KarrasSchedule:
        """The levels of noise of a folder whose network predicts v at any of them."""
        path, config = self.folder.path, self.folder.config("scheduler")
        wanted = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
        bounds = [config.get(name) for name in ("sigma_min", "sigma_max")]
        low, high = (float(value) if isinstance(value, float | int) else 0.0 for value in bounds)
        if not 0.0 < low < high or wanted != {key: config.get(key) for key in wanted}:
            raise UserError(
                f"prior '{path}' is not supported, its scheduler has no continuous levels of noise from sigma_min "
                "to sigma_max with v_prediction: take the scheduler that came with the model"
            )
        return KarrasSchedule(low, high)

    def tokenizer(self, part: str) -> Any:
        """The tokenizer of a part; code that a folder brings along is never run."""
        folder = self.folder.path / part

        def load() -> Any:
            from transformers import AutoTokenizer

            _require_sentencepiece(folder)
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)

        return or_user_error(load, folder)

    def encoder(self, part: str) -> Any:
        """A text or image encoder of transformers, of the class the index names, frozen."""
        name = str(self.folder.class_of(part))
        # T5 overflows in float16; CLIP does not.
        half_t5 = name in ("T5EncoderModel", "UMT5EncoderModel") and self.dtype == torch.float16
        dtype = torch.bfloat16 if half_t5 else self.dtype
        folder = self.folder.path / part
        loaded = load_model(_class("transformers", name, folder), folder, "dtype", dtype)
        if self.lora is not None:
            self.lora.merge(loaded, part)
        return loaded.requires_grad_(False).eval().to(self.plan.encoder_device(self.device))


def read_noise_table(path: Path, config: dict[str, Any]) -> NoiseSchedule:
    """alpha-bar of a scheduler's config. Raises UserError when it has none."""
    from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    if "beta_schedule" not in config and "trained_betas" not in config:
        name = config.get("_class_name", "unknown")
        raise UserError(f"prior '{path}' has the scheduler {name}, without betas: its noise is not known")
    given = {key: config[key] for key in _NOISE_TABLE_KEYS if key in config}
    for key in ("num_train_timesteps", "beta_start", "beta_end"):
        if isinstance(given.get(key), str | bool | list):
            raise UserError(
                f"prior '{path}': no such noise schedule, its {key} is {given[key]!r}, not a number"
            )
    try:
        # CogVideoX divides the ratio of signal to noise of its table.
        table = CogVideoXDDIMScheduler if _SHIFT_KEY in given else DDPMScheduler
        return NoiseSchedule(table(**given).alphas_cumprod)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"prior '{path}': no such noise schedule ({first_line(error)})") from error


def _reduction(vae_config: dict[str, Any]) -> int:
    return 2 ** (len(vae_config.get("block_out_channels", [64])) - 1)
