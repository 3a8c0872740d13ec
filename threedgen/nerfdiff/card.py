"""The model card of a trained NerfDiff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from threedgen.nerfdiff.config import NerfDiffTrainingConfig
from threedgen.nerfdiff.model import NerfDiffModel


def write_card(
    model: NerfDiffModel, config: NerfDiffTrainingConfig, about: dict[str, Any], folder: Path
) -> None:
    """Writes README.md into the folder of a model: the model, its training data, and the cost of the training."""
    architecture = model.architecture
    encoder, denoiser = (
        sum(value.numel() for value in network.parameters()) / 1e6
        for network in (model.encoder, model.denoiser)
    )
    text = f"""# A NerfDiff of {about["dataset"]}

A network that turns one picture into a NeRF, and a denoiser of the views of that NeRF (NerfDiff, Gu et al.
2023). Pictures of {architecture.size}x{architecture.size} pixels on white; a triplane of
{architecture.size}x{architecture.size} texels with {architecture.features} features in the frame of the source
camera ({encoder:.1f} million parameters), a denoiser with v-prediction on the squared-cosine schedule
({denoiser:.1f} million). Half precision, safetensors and JSON only. Licence of the weights that ship with
threedgen: Apache-2.0, like the project that trained them.

**Purpose.** Views and assets of objects like those of its training, from one picture, and benchmarks against a
known truth. The model has seen no other objects.

**Data.** {about["objects"]} objects of {about["dataset"]}, pairs of their views.

**Training.** `threedgen train nerfdiff`: {about["steps"]} steps, {about["pictures"]} pairs, AdamW with a
learning rate of {config.learning_rate:g} that falls to zero over the last {100 * config.decay:.0f} %, moving
average {config.ema}, {config.precision}; {about["hours"]:.2f} hours on {about["machine"]}. The NeRF was
compared with one of {config.stride} pixels of each row and column, and the denoiser was trained on
{config.denoised} of the {config.batch} objects of a batch. The gradient of its loss
{"reached" if config.coupled else "did not reach"} the NeRF.

Measurements: docs/nerfdiff.md, `python benchmarks/nerfdiff.py`.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
