"""Folders that hold a model several times, in part or with companions: one set is chosen and loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from complaints import complaint
from safetensors.torch import load_file, save_file

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.weights import elements_of, weight_set
from threedgen.guidance.priors.load import PriorConfig, load_folder, load_prior

UNET = "diffusion_pytorch_model"
_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def copy_as(folder: Path, variant: str) -> None:
    """A copy of every file of weights in the precision of its name, beside it."""
    for file in list(folder.rglob("*.safetensors")):
        tensors = {name: tensor.to(_TYPES[variant]) for name, tensor in load_file(file).items()}
        save_file(tensors, file.with_name(f"{file.stem}.{variant}.safetensors"), {"format": "pt"})


def only(folder: Path, variant: str) -> None:
    copy_as(folder, variant)
    for file in folder.rglob("*.safetensors"):
        if f".{variant}." not in file.name:
            file.unlink()


def shard(file: Path, old_names: bool = False) -> list[Path]:
    """The file in two, with the index that lists them."""
    tensors = load_file(file)
    stem, _, variant = file.stem.partition(".")
    dot = f".{variant}" if variant else ""
    places, files = {}, []
    for number in (1, 2):
        count = f"-{number:05d}-of-00002"
        name = f"{stem}{count}{dot}.safetensors" if old_names else f"{stem}{dot}{count}.safetensors"
        held = {key: tensors[key] for key in sorted(tensors)[number - 1 :: 2]}
        save_file(held, file.with_name(name), {"format": "pt"})
        places |= dict.fromkeys(held, name)
        files.append(file.with_name(name))
    index = file.with_name(f"{stem}.safetensors.index{dot}.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    file.unlink()
    return files


def beside_non_ema(folder: Path) -> None:
    only(folder, "fp16")
    unet = folder / "unet"
    tensors = {name: tensor + 1 for name, tensor in load_file(unet / f"{UNET}.fp16.safetensors").items()}
    save_file(tensors, unet / f"{UNET}.non_ema.safetensors", {"format": "pt"})


def stale_index(folder: Path) -> None:
    """What is left of the whole precision when only the half was fetched, with all the JSON files."""
    only(folder, "fp16")
    file = folder / "unet" / f"{UNET}.fp16.safetensors"
    shutil.copy(file, folder / "unet" / f"{UNET}.safetensors")
    for left in shard(folder / "unet" / f"{UNET}.safetensors"):
        left.unlink()


def stale_index_beside_shards(folder: Path) -> None:
    stale_index(folder)
    shard(folder / "unet" / f"{UNET}.fp16.safetensors")


@pytest.mark.parametrize(
    ("spoil", "dtype"),
    [
        (lambda folder: only(folder, "fp16"), torch.float16),
        (lambda folder: only(folder, "bf16"), torch.bfloat16),
        (lambda folder: copy_as(folder, "fp16"), torch.float32),
        (beside_non_ema, torch.float16),
        (stale_index, torch.float16),
        (stale_index_beside_shards, torch.float16),
        (lambda folder: shard(folder / "unet" / f"{UNET}.safetensors"), torch.float32),
        (lambda folder: shard(folder / "unet" / f"{UNET}.safetensors", old_names=True), torch.float32),
    ],
)
def test_exactly_one_set_is_loaded(pipelines, folder, spoil: Callable[[Path], None], dtype):
    plain: Any = load_folder(pipelines["sd1"])
    spoil(folder)
    prior: Any = load_folder(folder)
    for name, value in plain.network.state_dict().items():
        assert torch.equal(prior.network.state_dict()[name], value.to(dtype).float())


def test_a_single_file_beside_the_index_of_its_own_precision(pipelines, folder):
    """The libraries would look for the shards."""
    file = folder / "unet" / f"{UNET}.safetensors"
    whole = file.read_bytes()
    for left in shard(file):
        left.unlink()
    file.write_bytes(whole)
    prior: Any = load_folder(folder)
    plain: Any = load_folder(pipelines["sd1"])
    assert torch.equal(prior.network.conv_in.weight, plain.network.conv_in.weight)


def test_one_of_two_sets_is_counted(folder):
    before = elements_of(folder / "unet")
    copy_as(folder, "fp16")
    assert elements_of(folder / "unet") == before > 0
    assert weight_set(folder / "unet").variant == ""


def test_the_shard_that_is_missing_is_named(folder):
    only(folder, "fp16")
    lost = shard(folder / "unet" / f"{UNET}.fp16.safetensors")[1]
    lost.unlink()
    assert f"'{lost}' is missing" in complaint(folder)


def test_an_index_that_names_files_elsewhere(folder):
    file = folder / "unet" / f"{UNET}.safetensors"
    file.rename(folder / file.name)
    index = {"weight_map": {"a": f"../{file.name}"}}
    (folder / "unet" / f"{UNET}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="weight_map is no list of files"):
        weight_set(folder / "unet")


def test_companions_of_an_apple_computer_and_marks_of_an_editor(folder):
    for file in [*folder.rglob("*.safetensors"), *folder.rglob("*.json")]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7" + bytes(40))
    index = folder / "model_index.json"
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
    assert load_folder(folder).latent


@pytest.mark.parametrize("name", [f"unet/{UNET}.safetensors", "unet/config.json"])
def test_a_pointer_of_git_lfs_is_called_one(folder, name):
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3438167534\n"
    (folder / name).write_text(text)
    message = complaint(folder)
    assert f"{folder / name}' is a Git LFS pointer" in message
    assert "git lfs pull" in message


def shifted(folder: Path, variant: str, *parts: str) -> None:
    """Another set of weights in some parts, of the file's own precision, each number 1 larger."""
    for part in parts:
        for file in list((folder / part).glob("*.safetensors")):
            tensors = {name: tensor + 1 for name, tensor in load_file(file).items()}
            save_file(tensors, file.with_name(f"{file.stem}.{variant}.safetensors"), {"format": "pt"})


