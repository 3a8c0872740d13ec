"""The arguments with which the pipelines of diffusers call their networks, and the outputs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from tiny_pipelines import diffusers


def own_pipeline(folder: Path, name: str = "DiffusionPipeline", **parts: Any) -> Any:
    """The pipeline of diffusers for a folder. name: another class than the one in the folder."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    absent = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = getattr(diffusers(), name).from_pretrained(
        folder, local_files_only=True, **{**absent, **parts}
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Recorded:
    """The second call of the network of a pipeline while it makes a picture, and its output."""

    def __init__(self, pipeline: Any, prompt: str, **options: Any) -> None:
        network = pipeline.transformer if getattr(pipeline, "transformer", None) else pipeline.unet
        names = ("sample", "timestep", "encoder_hidden_states")
        calls = []

        def record(module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            calls.append(({**dict(zip(names, inputs, strict=False)), **keywords}, output))

        handle = network.register_forward_hook(record, with_kwargs=True)
        options = {"num_inference_steps": 3, "output_type": "pt", **options}
        pipeline(prompt, generator=torch.Generator().manual_seed(1), **options)
        handle.remove()
        self.arguments, output = calls[1]
        self.output = output[0]

    @property
    def timestep(self) -> float:
        return float(self.arguments["timestep"].reshape(-1)[0])
