"""Answers of a prior that are no numbers: the prior and its precision are named, and no setting of the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import PriorConfig, load_prior


def test_weights_that_are_no_numbers_are_blamed_on_the_prior(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.bias"][:] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    condition, z, t = Condition(("a cube",)), torch.zeros(1, 4, 16, 16), torch.full((1,), 0.5)
    for dtype, advice in (
        ("float32", "weights are damaged, so copy it"),
        ("bfloat16", "too narrow .* float32"),
    ):
        prior: Any = load_prior(PriorConfig(path=str(folder), dtype=dtype))
        with pytest.raises(
            UserError, match=rf"^the prior '.*' answers in {dtype} with .* not finite: .*{advice}"
        ):
            prior.predict(z, t, condition)
    with pytest.raises(UserError, match="not finite"):  # as long as it has not answered in numbers
        prior.predict(z, t, condition)


def test_what_is_asked_with_infinite_numbers_is_not_blamed_on_the_prior(folder):
    prior: Any = load_prior(PriorConfig(path=str(folder)))
    z, t = torch.full((1, 4, 16, 16), float("nan")), torch.full((1,), 0.5)
    assert not prior.predict(z, t, Condition(("a cube",))).eps.isfinite().any()
