"""Every command and option has whole sentences of help; completion knows them all; dry runs stop."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from threedgen.commands.completion import SHELLS
from threedgen.commands.main import COMMANDS, main

DIALECT = re.compile(
    r"\b(goes on|go on|of what|where there is|told by itself|a view\b(?! prior)|what moves)\b"
)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_option_has_help_in_plain_words(name):
    command = COMMANDS[name]
    assert re.fullmatch(r"[A-Z].{10,90}\.", command.summary), command.summary
    parser = command.parser()
    assert parser.prog == f"threedgen {name}"
    assert re.match(r"[A-Z]", parser.description or ""), parser.description
    assert (parser.description or "").endswith(".")
    for action in parser._actions:
        text = action.help or ""
        label = ", ".join(action.option_strings) or action.dest
        assert len(text.split()) >= 3, f"{name}: {label} has no help"
        assert not DIALECT.search(text), f"{name}: {label}: {text}"
        takes_a_value = action.option_strings and action.nargs != 0 and not action.required
        told = "default" in text or "repeatable" in text or action.dest in ("mask", "depth", "asset")
        if takes_a_value and not told:
            # What has no default is for a special case, and says for which.
            assert re.search(r"\b(for|with|from|that|brighter|only)\b", text), f"{name}: {label}: {text}"


def test_every_default_that_help_states_is_the_one_there_is():
    for name, command in COMMANDS.items():
        for action in command.parser()._actions:
            found = re.search(r"default: ([-\w./]+)$", action.help or "")
            if found and action.default not in (None, argparse.SUPPRESS):
                default = action.default
                shown = f"{default:g}" if isinstance(default, float) else str(default)
                assert found[1] in (shown, str(default)), (name, action.option_strings)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_option(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert name.rpartition(" ")[2] in script
        for action in command.parser()._actions:
            for option in action.option_strings:
                assert option.lstrip("-") in script, (name, option)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_the_script_and_completes(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    line = "COMP_WORDS=(threedgen text-to-3d --rec); COMP_CWORD=2; _shtab_threedgen; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", f"source {script}; {line}"], capture_output=True, text=True)
    assert done.stdout.split() == ["--recipe"], done.stderr


def test_building_every_parser_imports_nothing_heavy():
    code = (
        "import sys; from threedgen.commands.completion import whole_parser; whole_parser()\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'omegaconf', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["text-to-3d", "a red cube", "cameras.batch=3"],
        ["text-to-4d", "a red cube bouncing"],
        ["train", "prior", "--kind", "video"],
        ["train", "nerfdiff", "shape-world:car"],
        ["train", "ssdnerf", "shape-world:car"],
    ],
)
def test_a_dry_run_prints_the_settings_and_leaves_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--dry-run"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert "steps" in settings or "stages" in settings
    if "cameras.batch=3" in arguments:
        assert (settings["prompt"], settings["cameras"]["batch"]) == ("a red cube", 3)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_is_a_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["text-to-3d", "a red cube", "--dry-run", "--steps", "7"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(first)
    assert main(["text-to-3d", "a red cube", "--recipe", "mine.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == first


def test_a_reader_that_goes_away_is_no_error():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for command in ("recipes", "--help"):
        line = f"{sys.executable} -m threedgen {command} | head -1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 1


def test_a_prompt_without_quotes_is_explained(capsys):
    assert main(["text-to-3d", "a", "red", "cube"]) == 2
    assert "'red' is not a setting (key=value): if it belongs to the prompt" in capsys.readouterr().err


def test_train_alone_lists_its_kinds(capsys):
    assert main(["train"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS if name.startswith("train"))
