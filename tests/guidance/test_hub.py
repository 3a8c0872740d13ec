"""Models of the hub: what the cache lacks is fetched, only one set of weights is, and each failure has its line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from complaints import complaint
from huggingface_hub import errors
from test_weight_sets import copy_as, only

from threedgen.guidance.priors.load import PriorConfig, load_prior

ID = "someone/some-model"


class Hub:
    """In place of the library's function: a cache and a remote folder. fails: what the network raises."""

    def __init__(self, cache: Path, remote: Path, fails: Exception | None = None) -> None:
        self.cache, self.remote, self.fails = cache, remote, fails
        self.asked: list[dict[str, Any]] = []

    def __call__(self, name: str, **options: Any) -> Any:
        assert name == ID
        self.asked.append(options)
        if options.get("local_files_only"):
            if not self.cache.is_dir():
                raise errors.LocalEntryNotFoundError("not here")
            return str(self.cache)
        if self.fails is not None:
            raise self.fails
        files = {
            file.relative_to(self.remote).as_posix(): file
            for file in self.remote.rglob("*")
            if file.is_file()
        }
        if options.get("dry_run"):
            return [
                SimpleNamespace(
                    filename=name,
                    file_size=path.stat().st_size,
                    will_download=not (self.cache / name).exists(),
                )
                for name, path in files.items()
            ]
        for wanted in options["allow_patterns"]:
            (self.cache / wanted).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(files[wanted], self.cache / wanted)
        return str(self.cache)


@pytest.fixture
def hub(monkeypatch, tmp_path, folder) -> Hub:
    made = Hub(tmp_path / "cache", folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made)
    return made


def load(hub_id: str = ID) -> Any:
    return load_prior(PriorConfig(path=hub_id))


def test_a_model_is_fetched_once_and_its_size_is_said(hub, capsys):
    load()
    assert f"fetching {ID} from the hub: 0.00 GB" in capsys.readouterr().err
    assert len(hub.asked) == 3
    load()
    assert [options.get("local_files_only") for options in hub.asked[3:]] == [True]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("part", ["unet", "vae", "tokenizer", "scheduler", "model_index.json"])
def test_a_cache_that_lacks_a_part_is_completed(hub, folder, part):
    shutil.copytree(folder, hub.cache)
    if part == "model_index.json":
        (hub.cache / part).unlink()
    else:
        shutil.rmtree(hub.cache / part)
    load()
    assert (hub.cache / part).exists()


def test_the_weights_that_another_program_left_out_are_fetched(hub, folder):
    shutil.copytree(folder, hub.cache, ignore=shutil.ignore_patterns("*.safetensors"))
    load()


def test_one_set_of_weights_is_fetched(hub, folder):
    copy_as(folder, "fp16")
    load()
    assert not list(hub.cache.rglob("*.fp16.*"))


def test_half_precision_is_fetched_where_it_computes(hub, folder):
    """The autoencoder computes in float32 whatever the precision is."""
    copy_as(folder, "fp16")
    load_prior(PriorConfig(path=ID, dtype="bfloat16"))
    found = {file.relative_to(hub.cache).as_posix() for file in hub.cache.rglob("*.safetensors")}
    assert found == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_what_only_looks_at_pictures_is_not_fetched(hub, folder):
    for part in ("safety_checker", "feature_extractor"):
        shutil.copytree(folder / "text_encoder", folder / part)
    load()
    assert (hub.cache / "text_encoder").is_dir()
    assert not (hub.cache / "safety_checker").exists()
    assert not (hub.cache / "feature_extractor").exists()


def test_a_model_with_half_precision_only(hub, folder):
    only(folder, "fp16")
    load()
    assert (hub.cache / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()


def test_a_revision_is_named(hub):
    load(f"{ID}@refs/pr/3")
    assert {options["revision"] for options in hub.asked} == {"refs/pr/3"}


def error_of(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "403 Client Error")
    return error


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            errors.GatedRepoError,
            f"accept its licence: do so on https://huggingface.co/{ID}, then run `hf auth",
        ),
        (errors.RepositoryNotFoundError, "there is no hub model 'someone/some-model', or it is private"),
        (errors.RevisionNotFoundError, "has no such revision"),
        (OSError, "cannot be fetched (403 Client Error)"),
    ],
)
def test_each_failure_has_its_line(hub, kind, words, wrapped):
    hub.fails = error_of(kind)
    if wrapped and issubclass(kind, errors.HfHubHTTPError):
        hub.fails, cause = errors.DryRunError("it cannot be accessed"), hub.fails
        hub.fails.__cause__ = cause
    message = complaint(ID)
    assert words in message
    if kind in (errors.GatedRepoError, errors.RepositoryNotFoundError):
        assert "HF_TOKEN" in message


def test_no_network_is_asked_if_the_user_forbids_it(hub, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(folder, hub.cache)
    assert load().latent
    shutil.rmtree(hub.cache / "unet")
    assert "its unet is not in the local cache, and HF_HUB_OFFLINE forbids" in complaint(ID)
    assert all(options.get("local_files_only") for options in hub.asked)


def test_a_connection_that_breaks_leaves_its_line(hub, folder):
    """The library returns what is in its cache, without a word, when it reaches no network."""
    shutil.copytree(folder, hub.cache)
    shutil.rmtree(hub.cache / "vae")
    shutil.rmtree(folder / "vae")
    assert "its vae cannot be fetched: check the connection" in complaint(ID)


NO_HUB = """
from threedgen.core.errors import UserError
from threedgen.guidance.priors.hub import fetched
try:
    fetched("someone/some-model")
except UserError as error:
    print(error)
"""


def test_no_network_is_told_from_a_wrong_name(tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", NO_HUB], env=environment, capture_output=True, text=True, check=True
    )
    assert "cannot be fetched, because no network reaches the hub" in done.stdout
    assert len(done.stdout.splitlines()) == 1
