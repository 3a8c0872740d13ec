"""The text encoder that is read without transformers, against transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.clip_text import WEIGHTS, ClipText
from threedgen.guidance.priors.folder.text_tokens import Tokenizer, byte_pairs, has_byte_pairs, word_pieces
from threedgen.guidance.priors.load import EMBEDDED_THINGS_WEIGHTS, EMBEDDED_WEIGHTS, PriorConfig, load_prior
from threedgen.guidance.priors.processes import cosine_table

CPU = torch.device("cpu")
TEXTS = [
    "",
    "a red cube",
    "A Café, été 日本 [SEP] x",
    "word " * 60,
    "a  cat\non a mat",
    "unspeakablyodd",
    "it's <|endoftext|> 12 x",
]


def parts(folder: Path) -> tuple[ClipText, Tokenizer]:
    encoder = ClipText(folder / "text_encoder", CPU, torch.float32)
    read = byte_pairs if has_byte_pairs(folder / "tokenizer") else word_pieces
    return encoder, read(folder / "tokenizer", encoder.length, encoder.words)


def by_transformers(folder: Path, texts: list[str]) -> tuple[Any, Any]:
    from transformers import AutoTokenizer
    from transformers.models.clip.modeling_clip import CLIPTextModel

    encoder: Any = CLIPTextModel.from_pretrained(str(folder / "text_encoder"), dtype=torch.float32).eval()
    tokens: Any = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))(
        texts,
        padding="max_length",
        max_length=encoder.config.max_position_embeddings,
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        return tokens, encoder(tokens.input_ids, attention_mask=tokens.attention_mask)


@pytest.mark.parametrize(
    ("folder", "unread"), [(EMBEDDED_THINGS_WEIGHTS, "word " * 30), (EMBEDDED_WEIGHTS, "word " * 35)]
)
def test_the_shipped_encoders_say_what_transformers_says(folder: Path, unread: str) -> None:
    encoder, words = parts(folder)
    tokens = words(TEXTS)
    expected, states = by_transformers(folder, TEXTS)
    assert torch.equal(tokens.ids, expected.input_ids)
    assert torch.equal(tokens.read, expected.attention_mask.bool())
    found, pooled = encoder(tokens.ids, tokens.read)
    torch.testing.assert_close(found, states.last_hidden_state, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(pooled, states.pooler_output, rtol=0.0, atol=1e-6)
    assert tokens.unread.tolist() == [0, 0, 0, len(unread), 0, 0, 0]


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_an_encoder_with_other_sizes_and_with_the_names_of_older_versions(
    activation: str, tmp_path: Path
) -> None:
    from transformers import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=200,
        max_position_embeddings=9,
        eos_token_id=102,
        hidden_act=activation,
        hidden_size=12,
        intermediate_size=20,
        num_attention_heads=3,
        num_hidden_layers=3,
    )
    CLIPTextModel(config).save_pretrained(tmp_path / "text_encoder")
    copytree(EMBEDDED_THINGS_WEIGHTS / "tokenizer", tmp_path / "tokenizer")
    vocabulary = (tmp_path / "tokenizer" / "vocab.txt").read_text().splitlines()[:200]
    (tmp_path / "tokenizer" / "vocab.txt").write_text("\n".join(vocabulary))
    tokens, states = by_transformers(tmp_path, ["a b c"])
    for prefix in ("", "text_model."):
        weights = load_file(tmp_path / "text_encoder" / WEIGHTS)
        named = {prefix + name.removeprefix("text_model."): value for name, value in weights.items()}
        save_file(named, tmp_path / "text_encoder" / WEIGHTS)
        found, _ = parts(tmp_path)[0](tokens.input_ids, tokens.attention_mask.bool())
        torch.testing.assert_close(found, states.last_hidden_state, rtol=0.0, atol=1e-6)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    def damaged(change: Any, shipped: Path = EMBEDDED_THINGS_WEIGHTS) -> pytest.ExceptionInfo[UserError]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        copytree(shipped, folder)
        change(folder)
        with pytest.raises(UserError, match=r"copy it again|missing") as caught:
            parts(folder)
        return caught

    def other_width(folder: Path) -> None:
        file = folder / "text_encoder" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": 64}))

    def no_weights_of_a_layer(folder: Path) -> None:
        weights = load_file(folder / "text_encoder" / WEIGHTS)
        weights.pop("encoder.layers.1.mlp.fc1.bias")
        save_file(weights, folder / "text_encoder" / WEIGHTS)

    damaged(other_width)
    damaged(no_weights_of_a_layer)
    damaged(lambda folder: (folder / "text_encoder" / WEIGHTS).write_bytes(b"nothing"))
    damaged(lambda folder: (folder / "tokenizer" / "vocab.txt").unlink())
    damaged(lambda folder: (folder / "tokenizer" / "vocab.txt").write_text("a\nb\n"))
    for file, text in (("vocab.json", "{}"), ("vocab.json", "[1]"), ("merges.txt", "#version\na b c\n")):
        damaged(lambda folder, f=file, t=text: (folder / "tokenizer" / f).write_text(t), EMBEDDED_WEIGHTS)


def test_a_tokenizer_that_says_more_is_left_to_transformers(tmp_path: Path) -> None:
    assert has_byte_pairs(EMBEDDED_WEIGHTS / "tokenizer")
    assert not has_byte_pairs(EMBEDDED_THINGS_WEIGHTS / "tokenizer")
    copytree(EMBEDDED_WEIGHTS / "tokenizer", tmp_path / "more")
    file = tmp_path / "more" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_prefix_space": True}))
    assert not has_byte_pairs(tmp_path / "more")


def test_low_rank_changes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "changes.safetensors"
    names = [f"text_encoder.layers.0.self_attn.q_proj.lora_{part}.weight" for part in ("A", "B")]
    save_file(dict(zip(names, (torch.zeros(2, 96), torch.zeros(96, 2)), strict=True)), file)
    with pytest.raises(UserError, match="leave lora out"):
        load_prior(PriorConfig(name="embedded-things", lora=str(file)))


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_the_cosine_table_is_that_of_diffusers(steps: int) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    expected = DDPMScheduler(steps, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(cosine_table(steps), expected, rtol=0.0, atol=1e-7)


def test_a_run_starts_without_large_libraries() -> None:
    """Each of them takes from half a second to two seconds to import."""
    code = (
        "import sys, torch\n"
        "from threedgen.jobs.build import build\n"
        "from threedgen.loop.distill import new_state\n"
        "from threedgen.recipes.load import load_recipe\n"
        "recipe = load_recipe('text-to-3d', prompt='a red cube')\n"
        "parts = build(recipe, torch.device('cpu'))\n"
        "config = recipe.fixed['optimizer'].config\n"
        "new_state(parts.scene, parts.guidances, steps=1, seed=0, optimizer_config=config)\n"
        "large = {'transformers', 'diffusers', 'torch._dynamo', 'scipy', 'skimage', 'imageio'}\n"
        "sys.exit(f'imported {large & set(sys.modules)}' if large & set(sys.modules) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
