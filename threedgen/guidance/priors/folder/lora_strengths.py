"""How much each change of a LoRA file counts: alpha / rank. Every trainer stores alpha in a place of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.files import read_json
from threedgen.guidance.priors.folder.libraries import or_user_error

PEFT = "base_model.model."  # how peft begins the names of a denoiser
_METADATA = "lora_adapter_metadata"  # of diffusers, in the header of the file
_PEFT_SETTINGS = "adapter_config.json"  # beside the file
_PEFT_ALPHA = 8  # of a change by peft's defaults, if its settings do not say it
_DAMAGED = "copy the file again"


@dataclass(frozen=True)
class Strengths:
    """The factors of the changes in one file.

    alphas: of kohya's trainer, a tensor beside each change, by the name of its layer in the file. settings: of
    diffusers and peft, LoraConfigs by the start of the names that they are for.
    """

    file: Path
    alphas: Mapping[str, Tensor]
    settings: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, file: Path, tensors: Mapping[str, Tensor]) -> Strengths:
        """Those of a file with these tensors. Raises UserError for settings that cannot be read."""
        alphas = {
            name.removesuffix(".alpha"): value for name, value in tensors.items() if name.endswith(".alpha")
        }
        settings = _in_header(file)
        beside = file.with_name(_PEFT_SETTINGS)
        if beside.is_file() and any(name.startswith(PEFT) for name in tensors):
            settings[PEFT] = read_json(beside)
        return cls(file, alphas, settings)

    def factor(self, layer: str, rank: int) -> float:
        """The factor on up @ down of a change: 1 if the file does not say it, which diffusers means by this.

        layer: the name of its layer in the file. Raises UserError for an alpha that is no number.
        """
        if layer in self.alphas:
            return float(self.alphas[layer]) / rank
        for start, settings in self.settings.items():
            if layer.startswith(start):
                alpha = self._alpha(settings, layer.removeprefix(start))
                return alpha / (math.sqrt(rank) if settings.get("use_rslora") is True else rank)
        return 1.0

    def _alpha(self, settings: Mapping[str, Any], layer: str) -> float:
        from peft.utils.other import get_pattern_key

        own = settings.get("alpha_pattern") or {}
        if not isinstance(own, dict):
            raise UserError(f"LoRA file '{self.file}' has an alpha_pattern that is not an object: {_DAMAGED}")
        key = or_user_error(lambda: get_pattern_key(list(own), layer), self.file)
        alpha = own.get(key, settings.get("lora_alpha", _PEFT_ALPHA))
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise UserError(
                f"LoRA file '{self.file}' has an alpha of {alpha!r} in its settings, not a number: {_DAMAGED}"
            )
        return float(alpha)


def _in_header(file: Path) -> dict[str, Mapping[str, Any]]:
    """The settings that diffusers writes into a file, by the part ("unet.") that they are for. Raises UserError."""
    from safetensors import safe_open

    def text() -> str:
        with safe_open(file, "pt") as opened:
            return (opened.metadata() or {}).get(_METADATA) or "{}"

    try:
        content = parse_json(or_user_error(text, file))
    except ValueError as error:
        raise UserError(f"LoRA file '{file}' has settings that are not JSON: {_DAMAGED}") from error
    if not isinstance(content, dict):
        raise UserError(f"LoRA file '{file}' has settings that are not a JSON object: {_DAMAGED}")
    found: dict[str, dict[str, Any]] = {}
    for name, value in content.items():
        part, _, key = name.partition(".")
        found.setdefault(f"{part}.", {})[key] = value
    return dict(found)
