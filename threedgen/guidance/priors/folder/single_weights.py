"""The weights of one part of a model that is a single file, under the names of diffusers and transformers.

A folder of configs is made of such a file (see `single_file`). In place of its weights each part has a small file
that says where they are, and they are converted whenever the part is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.files import header, read_json

SOURCE = "source.json"
PICTURE_FORM = "multiview-picture"
RESAMPLER, OF_PICTURE = "image_embed.", (".to_k_ip.weight", ".to_v_ip.weight")  # in ImageDream
CAMERA, LABEL = "camera_embed.", "label_emb.0."  # the added embedding in MVDream, and elsewhere


@dataclass(frozen=True)
class Source:
    """file: the single file. size, time: in bytes and nanoseconds, by which a change shows. prefix: of the names of
    the weights of this part in it. form: the key of the function that renames them."""

    file: str
    size: int
    time: int
    prefix: str
    form: str

    @classmethod
    def of(cls, file: Path, prefix: str, form: str) -> Source:
        status = file.stat()
        return cls(str(file.resolve()), status.st_size, status.st_mtime_ns, prefix, form)

    @classmethod
    def read(cls, part: Path) -> Source | None:
        """The source of the weights of a part; None if it is an ordinary one. Raises UserError."""
        if not (part / SOURCE).is_file():
            return None
        values = read_json(part / SOURCE)
        if {item.name: item.type for item in fields(cls)} != {k: type(v).__name__ for k, v in values.items()}:
            raise UserError(f"prior file '{part / SOURCE}' is damaged: delete it")
        return cls(**values)

    def text(self) -> str:
        """What `read` reads."""
        return json.dumps(asdict(self), indent=1)

    @property
    def shapes(self) -> dict[str, list[int]]:
        """The shapes of the weights of the part, under the names in the file without the prefix."""
        return shapes_of(Path(self.file), self.prefix)

    def tensors(self, config: dict[str, Any]) -> dict[str, Tensor]:
        """The weights under the names of the library that has the class of the part, in the precision of the file.

        config: that of the part. Raises UserError if the file is another one than at the start.
        """
        from safetensors import safe_open

        path = Path(self.file)
        if not path.is_file() or Source.of(path, self.prefix, self.form) != self:
            raise UserError(f"prior file '{path}' changed while it was in use: start again")
        with safe_open(path, framework="pt") as stream:
            names = [name for name in stream.keys() if name.startswith(self.prefix)]  # noqa: SIM118
            return converted(
                self.form, {name: stream.get_tensor(name) for name in names}, self.prefix, config
            )


def shapes_of(file: Path, prefix: str = "") -> dict[str, list[int]]:
    """The shape of each tensor of a file whose name begins with a prefix, without it. Raises UserError."""
    entries = header(file).items()
    return {name.removeprefix(prefix): entry["shape"] for name, entry in entries if name.startswith(prefix)}


def converted(
    form: str, tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]
) -> dict[str, Tensor]:
    """The weights of a part under the names of its class. form: a key of the table below."""
    return _FORMS[form](tensors, prefix, config)


def _unet(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    return convert_ldm_unet_checkpoint(tensors, config)


def _multiview(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """MVDream's UNet, whose camera embedding the converter takes for labels under the prefix of whole models."""
    named = _multiview_whole(tensors, config)
    return {name: value for name, value in named.items() if not name.endswith(OF_PICTURE)}


def _multiview_picture(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """What ImageDream's UNet has beside that of MVDream: keys and values of the picture, and their resampler."""
    named = _multiview_whole(tensors, config)
    resampler = {name: value for name, value in tensors.items() if name.startswith(RESAMPLER)}
    return {**resampler, **{name: value for name, value in named.items() if name.endswith(OF_PICTURE)}}


def _multiview_whole(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import LDM_UNET_KEY

    labelled = {LDM_UNET_KEY + name.replace(CAMERA, LABEL, 1): value for name, value in tensors.items()}
    return _unet(labelled, LDM_UNET_KEY, config)


def _autoencoder(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return convert_ldm_vae_checkpoint(_without(tensors, prefix), config)


def _controlnet(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    return convert_controlnet_checkpoint(tensors, config)


def _sd3(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    return convert_sd3_transformer_checkpoint_to_diffusers(_without(tensors, prefix))


def _flux(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    return convert_flux_transformer_checkpoint_to_diffusers(_without(tensors, prefix))


def _encoder(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """CLIP and T5 under transformers' names, in some old files without the outer one."""
    named = {name: value for name, value in _without(tensors, prefix).items() if "position_ids" not in name}
    if any(name.startswith("embeddings.") for name in named):
        named = {f"text_model.{name}": value for name, value in named.items()}
    return named


def _encoder_unprojected(
    tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]
) -> dict[str, Tensor]:
    """The first CLIP of Stable Diffusion 3, whose pooled state is not projected, in a class that does so."""
    return {**_encoder(tensors, prefix, config), "text_projection.weight": torch.eye(config["hidden_size"])}


def _open_clip(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """CLIP under OpenCLIP's names. Layers beyond those of the config, of which no state is read, are left out."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    blocks = f"{prefix}transformer.resblocks."
    kept = {
        name: value
        for name, value in tensors.items()
        if not name.startswith(blocks)
        or int(name.removeprefix(blocks).split(".")[0]) < config["num_hidden_layers"]
    }
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
    named = convert_open_clip_checkpoint(model, kept, prefix=prefix)
    if config["architectures"] == ["CLIPTextModel"]:  # without a projection
        named.pop("text_projection.weight", None)
    return named


def _without(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


_FORMS: dict[str, Callable[[dict[str, Tensor], str, dict[str, Any]], dict[str, Tensor]]] = {
    "unet": _unet,
    "multiview": _multiview,
    PICTURE_FORM: _multiview_picture,
    "autoencoder": _autoencoder,
    "controlnet": _controlnet,
    "sd3": _sd3,
    "flux": _flux,
    "encoder": _encoder,
    "encoder-unprojected": _encoder_unprojected,
    "open-clip": _open_clip,
}
