"""--tokenizer and --vae, of every command whose --prior names a model."""

from __future__ import annotations

import pytest
import yaml
from PIL import Image

from threedgen.commands.main import main

FILE = ["--prior", "sd.safetensors", "--tokenizer", "clip", "--vae", "vae.safetensors"]
GIVEN, NONE = ("sd.safetensors", "clip", "vae.safetensors"), ("", "", "")
SCENE = "assets:\n  - name: cube\n    prompt: a red cube\n    motion: [{prompt: spinning, seconds: 1}]\n"


@pytest.fixture
def dry(tmp_path, monkeypatch, capsys):
    """The settings that a command line would use. There are a picture and a scene."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene.yaml").write_text(SCENE)
    picture = Image.new("RGBA", (32, 32))
    picture.paste((200, 40, 40, 255), (8, 8, 24, 24))
    picture.save("cube.png")

    def settings(*arguments: str) -> dict:
        assert main([*arguments, "--dry-run"]) == 0, capsys.readouterr().err
        return yaml.safe_load(capsys.readouterr().out)

    return settings


def models(settings) -> list[tuple[str, ...]]:
    """The path, the tokenizer and the autoencoder of every prior in settings, in their order."""
    if isinstance(settings, list):
        return [found for value in settings for found in models(value)]
    if not isinstance(settings, dict):
        return []
    keys = ("path", "tokenizer", "vae")
    own = [tuple(settings[key] for key in keys)] if settings.keys() >= set(keys) else []
    return [*own, *(found for value in settings.values() for found in models(value))]


@pytest.mark.parametrize(
    "arguments",
    [
        ["text-to-3d", "a red cube"],
        ["image-to-3d", "cube.png"],
        ["text-to-4d", "a blue cube bouncing"],
        ["compose", "scene.yaml"],
    ],
)
def test_the_prior_gets_its_parts_and_no_other_model_does(arguments, dry):
    found = models(dry(*arguments, *FILE))
    assert GIVEN in found
    assert set(found) <= {GIVEN, NONE}


def test_a_recipe_with_two_priors_gives_it_to_the_one_that_reads_text(dry, capsys):
    magic = ["image-to-3d", "cube.png", "--recipe", "magic123"]
    found = models(dry(*magic, *FILE, "--prior", "zero123", "--text-prior", "sd.safetensors"))
    assert set(found) == {("zero123", "", ""), GIVEN}
    assert main([*magic, *FILE]) == 2
    assert "name it with --text-prior FILE" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["text-to-3d", "a cube"], ["text-to-4d", "a blue cube bouncing"]])
@pytest.mark.parametrize("prior", [[], ["--prior", "embedded"]])
def test_parts_of_no_model_are_refused(command, prior, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command, *prior, "--tokenizer", "clip"]) == 2
    assert "name it with --prior FILE" in capsys.readouterr().err
    assert main([*command, *prior, "--vae", "vae.safetensors"]) == 2
    assert (
        "--vae replaces the autoencoder of a model: name that with --prior MODEL" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("part", "words"),
    [(FILE[2:4], "reads no text, leave it out"), (FILE[4:], "has no autoencoder, leave it out")],
)
def test_a_model_that_has_no_such_part(dry, capsys, part, words):
    assert main(["image-to-3d", "cube.png", "--recipe", "nerfdiff", *FILE[:2], *part]) == 2
    assert words in capsys.readouterr().err
