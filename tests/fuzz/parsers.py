"""`python -m fuzz.parsers`: the pure parsers under atheris, which looks for bytes that reach new branches.

Each parser is fuzzed in a process of its own, begins with small good files, and may take 4 GB and 20 seconds for an
input. Bytes for which it neither answers nor refuses in one line are kept in a folder, and the status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_MEGABYTES, _SECONDS, _LONGEST = 4096, 20, 4096
_UNITS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_SPLAT_NAMES = b"x y z opacity f_dc_0 f_dc_1 f_dc_2 scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
_SPLAT = b"ply\nformat binary_little_endian 1.0\nelement vertex 1\n"


class _OneLine(Exception):
    """An input was refused as it should be."""


@contextlib.contextmanager
def _one_line(refusal: type[Exception]) -> Iterator[None]:
    try:
        yield
    except refusal as error:
        if "\n" in str(error):
            raise
        raise _OneLine from error


def _yaml(data: bytes) -> None:
    from threedgen.core.documents import parse_yaml

    _refused(lambda: parse_yaml(data.decode("utf-8", "replace")))


def _json(data: bytes) -> None:
    from threedgen.core.documents import parse_json

    _refused(lambda: parse_json(data))


def _refused(parse: Callable[[], object]) -> None:
    with contextlib.suppress(_OneLine), _one_line(ValueError):
        parse()


def _recipe(data: bytes) -> None:
    from threedgen.recipes.layers import recipe_layers

    _on_file(data, ".yaml", recipe_layers)


def _splats(data: bytes) -> None:
    from threedgen.datasets.splat_files import read_splats

    _on_file(data, ".ply", read_splats)


def _obj(data: bytes) -> None:
    from threedgen.datasets.mesh_files import read_mesh

    _on_file(data, ".obj", read_mesh)


def _tensors(data: bytes) -> None:
    from threedgen.ssdnerf.shards import regions

    _on_file(data, ".safetensors", regions)


def _on_file(data: bytes, suffix: str, read: Callable[[Path], object]) -> None:
    from threedgen.core.errors import UserError

    path = Path(tempfile.gettempdir()) / f"input{suffix}"
    path.write_bytes(data)
    with contextlib.suppress(_OneLine), _one_line(UserError):
        read(path)


_TENSOR = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
PARSERS: dict[str, tuple[Callable[[bytes], None], bytes]] = {
    "yaml": (_yaml, b"a: [1, {b: 'c'}]\nd: &x {e: 1e-3}\nf: *x\n"),
    "json": (_json, b'{"a": [1, 2.5e3, null, {"b": "\\u00e9"}]}'),
    "recipe": (_recipe, b"extends: text-to-3d\nsteps: 20\ncameras: {fov: 40}\nseed: ${steps}\n"),
    "splats": (
        _splats,
        _SPLAT
        + b"".join(b"property float %s\n" % name for name in _SPLAT_NAMES)
        + b"end_header\n"
        + bytes(56),
    ),
    "obj": (_obj, b"mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 1\nvn 0 0 1\nusemtl a\nf 1/1/1 2/1/1 -1\n"),
    "tensors": (_tensors, len(_TENSOR).to_bytes(8, "little") + _TENSOR + bytes(4)),
}


def _fuzz(name: str, options: list[str]) -> None:
    """Never returns."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["threedgen", "yaml", "omegaconf"]):
        parse, good = PARSERS[name]
        parse(good)  # imports what it needs
    atheris.Setup([sys.argv[0], *options], parse)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz.parsers", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="time for all parsers together; default: 1"
    )
    parser.add_argument("--parsers", nargs="+", choices=PARSERS, default=list(PARSERS), help="default: all")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for inputs that failed")
    parser.add_argument("--inside", choices=PARSERS, help=argparse.SUPPRESS)
    arguments, options = parser.parse_known_args()
    if arguments.inside:
        _fuzz(arguments.inside, options)
    arguments.keep.mkdir(parents=True, exist_ok=True)
    seconds = max(1, round(60.0 * arguments.minutes / len(arguments.parsers)))
    failed = False
    print(f"{'parser':10}{'tries':>10}{'wrong':>7}")
    for name in arguments.parsers:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "good").write_bytes(PARSERS[name][1])
            limits = [f"-max_total_time={seconds}", f"-timeout={_SECONDS}", f"-rss_limit_mb={_MEGABYTES}"]
            limits += [
                f"-max_len={_LONGEST}",
                f"-artifact_prefix={arguments.keep}/{name}-",
                "-print_final_stats=1",
            ]
            words = [sys.executable, "-m", "fuzz.parsers", "--inside", name, *limits, folder]
            result = subprocess.run(words, capture_output=True, text=True, check=False)
        found = _UNITS.search(result.stderr)
        wrong = result.returncode != 0 or found is None
        failed |= wrong
        print(f"{name:10}{found[1] if found else '?':>10}{int(wrong):>7}", flush=True)
        if wrong:
            print(result.stderr[-3000:], file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
