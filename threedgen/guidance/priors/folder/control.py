"""A ControlNet (Zhang et al. 2023) beside a UNet: it receives a picture of each view and adds residuals to the
UNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.folder import files, parts, weights
from threedgen.guidance.priors.folder.memory import Plan

# Keys whose values must be equal in both configs, and the default of each. class_embed_type is not among them:
# beside the UNet of MVDream a ControlNet does not receive the camera.
_SHARED = {
    "cross_attention_dim": None,
    "block_out_channels": None,
    "in_channels": 4,
    "addition_embed_type": None,
}


class Control:
    """A frozen ControlNetModel. scale: factor on its residuals."""

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
        """From a folder with the config.json and the safetensors of a ControlNetModel. Raises UserError if it holds
        another model, or one that was trained for another UNet than that of `unet_config`."""
        with files.readable(folder):
            if not folder.is_dir():
                raise UserError(
                    f"control folder '{folder}' does not exist: name the folder of a ControlNet on this machine "
                    "(hub ids are for `path` only)"
                )
            if not (folder / "config.json").is_file():
                raise UserError(
                    f"control folder '{folder}' is not that of a ControlNet: it lacks config.json"
                    + (" (it is a whole pipeline)" if (folder / "model_index.json").is_file() else "")
                )
            config = files.read_config(folder / "config.json")
            found = config.get("_class_name")
            if found != "ControlNetModel":
                raise UserError(
                    f"control folder '{folder}' holds {found}, not a ControlNetModel: name another one"
                )
            for key, absent in _SHARED.items():
                ours, theirs = config.get(key, absent), unet_config.get(key, absent)
                if ours != theirs:
                    raise UserError(
                        f"control folder '{folder}' was trained for another prior: its {key} is {ours}, that of "
                        f"the prior is {theirs}"
                    )
            if config.get("class_embed_type") is not None:
                raise UserError(
                    f"control folder '{folder}' is not supported, because it needs class labels: name another one"
                )
            weights.require_safe_weights(folder)
        network = parts.load_model(parts.diffusers_class("ControlNetModel"), folder, "torch_dtype", dtype)
        return cls(plan.place_network(network, device), scale)

    def residuals(self, arguments: dict[str, Any], condition: Condition, size: int) -> dict[str, Any]:
        """Further arguments of the UNet beside `arguments`. Raises UserError if the condition has no pictures."""
        if condition.pictures is None:
            raise UserError("this prior has a ControlNet, which needs a picture of each view: set `pictures`")
        sample: Tensor = arguments["sample"]
        pictures = resize_images(condition.pictures, size).permute(0, 3, 1, 2)
        down, middle = self.network(
            **{key: value for key, value in arguments.items() if key != "class_labels"},
            controlnet_cond=pictures.to(sample),
            conditioning_scale=self.scale,
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
