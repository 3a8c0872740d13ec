"""A ControlNet (Zhang et al. 2023) beside a UNet: it sees a picture of each view and adds to the UNet's skips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.folder import files, parts
from threedgen.guidance.priors.folder.memory import Plan

# Keys of both configs that must agree, and what an absent one means. Not class_embed_type: beside MVDream's UNet a
# ControlNet is not told the camera.
_SHARED = {
    "cross_attention_dim": None,
    "block_out_channels": None,
    "in_channels": 4,
    "addition_embed_type": None,
}


class Control:
    """A frozen ControlNetModel. scale: what its residuals are multiplied with."""

    def __init__(self, network: Any, scale: float) -> None:
        self.network, self.scale = network, scale

    @classmethod
    def load(
        cls,
        folder: Path,
        unet_config: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        plan: Plan,
        scale: float,
    ) -> Control:
        """From a folder with a ControlNetModel's config.json and safetensors. Raises UserError when it is another
        model or was made for another UNet than that of `unet_config`."""
        with files.readable(folder):
            if not folder.is_dir():
                raise UserError(
                    f"control folder '{folder}' does not exist: name a ControlNet's folder on this machine (hub "
                    "ids are for `path` only)"
                )
            if not (folder / "config.json").is_file():
                raise UserError(
                    f"control folder '{folder}' is no ControlNet's: it lacks config.json"
                    + (" (it is a whole pipeline)" if (folder / "model_index.json").is_file() else "")
                )
            config = files.read_json(folder / "config.json")
            found = config.get("_class_name")
            if found != "ControlNetModel":
                raise UserError(f"control folder '{folder}' holds {found}, not a ControlNetModel")
            for key, absent in _SHARED.items():
                ours, theirs = config.get(key, absent), unet_config.get(key, absent)
                if ours != theirs:
                    raise UserError(
                        f"control folder '{folder}' was made for another prior: its {key} is {ours}, "
                        f"the prior's is {theirs}"
                    )
            if config.get("class_embed_type") is not None:
                raise UserError(f"control folder '{folder}' is not supported, it wants class labels")
            files.require_safe_weights(folder)
        network = parts.load_model(parts.diffusers_class("ControlNetModel"), folder, "torch_dtype", dtype)
        return cls(plan.place_network(network, device), scale)

    def residuals(self, arguments: dict[str, Any], condition: Condition, size: int) -> dict[str, Any]:
        """What the UNet is to be called with beside `arguments`. Raises UserError without pictures."""
        if condition.pictures is None:
            raise UserError(
                "this prior has a ControlNet, which follows a picture of each view: set `pictures`"
            )
        sample: Tensor = arguments["sample"]
        pictures = resize_images(condition.pictures, size).permute(0, 3, 1, 2)
        down, middle = self.network(
            **{key: value for key, value in arguments.items() if key != "class_labels"},
            controlnet_cond=pictures.to(sample),
            conditioning_scale=self.scale,
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
