"""--tokenizer, of every command whose --prior may be a single file."""

from __future__ import annotations

import pytest
import yaml
from PIL import Image

from threedgen.commands.main import main

FILE = ["--prior", "sd.safetensors", "--tokenizer", "clip"]
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


def models(settings) -> list[tuple[str, str]]:
    """The path and the tokenizer of every prior in settings, in their order."""
    if isinstance(settings, list):
        return [found for value in settings for found in models(value)]
    if not isinstance(settings, dict):
        return []
    own = [(settings["path"], settings["tokenizer"])] if {"path", "tokenizer"} <= settings.keys() else []
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
def test_the_prior_gets_its_tokenizer_and_no_other_model_does(arguments, dry):
    found = models(dry(*arguments, *FILE))
    assert ("sd.safetensors", "clip") in found
    assert set(found) <= {("sd.safetensors", "clip"), ("", "")}


def test_a_recipe_with_two_priors_gives_it_to_the_one_that_reads_text(dry, capsys):
    magic = ["image-to-3d", "cube.png", "--recipe", "magic123"]
    found = models(dry(*magic, "--prior", "zero123", "--text-prior", "sd.safetensors", "--tokenizer", "clip"))
    assert set(found) == {("zero123", ""), ("sd.safetensors", "clip")}
    assert main([*magic, *FILE]) == 2
    assert "name it with --text-prior FILE" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["text-to-3d", "a cube"], ["text-to-4d", "a blue cube bouncing"]])
@pytest.mark.parametrize("prior", [[], ["--prior", "embedded"]])
def test_a_tokenizer_of_no_file_is_refused(command, prior, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command, *prior, "--tokenizer", "clip"]) == 2
    assert "name it with --prior FILE" in capsys.readouterr().err


def test_a_model_that_reads_no_text_has_none(dry, capsys):
    assert main(["image-to-3d", "cube.png", "--recipe", "nerfdiff", *FILE]) == 2
    assert "reads no text, leave it out" in capsys.readouterr().err
