"""The parts of a pipeline folder, loaded by diffusers and transformers without a network connection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from threedgen.core.errors import UserError
from threedgen.guidance.priors.codec import Latents, Pixels
from threedgen.guidance.priors.executors.deferred import DeferredNetwork, KnownNetworks
from threedgen.guidance.priors.folder.config_keys import LARGEST_SIDE
from threedgen.guidance.priors.folder.files import PipelineFolder, first_line, read_config
from threedgen.guidance.priors.folder.libraries import (
    class_of,
    diffusers_class,
    load_model,
    or_user_error,
    require_sentencepiece,
)
from threedgen.guidance.priors.folder.lora import Lora
from threedgen.guidance.priors.folder.memory import Plan
from threedgen.guidance.priors.folder.plain_unet import is_plain, load_plain
from threedgen.guidance.priors.processes import (
    FlowSchedule,
    KarrasSchedule,
    NoiseSchedule,
    cosine_table,
)

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
_ANY_TEXT = "a thing, 7\u00e9"  # letters, a sign, a digit, and what is no ASCII


@dataclass(frozen=True)
class PipelineParts:
    """Loads the parts of one pipeline folder. Every method raises UserError if a part does not fit or is damaged.

    device, dtype: of the denoiser and the text encoders. plan: measures to save memory. lora: low-rank changes that
    are added to the parts, or None. deferred: the denoiser need not be loaded if it is known. vae_dtype: of the
    autoencoder.
    """

    folder: PipelineFolder
    device: torch.device
    dtype: torch.dtype
    plan: Plan
    lora: Lora | None = None
    deferred: bool = False
    vae_dtype: torch.dtype = torch.float32

    def network(self, name: str, part: str) -> Any:
        """The denoiser: the class `name` of diffusers from the folder `part`, with the low-rank changes added; or
        what stands for it."""
        folder = self.folder.part(part)
        changed = self.lora is not None or self.plan.slicing or self.plan.offload
        if name == "UNet2DConditionModel" and not changed and is_plain(folder):
            return self.plan.place_network(load_plain(folder, self.dtype), self.device)
        if not self.deferred:
            return self._load_network(name, part)
        networks = KnownNetworks()
        known = networks.find(name, folder)
        if known is not None:
            return DeferredNetwork(known, lambda: self._load_network(name, part))
        network = self._load_network(name, part)
        networks.add(name, folder, network)
        return network

    def _load_network(self, name: str, part: str) -> Any:
        network = load_model(diffusers_class(name), self.folder.part(part), "torch_dtype", self.dtype)
        if self.lora is not None:
            self.lora.merge(network, part)
        return self.plan.place_network(network, self.device)

    def latents(self, size: int | None = None, name: str = "AutoencoderKL") -> Latents:
        """The autoencoder of the class `name` as a codec. size: pixels; None: its own sample size."""
        own = size or self.side("vae", 32)
        codec = Latents(self.autoencoder(name), own)
        self.plan.place_codec(codec)
        return codec

    def autoencoder(self, name: str) -> Any:
        """The class `name` of diffusers from the folder vae."""
        vae = load_model(diffusers_class(name), self.folder.part("vae"), "torch_dtype", self.vae_dtype)
        return vae.to(self.device)

    def codec(self, part: str = "unet", absent: int | None = None) -> Latents | Pixels:
        """Pictures to samples of the size of the denoiser `part`: latents if there is an autoencoder.

        If sample_size is null, the default of UNets, that of the autoencoder is used. absent: see `side`.
        """
        if self.folder.class_of("vae") is None:
            return Pixels(self.side(part, absent))
        if self.folder.config(part).get("sample_size", absent) is None:
            return self.latents()
        pixels = self.side(part, absent) * pixels_per_latent(self.folder)
        if pixels > LARGEST_SIDE:
            raise UserError(
                f"prior '{self.folder.path}' has pictures of {pixels} pixels, sample_size in {part}/config.json is "
                f"{self.side(part, absent)}: at most {LARGEST_SIDE} are possible"
            )
        return self.latents(pixels)

    def side(self, part: str, absent: int | None = None) -> int:
        """sample_size of a config, which is one number or a pair. absent: the default of its class."""
        given = self.folder.config(part).get("sample_size", absent)
        side = given[0] if isinstance(given, list) else given
        if side is None:
            raise UserError(
                f"prior '{self.folder.path}' has no size, sample_size in {part}/config.json is {given}: write the "
                "side of the samples that it was trained on there"
            )
        return side

    def noise_table(self) -> tuple[NoiseSchedule, str]:
        """The noise table of the training and the prediction type, whichever sampler the folder names."""
        path, config = self.folder.path, self.folder.config("scheduler")
        kind = config.get("prediction_type", "epsilon")
        if kind not in PREDICTION_TYPES:
            raise UserError(f"prior '{path}' predicts '{kind}': supported are {', '.join(PREDICTION_TYPES)}")
        return read_noise_table(path, config), kind

    def flow(self, tokens: int, scale: float) -> FlowSchedule:
        """The rectified flow of the folder. tokens: per picture. scale: of the time input of the network.

        With use_dynamic_shifting the shift depends on the number of tokens: it is exp of the line through
        (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift). Without, it is fixed.
        """
        config = self.folder.config("scheduler")
        if config.get("prediction_type") == "flow_prediction" and config.get("use_flow_sigmas"):
            # A sampler for noise tables that is configured for a flow.
            return FlowSchedule(float(config.get("flow_shift", 1.0)), scale)
        if "base_shift" not in config and "shift" not in config:
            name = config.get("_class_name", "unknown")
            raise UserError(
                f"prior '{self.folder.path}' has the scheduler {name}, which is not that of a flow model: take the "
                "scheduler that came with the model"
            )
        if not config.get("use_dynamic_shifting"):
            return FlowSchedule(float(config.get("shift", 1.0)), scale)
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        if low == high:
            raise UserError(
                f"prior '{self.folder.path}' is damaged, base_image_seq_len and max_image_seq_len in its scheduler "
                f"are both {low}: copy it again"
            )
        first, last = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        line = first + (last - first) * (tokens - low) / (high - low)
        return FlowSchedule(float(torch.tensor(line).exp()), scale)

    def karras(self) -> KarrasSchedule:
        """The continuous noise levels of a folder whose network predicts v."""
        path, config = self.folder.path, self.folder.config("scheduler")
        wanted = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
        ends = [config.get(name) for name in ("sigma_min", "sigma_max")]
        low, high = (float(value) if isinstance(value, float | int) else 0.0 for value in ends)
        if not 0.0 < low < high or wanted != {key: config.get(key) for key in wanted}:
            raise UserError(
                f"prior '{path}' is not supported, its scheduler has no continuous noise levels from sigma_min "
                "to sigma_max with v_prediction: take the scheduler that came with the model"
            )
        return KarrasSchedule(low, high)

    def tokenizer(self, part: str) -> Any:
        """The tokenizer of a part; code from the folder is never run."""
        folder = self.folder.part(part)

        def load() -> Any:
            from transformers import AutoTokenizer

            made = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            made(_ANY_TEXT)  # some damage only shows when letters are read that are no words
            return made

        require_sentencepiece(folder)
        if (folder / "tokenizer_config.json").exists():
            read_config(folder / "tokenizer_config.json")
        tokenizer = or_user_error(load, folder)
        if tokenizer.pad_token is None:
            raise UserError(
                f"prior part '{folder}' does not say how texts are padded (pad_token): copy it again"
            )
        return tokenizer

    def encoder(self, part: str) -> Any:
        """A frozen text or image encoder of transformers, of the class that the index names."""
        name = str(self.folder.class_of(part))
        # T5 overflows in float16; CLIP does not.
        half_t5 = name in ("T5EncoderModel", "UMT5EncoderModel") and self.dtype == torch.float16
        dtype = torch.bfloat16 if half_t5 else self.dtype
        folder = self.folder.part(part)
        loaded = load_model(class_of("transformers", name, folder), folder, "dtype", dtype)
        if self.lora is not None:
            self.lora.merge(loaded, part)
        return loaded.requires_grad_(False).eval().to(self.plan.encoder_device(self.device))

    def text_encoder(self, end: str = "") -> tuple[Any, Any]:
        """The tokenizer and the text encoder whose folders have this ending, such as _2."""
        tokenizer, encoder = self.tokenizer(f"tokenizer{end}"), self.encoder(f"text_encoder{end}")
        most, words = max(tokenizer.get_vocab().values()), encoder.get_input_embeddings().num_embeddings
        if most >= words:
            raise UserError(
                f"prior part '{self.folder.part(f'tokenizer{end}')}' has a token {most}, and its text encoder "
                f"knows {words} tokens: copy both again"
            )
        return tokenizer, encoder


def read_noise_table(path: Path, config: dict[str, Any]) -> NoiseSchedule:
    """The cumulative products of the config of a scheduler. Raises UserError if it describes no noise table."""
    if "beta_schedule" not in config and "trained_betas" not in config:
        name = config.get("_class_name", "unknown")
        raise UserError(
            f"prior '{path}' has the scheduler {name}, without betas: its noise is not known, so use a model with "
            "a table of betas, such as Stable Diffusion"
        )
    given = {key: config[key] for key in _NOISE_TABLE_KEYS if key in config}
    betas = given.get("trained_betas")
    if betas is not None and not isinstance(betas, list):
        raise UserError(
            f"prior '{path}': no such noise schedule, its trained_betas are not a list of numbers"
        )
    steps = given.get("num_train_timesteps", 1000)
    unchanged = betas is None and not given.get("rescale_betas_zero_snr") and _SHIFT_KEY not in given
    if given.get("beta_schedule") == "squaredcos_cap_v2" and unchanged:
        return NoiseSchedule(cosine_table(steps))
    from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    # The table of CogVideoX is that of its betas with the ratio of signal to noise divided.
    scheduler = CogVideoXDDIMScheduler if _SHIFT_KEY in given else DDPMScheduler
    try:
        table = scheduler(**given).alphas_cumprod
    except (NotImplementedError, ValueError) as error:
        raise UserError(f"prior '{path}': no such noise schedule ({first_line(error)})") from error
    if not bool((table.isfinite() & (table >= 0.0) & (table <= 1.0)).all()):
        raise UserError(f"prior '{path}': no such noise schedule, its noise levels are not between 0 and 1")
    return NoiseSchedule(table)


def pixels_per_latent(folder: PipelineFolder, absent: int = 1) -> int:
    """Pixels per latent, along a side, of an autoencoder that halves pictures between its blocks.

    absent: the number of blocks if its config names none. Raises UserError for a config without a list of them.
    """
    blocks = folder.config("vae").get("block_out_channels", [0] * absent)
    if not isinstance(blocks, list) or not blocks:
        raise UserError(
            f"prior '{folder.path}' is damaged, block_out_channels in vae/config.json is {blocks!r}: copy it again"
        )
    return 2 ** (len(blocks) - 1)
