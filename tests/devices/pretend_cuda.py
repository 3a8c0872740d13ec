"""A pretend GPU on a machine without one: tensors that say cuda:0, compute on the CPU and refuse what CUDA refuses.

`install` changes torch in the whole process, so use it in a process of its own, after the guard was loaded
(pretend_cuda_runs does). Inside `with Pretend() as gpu:` every tensor that is made on "cuda" is a `Pretended`. An
operation on tensors of both devices raises Mixed. `gpu.waits` counts where the host would wait for the device:

    values read    .item(), float(), bool(), .tolist(), torch.equal
    sizes read     nonzero, unique, masked_select, a boolean index, repeat_interleave without output_size, bincount
    copies         from the device; to the device, unless from pinned memory with non_blocking=True; a CPU index
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda:0")
_PACKAGE = "/threedgen/"
aten: Any = torch.ops.aten

_COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
_GATHERS = {aten.index.Tensor, aten._unsafe_index.Tensor}
_SCATTERS = {aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
_TAKE_SCALARS = {
    *(
        aten.where.self,
        aten.masked_fill.Tensor,
        aten.masked_fill_.Tensor,
        aten.fill_.Tensor,
        aten.fill.Tensor,
    ),
    aten.index_fill.int_Tensor,
}
_READ = {
    *(aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default),
    *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default),
}


class Mixed(RuntimeError):
    """What torch raises on a GPU for tensors on two devices."""


class Pretended(torch.Tensor):
    """A tensor "on cuda:0" whose numbers are those of a CPU tensor, `_host`."""

    _host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> Pretended:
        assert not isinstance(host, Pretended)
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device=CUDA,
            requires_grad=False,
        )
        made._host = host
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Pretended({self._host!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _gpu.run(func, args, kwargs or {})

    def new_tensor(
        self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any
    ) -> torch.Tensor:
        made = torch.tensor(data, dtype=dtype or self.dtype)
        if device is None or _is_cuda(device):
            _gpu.wait("new_tensor")
            made = Pretended(made)
        return made.requires_grad_(requires_grad)

    def tolist(self) -> Any:
        _gpu.wait("tolist")
        return self._host.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert cuda:0 device type tensor to numpy, at {_where()}")

    __array__ = numpy

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, new: torch.Tensor) -> None:
        if not isinstance(new, Pretended):
            raise Mixed(f"the .data of a tensor on cuda was set to one on the CPU, at {_where()}")
        torch.Tensor.data.__set__(self, new)  # type: ignore[attr-defined]
        self._host = new._host

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = Pretended(self._host.clone())
            learned = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = (
                torch.nn.Parameter(copied, self.requires_grad)
                if learned
                else copied.requires_grad_(self.requires_grad)
            )
        return memo[id(self)]


class Pretend(TorchDispatchMode):
    """The context in which "cuda" exists. waits: how often the host waited, by (operation, place in the package).
    mixed: the messages of the operations on tensors of both devices."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[tuple[str, str]] = collections.Counter()
        self.mixed: list[str] = []

    def __enter__(self) -> Self:
        global _gpu
        _gpu = self
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def wait(self, operation: str) -> None:
        self.waits[(operation, _where())] += 1

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """One operation, computed on the CPU; its results are on the device where CUDA would have them."""
        flat = [item for item in tree_flatten((args, dict(kwargs)))[0] if isinstance(item, torch.Tensor)]
        there = [item for item in flat if isinstance(item, Pretended)]
        here = [item for item in flat if not isinstance(item, Pretended)]
        if there and here and not _may_mix(func, args, here):
            self._refuse(func, flat)
        device = kwargs.get("device")
        on_cuda = bool(there) if device is None else _is_cuda(device)
        rng = kwargs.get("generator")
        if rng is not None and on_cuda and rng.device.type == "cpu":
            raise Mixed(f"expected a 'cuda' generator, found 'cpu': {func} at {_where()}")
        if _waits(func, args, kwargs, there, on_cuda):
            self.wait(str(func))
        if device is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        out = func(*tree_map(_host, args), **tree_map(_host, dict(kwargs)))
        if not on_cuda or func is aten._local_scalar_dense.default:
            return out
        if any(
            argument.alias_info is not None and argument.alias_info.is_write
            for argument in func._schema.arguments
        ):
            own = {id(item._host): item for item in there}
            return tree_map(lambda item: own.get(id(item), _lifted(item)), out)
        lifted = tree_map(_lifted, out)
        if there and any(result.alias_info is not None for result in func._schema.returns):
            with contextlib.suppress(Exception):
                return return_and_correct_aliasing(func, args, kwargs, lifted)
        return lifted

    def _refuse(self, func: Any, tensors: Iterable[torch.Tensor]) -> None:
        kinds = ", ".join(f"{item.device.type} {list(item.shape)}" for item in tensors)
        message = f"expected all tensors to be on the same device: {func} of {kinds} at {_where()}"
        self.mixed.append(message)
        raise Mixed(message)


