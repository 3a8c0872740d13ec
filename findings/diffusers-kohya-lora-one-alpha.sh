#!/bin/sh
# diffusers 0.42.1 with peft 0.21.2, seen on 2026-11-30: of a LoRA file in kohya's format with different alphas, one alpha
# (the most frequent, or the first) is applied to all changes. peft warns that the others match no module.
#
# Expected: each change is alpha / rank * up @ down with its own alpha, because kohya's trainer stores an alpha beside
# each change, and get_peft_kwargs of diffusers puts those that differ into `alpha_pattern` for this ("for modules with
# alpha different from the most occurring alpha"). It writes them under names such as
# `attn1.processor.to_q_lora.down.weight`, which are not the names of modules. threedgen therefore multiplies the alphas into
# the matrices and hands over none (threedgen/guidance/priors/folder/lora.py).
#
# The three changes of the script have rank 4 and matrices of ones, so that each weight must grow by its alpha.
# Output seen:
#     alphas 4, 4, 4: the weights grow by 4, 4, 4
#     alphas 1, 4, 4: the weights grow by 4, 4, 4
#     alphas 1, 2, 4: the weights grow by 1, 1, 1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    torch==2.13.0 diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - <<'SCRIPT'
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
RANK, WIDTH = 4, 32


def growth(alphas):
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(WIDTH, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
    )
    names = [f"{BLOCK}.to_{letter}" for letter in "qkv"]
    before = [unet.get_submodule(name).weight.detach().clone() for name in names]
    file = {}
    for name, alpha in zip(names, alphas, strict=True):
        start = "lora_unet_" + name.replace(".", "_")
        file[f"{start}.lora_down.weight"] = torch.ones(RANK, WIDTH)
        file[f"{start}.lora_up.weight"] = torch.ones(WIDTH, RANK)
        file[f"{start}.alpha"] = torch.tensor(float(alpha))
    changes, network_alphas = StableDiffusionPipeline.lora_state_dict(file)[:2]
    StableDiffusionPipeline.load_lora_into_unet(changes, network_alphas, unet=unet)
    unet.fuse_lora()
    unet.unload_lora()
    return [
        round(float((unet.get_submodule(name).weight.detach() - weight).mean()), 3)
        for name, weight in zip(names, before, strict=True)
    ]


found = {}
for alphas in ((4, 4, 4), (1, 4, 4), (1, 2, 4)):
    found[alphas] = growth(alphas)
    print(f"alphas {', '.join(map(str, alphas))}: the weights grow by {', '.join(f'{g:g}' for g in found[alphas])}")
as_described = found == {(4, 4, 4): [4, 4, 4], (1, 4, 4): [4, 4, 4], (1, 2, 4): [1, 1, 1]}
raise SystemExit(0 if as_described else 1)
SCRIPT
