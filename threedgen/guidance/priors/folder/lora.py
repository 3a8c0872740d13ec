"""LoRA weights for a prior: a file of low-rank changes of the denoiser and of the text encoders."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedgen.core import machine
from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.files import PipelineFolder, header, readable, require_whole
from threedgen.guidance.priors.folder.lora_strengths import PEFT, Strengths

_OTHER_KINDS = {
    "LoHa": (".hada_w",),
    "LoKr": (".lokr_w",),
    "(IA)3": (".on_input",),
    "OFT": (".oft_blocks", ".oft_R"),
    "DoRA": (
        ".dora_scale",
        ".lora_magnitude_vector",
    ),  # the library would leave the scales out, with a log entry
}
_DOWN = re.compile(
    r"\.?(_lora\.down|lora_down|lora_A(\.default)?|lora\.down|lora_linear_layer\.down)\.weight$"
)
_UPS = (("lora_A", "lora_B"), ("down", "up"))
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
            names = header(self.file)
        for kind, marks in _OTHER_KINDS.items():
            if any(mark in name for name in names for mark in marks):
                raise UserError(
                    f"LoRA file '{self.file}' holds changes of the kind {kind}, which are not read: take a LoRA, "
                    "or merge the file into the model first"
                )

    def identity(self) -> tuple[object, ...]:
        """Values that differ whenever the file or the scale differ."""
        status = self.file.stat()
        return self.file.resolve(), status.st_size, status.st_mtime_ns, self.scale

    def merge(self, model: Any, part: str) -> None:
        """Add the changes that the file holds for `part` to its weights. A file need not change the text encoders.

        Raises UserError if it holds none for the denoiser, or if they do not fit. Warns if some do not.
        """
        if part.startswith("text_encoder"):
            self._merge_encoder(model, part)
        elif part in ("unet", "transformer"):
            self._merge_denoiser(model, part)

    def _merge_denoiser(self, model: Any, part: str) -> None:
        from threedgen.guidance.priors.folder.libraries import or_user_error, quiet

        changes = self._changes
        layers = {name for name, _ in model.named_modules()}
        held = {_layer(name.removeprefix(f"{part}.")) for name in changes if name.startswith(f"{part}.")}
        fitting = held & layers
        if not fitting:
            lacking = (
                f"none of its {len(held)} changes for the {part} fits"
                if held
                else f"it has none for a {part}"
            )
            raise UserError(f"LoRA file '{self.file}' is for another model than this prior: {lacking}")

        def load() -> None:
            model.load_lora_adapter(changes, prefix=part, network_alphas=None, adapter_name="lora")
            model.fuse_lora(self.scale)
            model.unload_lora()

        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            or_user_error(load, self.file)
        self._warn_of_rest(part, len(fitting), held - layers)

    def _merge_encoder(self, model: Any, part: str) -> None:
        """Adds the product of the two matrices to each layer of a text encoder.

        The mixin of diffusers refuses a file without changes for the last layer of the attention.
        """
        layers = {
            name.removeprefix("text_model.").replace(".", "_"): module
            for name, module in model.named_modules()
        }
        tensors = self._tensors
        used, left = 0, set()
        for name, down in tensors.items():
            if _encoder_of(name) != part or not _DOWN.search(name):
                continue
            layer = layers.get(_encoder_layer(name))
            up = tensors.get(_up_of(name))
            if layer is None or up is None:
                left.add(name)
                continue
            if up.shape[0] != layer.weight.shape[0] or down.shape[1:] != layer.weight.shape[1:]:
                raise UserError(
                    f"LoRA file '{self.file}' is for another model than this prior: its change {name} does not fit "
                    "the shape of the layer"
                )
            layer.weight.data += (self.scale * up @ down).to(layer.weight)
            used += 1
        self._warn_of_rest(part, used, left)

    def _warn_of_rest(self, part: str, used: int, left: set[str]) -> None:
        if left:
            warnings.warn(
                f"LoRA file '{self.file}' fits this prior in part: {used} of its {used + len(left)} changes for "
                f"the {part} are used (not, for example, {min(left)}); it may be for another model",
                stacklevel=2,
            )

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
    def _changes(self) -> dict[str, Tensor]:
        """The tensors of the file for the denoiser under the names of diffusers."""
        from threedgen.guidance.priors.folder.libraries import or_user_error, quiet

        denoiser = "transformer" if self.folder.class_of("transformer") else "unet"
        tensors = {
            f"{denoiser}.{name.removeprefix(PEFT)}" if name.startswith(PEFT) else name: value
            for name, value in self._tensors.items()
            if not _encoder_of(name)
        }
        with quiet():
            found = or_user_error(lambda: self._loader.lora_state_dict(tensors), self.file)
        return found[0] if isinstance(found, tuple) else found

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        """The tensors of the file under their own names, see `_even`."""
        from safetensors.torch import load_file

        from threedgen.guidance.priors.folder.libraries import or_user_error

        tensors = or_user_error(lambda: load_file(self.file), self.file)
        strengths = Strengths.of(self.file, tensors)
        return or_user_error(lambda: _even(tensors, strengths), self.file)


def _even(tensors: dict[str, Tensor], strengths: Strengths) -> dict[str, Tensor]:
    """Changes of one rank, filled up with zeros, each with its alpha / rank in its second matrix.

    The library takes one alpha for all changes of kohya's format, and divides it by the rank of each
    (findings/diffusers-kohya-lora-one-alpha.sh).
    """
    even = {name: value for name, value in tensors.items() if not name.endswith(".alpha")}
    pairs = [(name, _up_of(name)) for name in even if _DOWN.search(name) and _up_of(name) in even]
    rank = max((even[down].shape[0] for down, _ in pairs), default=0)
    for down, up in pairs:
        own = even[down].shape[0]
        factor = strengths.factor(_DOWN.sub("", down), own)
        grown = [
            torch.zeros(rank, *even[down].shape[1:]),
            torch.zeros(len(even[up]), rank, *even[up].shape[2:]),
        ]
        grown[0][:own], grown[1][:, :own] = even[down].float(), factor * even[up].float()
        even[down], even[up] = grown
    return even


def _layer(name: str) -> str:
    """The layer that a change of diffusers' format, old or new, is for."""
    layer = re.sub(r"\.processor\.(to_\w+)_lora\.(down|up)\.weight$", r".\1", name)
    layer = re.split(r"\.(lora_A|lora_B|lora\.|lora_linear_layer)", layer)[0]
    return f"{layer}.0" if layer.endswith(".to_out") else layer


def _encoder_of(name: str) -> str:
    """The text encoder that a tensor of a file is for, or "".

    In kohya's format they are counted from 1, in diffusers' the first has no number.
    """
    found = re.match(r"(text_encoder(_[23])?)\.|lora_te([123]?)_", name)
    if found is None:
        return ""
    number = found[3] or ""
    return found[1] or ("text_encoder" if number in ("", "1") else f"text_encoder_{number}")


def _encoder_layer(name: str) -> str:
    """The layer of a text encoder that a change is for, with _ between its names, in all formats."""
    layer = re.sub(r"^(text_encoder(_[23])?\.|lora_te[123]?_)", "", _DOWN.sub("", name)).replace(".", "_")
    layer = re.sub(r"self_attn_to_(q|k|v|out)$", r"self_attn_\1_proj", layer)
    return layer.removeprefix("text_model_")


def _up_of(down: str) -> str:
    """The name of the second matrix of a change, by that of the first."""
    start, end = down[: _start_of(down)], down[_start_of(down) :]
    for first, second in _UPS:
        end = end.replace(first, second)
    return start + end


def _start_of(down: str) -> int:
    found = _DOWN.search(down)
    return len(down) if found is None else found.start()
