"""The public folder of MVDream (Shi et al. 2023), whose UNet has a class of its own, as a folder of diffusers.

The class MultiViewUNetModel has the names and settings of latent-diffusion, and two layers more that embed the
camera and are added to the time embedding. That is a UNet2DConditionModel with a class embedding of 16 numbers: its
config is read off the shapes, and its weights are renamed whenever they are loaded, by diffusers' own converter.
"""

from __future__ import annotations

import json
from typing import Any

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder import single_configs as configs
from threedgen.guidance.priors.folder.files import PipelineFolder, read_json
from threedgen.guidance.priors.folder.single_file import blaming, stored
from threedgen.guidance.priors.folder.single_weights import CAMERA, LABEL, SOURCE, Source
from threedgen.guidance.priors.folder.weights import weight_set

CLASS = "MultiViewUNetModel"
_VIEWS = 4  # of a group, in every published model


def as_diffusers(folder: PipelineFolder) -> PipelineFolder:
    """The folder itself, or for one of MVDream the folder that stands for it; its other parts stay where they are.

    Raises UserError for weights that are not whole, and for a model that reads a picture as well (ImageDream).
    """
    if folder.class_of("unet") != CLASS:
        return folder
    part = folder.part("unet")
    given = read_json(part / "config.json")
    if given.get("ip_dim"):
        raise UserError(
            f"prior '{folder.path}' is not supported, because its UNet reads a picture beside the text "
            "(ImageDream): use MVDream, which reads a text, or Zero-1-to-3 (docs/priors.md)"
        )
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
    renamed = {name.replace(CAMERA, LABEL, 1): shape for name, shape in shapes.items()}
    config = configs.unet(renamed, int(given["image_size"]))
    # One of the two is given, and the other is -1.
    heads, channels = int(given.get("num_heads", -1)), int(given.get("num_head_channels", -1))
    widths = config["block_out_channels"]
    config["attention_head_dim"] = [width // channels for width in widths] if channels > 0 else heads
    assert config.get("class_embed_type") == "projection", "no camera embedding"
    return {**config, "num_views": _VIEWS}
