"""The public folders of MVDream (Shi et al. 2023) and ImageDream (Wang and Shi 2023), whose UNet has a class of its
own, as folders of diffusers.

The class MultiViewUNetModel has the names and settings of latent-diffusion, and two layers more that embed the
camera and are added to the time embedding. That is a UNet2DConditionModel with a class embedding of 16 numbers: its
config is read off the shapes, and its weights are renamed whenever they are loaded, by diffusers' own converter.
What ImageDream has beside it, for a picture, is loaded by itself.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder import single_configs as configs
from threedgen.guidance.priors.folder.files import PipelineFolder, read_json
from threedgen.guidance.priors.folder.single_file import blaming, stored
from threedgen.guidance.priors.folder.single_weights import (
    CAMERA,
    LABEL,
    OF_PICTURE,
    PICTURE_FORM,
    RESAMPLER,
    SOURCE,
    Source,
)
from threedgen.guidance.priors.folder.weights import weight_set

CLASS = "MultiViewUNetModel"
PICTURE_TOKENS = "picture_tokens"
"""The key of the config that marks a UNet of ImageDream, with the number of tokens of the picture."""
_VIEWS = 4  # of a group, in every published model


def as_diffusers(folder: PipelineFolder) -> PipelineFolder:
    """The folder itself, or for one of MVDream the folder that stands for it; its other parts stay where they are.

    Raises UserError for weights that are not whole.
    """
    if folder.class_of("unet") != CLASS:
        return folder
    part = folder.part("unet")
    given = read_json(part / "config.json")
    files = weight_set(part).files
    if len(files) != 1:
        raise UserError(
            f"prior part '{part}' is in {len(files)} files: name a folder that has one for its unet"
        )
    source = Source.of(files[0], "", "multiview")
    with blaming(files[0], "MVDream UNet"):
        config = _config(source.shapes, given)
    index = {**folder.index, "unet": ["diffusers", config["_class_name"]]}
    texts = {"model_index.json": index, "unet/config.json": config}
    path = stored(
        {name: json.dumps(text, indent=1) for name, text in texts.items()} | {f"unet/{SOURCE}": source.text()}
    )
    others = {name: folder.part(name) for name in index if name != "unet"}
    return PipelineFolder(path, others)


def _config(shapes: configs.Shapes, given: dict[str, Any]) -> dict[str, Any]:
    """The config of the UNet2DConditionModel. given: the settings of the original class."""
    own = {name: shape for name, shape in shapes.items() if not name.startswith(RESAMPLER)}
    renamed = {name.replace(CAMERA, LABEL, 1): shape for name, shape in own.items()}
    config = configs.unet(renamed, int(given["image_size"]))
    # One of the two is given, and the other is -1.
    heads, channels = int(given.get("num_heads", -1)), int(given.get("num_head_channels", -1))
    widths = config["block_out_channels"]
    config["attention_head_dim"] = [width // channels for width in widths] if channels > 0 else heads
    assert config.get("class_embed_type") == "projection", "no camera embedding"
    tokens = int(given.get("ip_dim") or 0)
    if tokens:
        assert shapes[f"{RESAMPLER}latents"][1] == tokens, "another number of tokens of the picture"
        across = sum(name.endswith("attn2.to_k.weight") for name in shapes)
        assert sum(name.endswith(OF_PICTURE) for name in shapes) == 2 * across, "no keys of the picture"
        config[PICTURE_TOKENS] = tokens
    return {**config, "num_views": _VIEWS}


def picture_weights(part: Path) -> dict[str, dict[str, Tensor]]:
    """The weights for a picture in the UNet of ImageDream, whose folder `as_diffusers` made: image_proj, those of
    the resampler, and ip_adapter, those of each attention under the name that the attention has in diffusers.

    Raises UserError if their file changed.
    """
    source = Source.read(part)
    assert source is not None, f"{part} was not made by as_diffusers"
    config = read_json(part / "config.json")
    found = replace(source, form=PICTURE_FORM).tensors(config)
    resampler = {
        name.removeprefix(RESAMPLER): value for name, value in found.items() if name.startswith(RESAMPLER)
    }
    attentions = {name: value for name, value in found.items() if not name.startswith(RESAMPLER)}
    return {"image_proj": resampler, "ip_adapter": attentions}