_gpu = Pretend()


def _is_cuda(device: Any) -> bool:
    return torch.device(device).type == "cuda"


def _host(item: Any) -> Any:
    return item._host if isinstance(item, Pretended) else item


def _lifted(item: Any) -> Any:
    return Pretended(item) if isinstance(item, torch.Tensor) and not isinstance(item, Pretended) else item


def _may_mix(func: Any, args: tuple[Any, ...], here: list[torch.Tensor]) -> bool:
    """Whether CUDA takes these CPU tensors beside its own: in copies, as indices, and as numbers."""
    if func in _COPIES:
        return True
    if func in _GATHERS or func in _SCATTERS:
        values = args[2:3] if func in _SCATTERS else ()
        strangers = [v for v in values if not isinstance(v, Pretended) and v.ndim > 0 and v.numel() != 1]
        return isinstance(args[0], Pretended) and not strangers
    many = "_foreach" in str(func) or "_fused_adam" in str(func)
    takes = torch.Tag.pointwise in func.tags or func in _TAKE_SCALARS or many
    return takes and all(item.ndim == 0 for item in here)


def _waits(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], there: list[Pretended], on_cuda: bool
) -> bool:
    """Whether the host waits for the device in this operation."""
    if func in _COPIES:
        target, source = (args[0], args[1]) if func is not aten._to_copy.default else (None, args[0])
        to_cuda = on_cuda if target is None else isinstance(target, Pretended)
        if to_cuda == isinstance(source, Pretended):
            return False
        quick = kwargs.get("non_blocking") or (target is not None and any(args[2:3]))
        return not (to_cuda and quick and getattr(source, "_pretend_pinned", False))
    if not there:
        return False
    if func in _GATHERS or func in _SCATTERS:
        indices = [index for index in args[1] if index is not None]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        # A number is written through a mask without its size being read.
        filled = func in _SCATTERS and not isinstance(args[2], Pretended) and args[2].numel() == 1
        return (bool(masks) and not filled) or any(not isinstance(index, Pretended) for index in indices)
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    return func in _READ


def _where() -> str:
    """The innermost line of the package that is being run."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if _PACKAGE in name and "site-packages" not in name and not name.endswith("core/transfer.py"):
            return f"{name.rsplit(_PACKAGE, 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def _pinned(self: torch.Tensor, *_: Any) -> torch.Tensor:
    copied: Any = self.clone()
    copied._pretend_pinned = True
    return copied


class _Properties:
    total_memory, major, minor, multi_processor_count, name = 24 << 30, 8, 9, 100, "Pretend GPU"


def install() -> None:
    """Changes torch in this process, for good: CUDA is there. The guard must have been loaded before torch."""
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    none = dict.fromkeys(
        ("_lazy_init", "set_device", "synchronize", "empty_cache", "reset_peak_memory_stats", "set_rng_state")
    )
    seeds = dict.fromkeys(("manual_seed", "manual_seed_all"))
    memory = dict.fromkeys(
        (
            "memory_allocated",
            "max_memory_allocated",
            "memory_reserved",
            "max_memory_reserved",
            "current_device",
        ),
        0,
    )
    answers: dict[str, Any] = {
        **none,
        **seeds,
        **memory,
        "is_available": True,
        "device_count": 1,
        "get_device_name": _Properties.name,
        "mem_get_info": (20 << 30, _Properties.total_memory),
        "get_device_capability": (_Properties.major, _Properties.minor),
        "is_bf16_supported": True,
        "_is_in_bad_fork": False,
        "get_device_properties": _Properties(),
        "device": contextlib.nullcontext(),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    torch.cuda.get_rng_state = lambda *_, **__: torch.random.get_rng_state()
    torch.Tensor.pin_memory = _pinned  # type: ignore[method-assign]
    torch.version.cuda = "13.0"
    import torch.utils.checkpoint as checkpointing

    checkpointing.get_device_states = lambda *_: ([], [])  # type: ignore[assignment]
    checkpointing.set_device_states = lambda *_, **__: None
