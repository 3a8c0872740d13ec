"""What threedgen promises for a GPU, checked by one command: at most ten minutes, no download.

    python benchmarks/prove_gpu.py [--device cuda|cpu] [--only BLOCK ...] [--json FILE] [--markdown FILE]

Every weight is random, drawn from a seed. Each block prints a line as it ends; then come what does not hold, the
figures as JSON (in a file with --json), and a row in Markdown. The exit status is 0 if everything that must hold
does. On the CPU the same blocks run with the sizes of a test, and with the native kernels in place of the CUDA
libraries. That checks the script and those kernels, and says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import gpu_parity
import gpu_priors
import gpu_runs
import gpu_speed
import torch
from gpu_blocks import Block, Place, run_block
from tables import add_markdown, write_markdown

from threedgen.core import machine
from threedgen.core.errors import UserError
from threedgen.renderers import backends


def facts(place: Place) -> Block:
    """The machine, the versions, and why each backend cannot be used."""
    block = Block()
    block.measured.update(
        device=place.device,
        processor=platform.processor() or platform.machine(),
        cores=os.cpu_count(),
        system=platform.platform(),
        python=platform.python_version(),
        cuda=torch.version.cuda,
        versions={name: machine.version(name) for name in ("threedgen", "torch", "diffusers", "gsplat")},
        backends={kind: dict(backends.available(kind)) for kind in ("splatting", "volume", "mesh")},
    )
    if place.on_gpu:
        found = torch.cuda.get_device_properties(0)
        block.measured.update(gpu=found.name, gpu_gigabytes=found.total_memory / 1e9)
    reason = backends.available("splatting")["gsplat" if place.on_gpu else "native"]
    block.must(reason is None, f"the fast backend of splatting is not there: {reason}")
    return block


BLOCKS: Mapping[str, Callable[[Place], Block]] = MappingProxyType(
    {
        "facts": facts,
        "splatting": gpu_parity.splatting,
        "volume": gpu_parity.volume,
        "mesh": gpu_parity.mesh,
        "speed": gpu_speed.speed,
        **gpu_priors.BLOCKS,
        **gpu_runs.BLOCKS,
    }
)


def row(place: Place, found: Mapping[str, Block]) -> str:
    """A table of one row: the blocks and how many of their "musts" hold."""
    name = torch.cuda.get_device_name(0) if place.on_gpu else f"CPU, {torch.get_num_threads()} threads"
    cells = [name, datetime.now(UTC).strftime("%Y-%m-%d")]
    cells += [f"{block.musts - len(block.failed)} of {block.musts}" for block in found.values()]
    seconds = sum(block.seconds for block in found.values())
    lines = (["machine", "date", *found, "seconds"], ["---"] * (len(found) + 3), [*cells, f"{seconds:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", choices=tuple(BLOCKS), default=list(BLOCKS), metavar="BLOCK")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    add_markdown(parser)
    arguments = parser.parse_args()
    try:
        device = machine.choose_device(arguments.device)
    except UserError as error:
        print(f"prove_gpu: {error}", file=sys.stderr)
        return 2
    found: dict[str, Block] = {}
    with tempfile.TemporaryDirectory(prefix="threedgen-gpu-") as work:
        place = Place(device, device == "cpu", Path(work))
        for name in arguments.only:
            block = found[name] = run_block(BLOCKS[name], place)
            held = f"{block.musts - len(block.failed)} of {block.musts} hold"
            print(f"{name}: {held}, {block.seconds:.1f} s", flush=True)
    for name, block in found.items():
        for sentence in block.failed:
            print(f"{name} FAILED: {sentence}")
    text = json.dumps({name: asdict(block) for name, block in found.items()}, indent=1, default=str)
    print(text if arguments.json is None else f"figures: {arguments.json}")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    table = row(place, found)
    print(table)
    write_markdown(arguments.markdown, f"`python benchmarks/prove_gpu.py --device {device}`\n\n{table}")
    return int(any(block.failed for block in found.values()))


if __name__ == "__main__":
    sys.exit(main())
