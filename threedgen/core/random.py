"""Random streams: every draw comes from a generator made from (seed, stream name, step).

No draw depends on how many draws were made before it, so that resuming a run, or adding or reordering consumers,
leaves every other draw as it was. Streams draw on the CPU, which gives the same numbers on every device.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, stream: str, step: int) -> int:
    """A 63-bit seed for the given (seed, stream, step), the same in every process and on every platform."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


def generator(seed: int, stream: str, step: int) -> torch.Generator:
    """A CPU generator for one consumer (`stream`) at one step of a run with the given seed."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, step))
