"""A pipeline folder with other weights than those that it would be read with: a named variant, another autoencoder.

Each part that changes is a folder of its own, with a config and links to the weights. So whatever reads the part
finds one set of weights, and what is stored about it (texts, compiled graphs) belongs to that set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder import single_configs as configs
from threedgen.guidance.priors.folder.files import PipelineFolder, read_config, require_whole
from threedgen.guidance.priors.folder.single_file import blaming, stored
from threedgen.guidance.priors.folder.single_kinds import VAE, kind_of
from threedgen.guidance.priors.folder.single_weights import SOURCE, Source, shapes_of
from threedgen.guidance.priors.folder.weights import (
    no_variant,
    require_safe_weights,
    variants_of,
    weight_set,
)

_CLASS = "AutoencoderKL"
_FACTORS = {"scaling_factor": 0.18215, "shift_factor": None}  # of latents, with the defaults of the class
_PREFIXES = ("", VAE, "vae.")  # of the names of an autoencoder alone, and of one in a file of a whole model


def with_variant(folder: PipelineFolder, variant: str) -> PipelineFolder:
    """The folder with the weights of one variant in each part that has it, a word in the names of files or WHOLE.

    Raises UserError, with the variants that are there, if no part has it, and for files that are not whole.
    """
    there: dict[str, None] = {}
    places = dict(folder.places)
    for name in filter(folder.class_of, folder.index):
        part = folder.part(name)
        own = variants_of(part)
        there |= dict.fromkeys(own)
        if variant in own and len(own) > 1:
            places[name] = _with_one_set(name, part, read_config(part / "config.json"), variant)
    if variant not in there:
        raise no_variant(f"prior '{folder.path}'", variant, list(there))
    return PipelineFolder(folder.path, places)


def with_autoencoder(folder: PipelineFolder, given: Path) -> PipelineFolder:
    """The folder with another autoencoder: a single file under the names of the original code, also one of a whole
    model; a folder of diffusers' AutoencoderKL; or a pipeline folder that has one.

    A file does not say by which factor its latents are scaled, so it is that of the model. Raises UserError if
    either has no autoencoder, and for one whose latents are others than those that the model denoises.
    """
    name = folder.class_of("vae")
    if name != _CLASS:
        why = "it has no autoencoder" if name is None else f"its autoencoder is {name}, not {_CLASS}"
        raise UserError(
            f"the autoencoder of prior '{folder.path}' cannot be replaced, because {why}: leave vae out"
        )
    # It is replaced, so it need not be there.
    own = folder.config("vae") if (folder.part("vae") / "config.json").is_file() else {}
    model = _FACTORS | {"sample_size": 512} | own
    if given.is_file():
        place = _of_file(given, model)
    else:
        part = given / "vae" if (given / "model_index.json").is_file() else given
        config = _config_of(part, given)
        require_safe_weights(part)
        place = _with_one_set("vae", part, config | {"sample_size": model["sample_size"]})
    config = read_config(place / "config.json")
    denoiser = "unet" if folder.class_of("unet") is not None else "transformer"
    _check(given, config, model, folder.config(denoiser))
    return PipelineFolder(folder.path, {**folder.places, "vae": place})


def latents_of(denoiser: Mapping[str, Any], channels: int) -> int:
    """The number of channels of the latents that a denoiser makes, by its config. channels: of the autoencoder, for
    a config that does not say it."""
    made = denoiser.get("out_channels")
    if (
        denoiser.get("_class_name") == "FluxTransformer2DModel"
    ):  # of 2 x 2 latents, as many as it reads by default
        made = (made or denoiser.get("in_channels") or 64) // 4
    return made or channels


def _of_file(file: Path, model: Mapping[str, Any]) -> Path:
    """The folder that stands for an autoencoder in a single file. Raises UserError."""
    if file.suffix != ".safetensors":
        raise UserError(
            f"vae file '{file}' is not safetensors: name a .safetensors file, or a folder of diffusers"
        )
    shapes = shapes_of(file)
    if any(name.startswith("encoder.down_blocks.") for name in shapes):
        raise UserError(
            f"vae file '{file}' is one part of a pipeline folder: name its folder, with config.json"
        )
    try:
        kind = kind_of(file)
    except UserError as error:  # which speaks of models
        fault = str(error).replace("prior file", "vae file", 1).partition(": name")[0]
        raise UserError(f"{fault}: name the file of an autoencoder, or a folder of diffusers") from error
    prefix = next((start for start in _PREFIXES if f"{start}encoder.conv_in.weight" in shapes), None)
    if prefix is None:
        raise UserError(f"vae file '{file}' is {kind.value} without an autoencoder: name one that has it")
    source = Source.of(file, prefix, "autoencoder")
    factors = model["scaling_factor"], model["shift_factor"], model["sample_size"]
    with blaming(file, "autoencoder (VAE)"):
        config = configs.autoencoder(source.shapes, *factors)
    return stored({"vae/config.json": json.dumps(config, indent=1), f"vae/{SOURCE}": source.text()}) / "vae"


def _config_of(part: Path, given: Path) -> dict[str, Any]:
    """The config of an autoencoder in a folder. Raises UserError if there is none."""
    if not given.is_dir():
        raise UserError(
            f"there is no file or folder '{given}' of an autoencoder: name a .safetensors file or a folder of "
            "diffusers on this machine (hub ids are for `path` only)"
        )
    if not (part / "config.json").is_file():
        raise UserError(
            f"vae folder '{given}' is not that of an autoencoder: it has no config.json, name another"
        )
    config = read_config(part / "config.json")
    found = config.get("_class_name")
    if found != _CLASS:
        raise UserError(f"vae folder '{given}' holds {found}, not {_CLASS}: name another one")
    return _FACTORS | config


def _check(
    given: Path, config: Mapping[str, Any], model: Mapping[str, Any], denoiser: Mapping[str, Any]
) -> None:
    """Raises UserError unless an autoencoder has the latents of a model. config: of the autoencoder. model: of the
    one that it replaces, which may say no more than its factors. denoiser: of the network."""
    ends = [config.get(key, 3) for key in ("in_channels", "out_channels")]
    if ends != [3, 3]:
        raise _of_another_model(given, f"it is for pictures of {max(ends)} channels, not of 3")
    channels = config.get("latent_channels", 4)
    made = latents_of(denoiser, channels)
    if made != channels:
        raise _of_another_model(given, f"it has {channels} channels of latents, and the network makes {made}")
    for key in _FACTORS:
        if config[key] != model[key]:
            raise _of_another_model(given, f"its {key} is {config[key]}, that of the prior is {model[key]}")
    ours, theirs = (len(item.get("block_out_channels") or ()) for item in (config, model))
    if theirs and ours != theirs:
        raise _of_another_model(
            given,
            f"its latents are {2 ** (ours - 1)} times smaller than pictures, not {2 ** (theirs - 1)} times",
        )


def _of_another_model(given: Path, why: str) -> UserError:
    return UserError(f"vae '{given}' was made for another prior: {why}; name one of the same family")


def _with_one_set(name: str, part: Path, config: Mapping[str, Any], variant: str | None = None) -> Path:
    """A folder with a config and one set of weights of a part. variant: None: the first that is whole."""
    chosen = weight_set(part, variant)
    for file in chosen.files:
        require_whole(file)
    files = [*chosen.files, *([] if chosen.index is None else [chosen.index])]
    texts = {f"{name}/config.json": json.dumps(config, indent=1)}
    return stored(texts, {f"{name}/{file.name}": file for file in files}) / name
