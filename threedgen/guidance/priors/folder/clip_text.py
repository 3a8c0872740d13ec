"""A small CLIP text encoder, read without transformers, whose import takes two seconds.

It is what `threedgen train prior` writes. The forward pass is that of CLIPTextModel (Radford et al. 2021,
arXiv:2103.00020).
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.files import first_line, read_config

WEIGHTS = "model.safetensors"
_ACTIVATIONS = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": F.gelu}
_PREFIX = "text_model."  # of the names of weights that older versions of transformers wrote


class ClipText:
    """The frozen CLIPTextModel of a folder, on a device. Raises UserError for a damaged one.

    length: tokens of a text. words: number of different tokens that it knows.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        config = read_config(folder / "config.json")
        self.device = device
        try:
            self.length = int(config["max_position_embeddings"])
            self._heads = int(config["num_attention_heads"])
            self._layers = int(config["num_hidden_layers"])
            self._end = int(config["eos_token_id"])
            self._eps = float(config.get("layer_norm_eps", 1e-5))
            self._activation = _ACTIVATIONS[config["hidden_act"]]
            read = load_file(folder / WEIGHTS, device=str(device))
            # The table of words stays in the precision of the file, because a text reads few of its rows.
            self._words = read.pop(next(name for name in read if name.endswith("token_embedding.weight")))
            self._weights = {name.removeprefix(_PREFIX): value.to(dtype) for name, value in read.items()}
            self._check(int(config["hidden_size"]), int(config["intermediate_size"]))
            self.words = len(self._words)
        except (KeyError, OSError, SafetensorError, StopIteration, TypeError, ValueError) as error:
            raise _damaged(folder, error) from error

    def _check(self, width: int, inner: int) -> None:
        """Raises ValueError unless all weights have the shapes of the config."""
        wanted = {"embeddings.position_embedding": (self.length, width), "final_layer_norm": (width,)}
        for layer in range(self._layers):
            start = f"encoder.layers.{layer}"
            wanted |= {f"{start}.self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
            wanted |= {f"{start}.{name}": (width,) for name in ("layer_norm1", "layer_norm2")}
            wanted |= {f"{start}.mlp.fc1": (inner, width), f"{start}.mlp.fc2": (width, inner)}
        for name, shape in wanted.items():
            found = tuple(self._weights[f"{name}.weight"].shape)
            bias = self._weights.get(f"{name}.bias")
            if found != shape or (bias is None) != name.startswith("embeddings"):
                raise ValueError(f"{name} is {list(found)}, not {list(shape)}")
        if self._words.shape[1:] != (width,) or width % self._heads:
            raise ValueError(f"words of {list(self._words.shape)} do not fit a width of {width}")

    @torch.no_grad()
    def __call__(
        self, ids: Int[Tensor, "B L"], read: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B D"]]:
        """The last states of tokens, and those of the end tokens. read: which tokens are seen. L: `length`."""
        ids, read = ids.to(self.device), read.to(self.device)
        places = self._weights["embeddings.position_embedding.weight"]
        x = self._words[ids].to(places.dtype) + places
        earlier = torch.ones(self.length, self.length, dtype=torch.bool, device=self.device).tril()
        seen = earlier & read[:, None, None, :]
        for layer in range(self._layers):
            start = f"encoder.layers.{layer}"
            x = x + self._attend(self._norm(x, f"{start}.layer_norm1"), f"{start}.self_attn", seen)
            inner = self._activation(self._linear(self._norm(x, f"{start}.layer_norm2"), f"{start}.mlp.fc1"))
            x = x + self._linear(inner, f"{start}.mlp.fc2")
        states = self._norm(x, "final_layer_norm")
        end = (ids == self._end).int().argmax(1)
        return states, states[torch.arange(len(ids), device=self.device), end]

    def _attend(self, x: Tensor, name: str, seen: Tensor) -> Tensor:
        parts = [
            self._linear(x, f"{name}.{part}_proj").unflatten(2, (self._heads, -1)).transpose(1, 2)
            for part in ("q", "k", "v")
        ]
        found = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=seen)
        return self._linear(found.transpose(1, 2).flatten(2), f"{name}.out_proj")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self._weights[f"{name}.bias"], self._eps)


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(f"prior part '{folder}' cannot be loaded ({first_line(error)}): copy it again")
