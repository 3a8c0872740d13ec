"""The second denoiser of VSD (ProlificDreamer, Wang et al. 2023, arXiv:2305.16213): the prior with low-rank
changes, or a copy of it, that learns the renders of one scene."""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from threedgen.cameras.orbit import VIEW_FEATURES, view_features
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.guidance.priors.base import Condition, Prediction
from threedgen.guidance.priors.folder.lora import require_peft

KINDS = ("auto", "lora", "copy")
_SMALL = 20_000_000  # number of weights below which a copy is as cheap as low-rank changes and learns faster
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
# The mean squared error divides by the number of latents, and the smallest number of float16 is 6e-8: gradients
# inside a network that computes in it are this much larger. That makes them about as large as the latents.
_SCALE = 2.0**16


class NetworkPrior(Protocol):
    """A prior that is one network, in whose place another network of the same kind can be used."""

    @property
    def network(self) -> nn.Module:
        """The frozen denoiser."""
        ...

    def answer(
        self, network: nn.Module, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        """The raw output of `network` for noisy samples, in its own form of prediction."""
        ...

    def read(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], output: Float[Tensor, "B C h w"]
    ) -> Prediction:
        """A raw output in all its equivalent forms."""
        ...

    def target(
        self, x: Float[Tensor, "B C h w"], eps: Float[Tensor, "B C h w"], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B C h w"]:
        """The training target of the network."""
        ...

    def add_noise(
        self, x: Float[Tensor, "B C h w"], eps: Float[Tensor, "B C h w"], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B C h w"]:
        """alpha(t) x + sigma(t) eps."""
        ...


class ParticleNetwork(nn.Module):
    """A base.ParticleModel of a NetworkPrior. It starts as the prior, because the last layers of its camera input
    and of its low-rank changes are zero.

    Its camera input (view_features -> two layers, added to the time embedding) is separate from that of the prior;
    a condition without cameras means any camera. Parameters are float32, whatever the dtype of the prior; a copy
    computes in float32, low-rank changes in the dtype of the prior. Frozen weights are the tensors of the prior
    itself, not copies, and are not part of the state_dict. A gradient that is not finite, as float16 makes them,
    does not reach the parameters.

    kind: lora, copy, or auto (copy for networks below 20 million weights). rank: of the low-rank changes. seed: of
    the first layers. Raises UserError for an unknown kind, and for a prior that cannot be adapted in this way.
    """

    def __init__(self, prior: NetworkPrior, kind: str, rank: int, seed: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"unknown kind of particle model '{kind}': use one of {', '.join(KINDS)}")
        if rank < 1:
            raise UserError(f"rank must be at least 1, got {rank}")
        if any(hasattr(module, "_diffusers_hook") for module in prior.network.modules()):
            raise UserError(
                "a prior whose weights wait in the memory of the CPU cannot be adapted: raise prior.memory"
            )
        count = sum(parameter.numel() for parameter in prior.network.parameters())
        self.kind = kind if kind != "auto" else ("copy" if count < _SMALL else "lora")
        rng = generator(seed, "guidance/particle-model", 0)
        # In a tuple they are no registered submodules: the frozen weights of both belong to the prior.
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
        self._scaled = self.kind == "lora" and prior.network.dtype == torch.float16
        if self._scaled:
            for parameter in self.parameters():
                parameter.register_hook(_unscaled)
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
        answer = self._answer(self._prior.add_noise(x, eps, t), t, condition).float()
        if self._scaled:
            answer.register_hook(lambda gradient: gradient * _SCALE)
        return F.mse_loss(answer, self._prior.target(x, eps, t).float())

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
    """A copy of all weights, trainable, which takes and computes everything in float32."""
    twin = copy.deepcopy(network).float().requires_grad_(True)
    twin.register_forward_pre_hook(_in_float32, with_kwargs=True)
    return twin


def _in_float32(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    def cast(value: Tensor) -> Tensor:
        return value.float() if value.is_floating_point() else value

    return pytree.tree_map_only(Tensor, cast, (inputs, named))


def _unscaled(gradient: Tensor) -> Tensor:
    return torch.nan_to_num(gradient / _SCALE, nan=0.0, posinf=0.0, neginf=0.0)


def _adapted(network: Any, rank: int, rng: torch.Generator) -> Any:
    """New modules over the same frozen weight tensors, with trainable low-rank changes of the attention."""
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
        raise UserError(
            "the network of this prior has no attention to adapt: use the particle model of kind copy"
        )
    return twin


@torch.no_grad()
def _fill(weight: Tensor, rng: torch.Generator) -> None:
    """The uniform initial weights of nn.Linear, drawn from `rng`."""
    bound = 1.0 / math.sqrt(weight.shape[1])
    weight.copy_((2.0 * torch.rand(weight.shape, generator=rng) - 1.0) * bound)


def _time_embedding(network: Any) -> tuple[nn.Module, int]:
    """The module whose output is the time embedding of a UNet or of a flow transformer, and its width."""
    if hasattr(network, "time_embedding"):
        return network.time_embedding, network.time_embedding.linear_2.out_features
    return network.time_text_embed, network.time_text_embed.timestep_embedder.linear_2.out_features
