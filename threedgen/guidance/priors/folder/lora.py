"""LoRA weights for a prior: a file of low-rank changes of the denoiser and of the text encoders."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from threedgen.core import machine
from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.files import PipelineFolder, readable, require_whole

_INSTALL = "pip install peft accelerate (the extra threedgen[lora])"


def require_peft(what: str) -> None:
    """Raises UserError if a package that low-rank changes need is not installed."""
    absent = [name for name in ("peft", "accelerate") if machine.version(name) is None]
    if absent:
        raise UserError(f"{what} needs {' and '.join(absent)}: {_INSTALL}")


@dataclass(frozen=True)
class Lora:
    """file: in the format of diffusers or of kohya. scale: factor on the changes. folder: that of the prior."""

    file: Path
    scale: float
    folder: PipelineFolder

    def check(self) -> None:
        """Raises UserError if the file cannot be used, before anything large is loaded."""
        require_peft("a prior with LoRA weights")
        with readable(self.file):
            if not self.file.is_file():
                raise UserError(f"LoRA file '{self.file}' does not exist: name a .safetensors file")
            if self.file.suffix != ".safetensors":
                raise UserError(
                    f"LoRA file '{self.file}' is not safetensors: save it again with safe_serialization=True"
                )
            require_whole(self.file)

    def identity(self) -> tuple[object, ...]:
        """Values that differ whenever the file or the scale differ."""
        status = self.file.stat()
        return self.file.resolve(), status.st_size, status.st_mtime_ns, self.scale

    def merge(self, model: Any, part: str) -> None:
        """Add the changes that the file holds for `part` to its weights. A file need not change the text encoders.

        Raises UserError if it holds none for the denoiser, or if they do not fit.
        """
        from threedgen.guidance.priors.folder.libraries import or_user_error, quiet

        changes, alphas = self._changes
        if not any(name.startswith(f"{part}.") for name in changes):
            if part in ("unet", "transformer"):
                raise UserError(
                    f"LoRA file '{self.file}' holds no changes for the {part} of this prior: it is for another "
                    "model"
                )
            return
        encoder = part.startswith("text_encoder")

        def load() -> None:
            if encoder:
                self._loader.load_lora_into_text_encoder(
                    changes, alphas, model, prefix=part, lora_scale=self.scale, adapter_name="lora"
                )
                return
            model.load_lora_adapter(changes, prefix=part, network_alphas=alphas, adapter_name="lora")
            model.fuse_lora(self.scale)
            model.unload_lora()

        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            or_user_error(load, self.file)

    @cached_property
    def _loader(self) -> Any:
        """The mixin of diffusers that reads the file formats of this family."""
        from diffusers.loaders import lora_pipeline

        transformers = {"SD3Transformer2DModel": "SD3", "FluxTransformer2DModel": "Flux"}
        family = transformers.get(self.folder.class_of("transformer") or "", "StableDiffusion")
        if family == "StableDiffusion" and self.folder.class_of("text_encoder_2"):
            family = "StableDiffusionXL"
        return getattr(lora_pipeline, f"{family}LoraLoaderMixin")

    @cached_property
    def _changes(self) -> tuple[dict[str, Tensor], dict[str, float] | None]:
        """The tensors of the file under the names of diffusers, and the alphas of formats that have them."""
        from safetensors.torch import load_file

        from threedgen.guidance.priors.folder.libraries import or_user_error, quiet

        with quiet():
            found = or_user_error(lambda: self._loader.lora_state_dict(load_file(self.file)), self.file)
        return (found[0], found[1]) if isinstance(found, tuple) else (found, None)
