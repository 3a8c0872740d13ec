"""VSD's second denoiser: the prior with low-rank changes, or a copy of it, that learns one scene (METHODS 1.7)."""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.cameras.orbit import VIEW_FEATURES, view_features
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.guidance.priors.base import Condition, Prediction
from threedgen.guidance.priors.folder.lora import require_peft

KINDS = ("auto", "lora", "copy")
_SMALL = 20_000_000  # weights below which a whole copy learns faster than low-rank changes, and is as cheap
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


class NetworkPrior(Protocol):
    """A prior that is one network, which another network of the same kind can stand in for."""

    @property
    def network(self) -> nn.Module:
        """The frozen denoiser."""
        ...

    def answer(
        self, network: nn.Module, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        """What `network` says of noisy samples, in its own form of prediction."""
        ...

    def read(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], output: Float[Tensor, "B C h w"]
    ) -> Prediction:
        """An answer in all its equivalent forms."""
        ...

    def target(
        self, x: Float[Tensor, "B C h w"], eps: Float[Tensor, "B C h w"], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B C h w"]:
        """What the network is trained to answer."""
        ...

    def add_noise(
        self, x: Float[Tensor, "B C h w"], eps: Float[Tensor, "B C h w"], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B C h w"]:
        """alpha(t) x + sigma(t) eps."""
        ...


class ParticleNetwork(nn.Module):
    """A base.ParticleModel over a NetworkPrior. It starts as the prior: with the camera's and the low-rank
    changes' last layers at zero.

    Its camera input (view_features -> two layers, added to the time embedding) comes beside the prior's own; a
    condition without cameras means "any camera". Parameters are float32, whatever the prior's dtype. The frozen
    weights are the prior's own tensors, not copies, and not part of the state_dict.

    kind: lora, copy, or auto. rank: of the changes. seed: of the first layers. Raises UserError.
    """

    def __init__(self, prior: NetworkPrior, kind: str, rank: int, seed: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"unknown kind of particle model '{kind}': use one of {', '.join(KINDS)}")
        if rank < 1:
            raise UserError(f"rank must be at least 1, got {rank}")
        if any(hasattr(module, "_diffusers_hook") for module in prior.network.modules()):
            raise UserError("a prior whose weights wait on the CPU cannot be adapted: raise prior.memory")
        count = sum(parameter.numel() for parameter in prior.network.parameters())
        self.kind = kind if kind != "auto" else ("copy" if count < _SMALL else "lora")
        rng = generator(seed, "guidance/particle-model", 0)
        # Neither is a registered submodule: the first belongs to the prior, the second's frozen weights too.
        self._hidden = (
            prior,
            _copied(prior.network) if self.kind == "copy" else _adapted(prior.network, rank, rng),
        )
        trained = {name: p for name, p in self._network.named_parameters() if p.requires_grad}
        self.changes = nn.ParameterDict({name.replace(".", "/"): p for name, p in trained.items()})
        embedding, width = _time_embedding(self._network)
        first, last = nn.Linear(VIEW_FEATURES, width), nn.Linear(width, width)
        _fill(first.weight, rng)
        for zero in (first.bias, last.weight, last.bias):
            nn.init.zeros_(zero)
        self.camera = nn.Sequential(first, nn.SiLU(), last).to(next(prior.network.parameters()).device)
        self._views: Tensor | None = None
        embedding.register_forward_hook(self._with_camera)

    @torch.no_grad()
    def predict(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        return self._prior.read(z, t, self._answer(z, t, condition))

    def denoising_loss(
        self,
        x: Float[Tensor, "B C h w"],
        eps: Float[Tensor, "B C h w"],
        t: Float[Tensor, " B"],
        condition: Condition,
    ) -> Float[Tensor, ""]:
        x = x.detach()
        answer = self._answer(self._prior.add_noise(x, eps, t), t, condition)
        return F.mse_loss(answer.float(), self._prior.target(x, eps, t).float())

    @property
    def _prior(self) -> NetworkPrior:
        return self._hidden[0]

    @property
    def _network(self) -> Any:
        return self._hidden[1]

    def _answer(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if condition.cameras is None:
            self._views = torch.zeros(len(z), VIEW_FEATURES, device=z.device)
        else:
            self._views = view_features(condition.cameras).to(device=z.device, dtype=torch.float32)
        return self._prior.answer(self._network, z, t, condition)

    def _with_camera(self, module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        assert self._views is not None
        return embedded + self.camera(self._views).to(embedded)


def _copied(network: Any) -> Any:
    """Every weight anew, trainable, in float32."""
    return copy.deepcopy(network).float().requires_grad_(True)


def _adapted(network: Any, rank: int, rng: torch.Generator) -> Any:
    """The same frozen weight tensors in new modules, with trainable low-rank changes of the attention."""
    require_peft("a particle model of kind lora")
    from peft import LoraConfig, inject_adapter_in_model

    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, shared)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_ATTENTION)
    twin = inject_adapter_in_model(config, twin, adapter_name="particles")
    changed = False
    for name, parameter in twin.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            if "lora_A" in name:
                _fill(parameter, rng)
            changed = True
    if not changed:
        raise UserError("this prior's network has no attention to adapt: use the particle model of kind copy")
    return twin


@torch.no_grad()
def _fill(weight: Tensor, rng: torch.Generator) -> None:
    """Uniform numbers as nn.Linear starts with, from the run's own stream."""
    bound = 1.0 / math.sqrt(weight.shape[1])
    weight.copy_((2.0 * torch.rand(weight.shape, generator=rng) - 1.0) * bound)


def _time_embedding(network: Any) -> tuple[nn.Module, int]:
    """The module whose output is the time embedding, and its width: of a UNet, or of a flow transformer."""
    if hasattr(network, "time_embedding"):
        return network.time_embedding, network.time_embedding.linear_2.out_features
    return network.time_text_embed, network.time_text_embed.timestep_embedder.linear_2.out_features
