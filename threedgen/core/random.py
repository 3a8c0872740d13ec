"""Random streams: every draw comes from a generator made from (seed, stream name, step).

Nothing depends on how many draws were made before, so resuming, re-ordering or adding a consumer leaves
every other draw as it was. Streams draw on the CPU: the same numbers on every device.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, stream: str, step: int) -> int:
    """A 63-bit seed for the given (seed, stream, step); stable across processes and platforms."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


def generator(seed: int, stream: str, step: int) -> torch.Generator:
    """A CPU generator for one consumer (`stream`) at one step of a run with the given seed."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, step))