def load_variant(folder: Path, variant: str) -> Any:
    return load_prior(PriorConfig(path=str(folder), variant=variant))


@pytest.mark.parametrize("as_shards", [False, True])
def test_a_named_variant_is_read_in_every_part_that_has_it(pipelines, folder, as_shards):
    plain: Any = load_folder(pipelines["sd1"])
    shifted(folder, "other", "unet")
    if as_shards:
        shard(folder / "unet" / f"{UNET}.other.safetensors")
    named = load_variant(folder, "other")
    assert torch.equal(named.network.conv_in.weight, plain.network.conv_in.weight + 1)
    assert torch.equal(named.codec.vae.decoder.conv_in.weight, plain.codec.vae.decoder.conv_in.weight)
    whole = load_variant(folder, "whole")
    assert torch.equal(whole.network.conv_in.weight, plain.network.conv_in.weight)


def test_texts_of_one_variant_are_not_taken_for_those_of_another(folder, monkeypatch):
    """They are kept on disk, by the files of the encoders."""
    monkeypatch.setattr("threedgen.guidance.priors.folder.encoders._WORTH_STORING", 0)
    shifted(folder, "other", "text_encoder")
    states = [load_variant(folder, name).text(["a cube"])["states"] for name in ("whole", "other", "whole")]
    assert torch.equal(states[0], states[2])
    assert not torch.allclose(states[0], states[1])


def test_a_variant_that_is_not_there_names_those_that_are(folder):
    copy_as(folder, "fp16")
    beside = complaint(folder, variant="bf16")
    assert "has no weights of the variant 'bf16', it has whole, fp16: set prior.variant" in beside
    only(folder, "fp16")
    assert "it has fp16" in complaint(folder, variant="whole")


def test_a_single_file_has_no_variants(folder):
    file = folder / "unet" / f"{UNET}.safetensors"
    words = f"prior.variant is for folders and hub models, and '{file}' is one file: leave it out"
    assert words in complaint(file, variant="fp16")


def test_a_damaged_file_of_a_variant_is_named_by_its_own_path(folder):
    copy_as(folder, "fp16")
    file = folder / "unet" / f"{UNET}.fp16.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert f"'{file}' is truncated" in complaint(folder, variant="fp16")
