"""Choosing a backend: the fastest one that is available, or one line that says why a named one is not."""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from splatting_scenes import cameras_around, cast, random_cloud

from threedgen.core.errors import UserError
from threedgen.kernels import why_absent
from threedgen.renderers import backends
from threedgen.renderers.splatting import SplattingRenderer


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    reasons = MappingProxyType({"native": "not compiled", "gsplat": "no CUDA device", "torch": None})
    monkeypatch.setattr(backends, "available", lambda kind: reasons)
    backends._warn_slow.cache_clear()
    yield
    backends._warn_slow.cache_clear()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: the kernels could not be built")
def test_the_kernels_were_built_if_there_is_a_compiler() -> None:
    """Without this test, a broken build would only skip the tests of the native backend."""
    assert why_absent() is None


@pytest.mark.skipif(why_absent() is not None, reason="no native kernels")
def test_auto_is_native_on_the_cpu() -> None:
    assert backends.choose("splatting", "auto", "cpu") == "native"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_absent_backends_say_why() -> None:
    reasons = backends.available("splatting")
    assert reasons["torch"] is None
    assert reasons["gsplat"] == "no CUDA device"
    with pytest.raises(UserError, match="'gsplat' is not available: no CUDA device"):
        backends.choose("splatting", "gsplat", "cpu")


def test_unknown_names_and_wrong_devices_are_user_errors() -> None:
    with pytest.raises(UserError, match=r"unknown splatting backend 'fast': use auto, gsplat, native, torch"):
        backends.choose("splatting", "fast", "cpu")
    with pytest.raises(UserError, match="no splatting backend runs on 'meta'"):
        backends.choose("splatting", "auto", "meta")


def test_native_does_not_take_cuda_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "available", lambda kind: dict.fromkeys(("native", "gsplat", "torch")))
    with pytest.raises(UserError, match="runs on cpu, not on cuda"):
        backends.choose("mesh", "native", "cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A machine with a GPU, nvcc and a gsplat whose kernels' module is the source text that is given."""
    caches = (backends.available, backends._warn_slow, backends.gsplat_kernels.build)
    (tmp_path / "gsplat" / "cuda").mkdir(parents=True)
    for place in ("gsplat", "gsplat/cuda"):
        (tmp_path / place / "__init__.py").touch()
    (tmp_path / "nvcc").touch(mode=0o755)
    (tmp_path / "c++").touch(mode=0o755)

    def kernels(text: str) -> None:
        (tmp_path / "gsplat" / "cuda" / "_backend.py").write_text(text)
        for cached in caches:
            cached.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] == "gsplat"]:
            monkeypatch.delitem(sys.modules, name)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "_native_reason", lambda: None)
    yield kernels
    kernels("")


def test_gsplat_compiles_once_and_says_so(gpu, tmp_path) -> None:
    gpu("_C = object()")
    assert backends.available("splatting")["gsplat"] is None
    assert "gsplat.cuda._backend" not in sys.modules  # asking alone compiles nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose("splatting", "auto", "cpu") == "native"
    with pytest.warns(RuntimeWarning, match="takes some minutes"):
        assert backends.choose("splatting", "auto", "cuda:1") == "gsplat"
    backends.gsplat_kernels.build.cache_clear()
    (tmp_path / "extensions" / "gsplat_cuda" / "gsplat_cuda.so").touch()  # as it is from then on
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose("splatting", "gsplat", "cuda") == "gsplat"


def test_without_nvcc_a_gpu_renders_through_the_cpu_and_the_line_names_what_is_missing(
    gpu, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    (tmp_path / "nvcc").unlink()
    gpu("raise AssertionError('it was imported')")
    with pytest.warns(RuntimeWarning, match=r"kernels of the CPU.*nvcc \(the CUDA toolkit 13\.0\)"):
        assert backends.choose("splatting", "auto", "cuda") == "native"
    with pytest.raises(UserError, match=r"'gsplat' is not available: its CUDA kernels.*nvcc"):
        backends.choose("splatting", "gsplat", "cuda")
    (tmp_path / "c++").unlink()
    backends.available.cache_clear()
    with pytest.raises(UserError, match=r"nvcc \(.*\) and a C\+\+ compiler"):
        backends.choose("splatting", "gsplat", "cuda")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "raise RuntimeError('error: no kernel image\\nlong log')",
            r"cannot be compiled \(error: no kernel image\)",
        ),
        ("_C = None", "were not compiled"),
    ],
)
def test_kernels_that_do_not_compile_are_one_line(gpu, text, said) -> None:
    gpu(text)
    with pytest.warns(RuntimeWarning) as told:
        assert backends.choose("splatting", "auto", "cuda") == "native"
    assert re.search(said, str(told[-1].message))
    with pytest.raises(UserError, match=said):
        backends.choose("splatting", "gsplat", "cuda")


def test_auto_never_takes_nerfacc(gpu, monkeypatch) -> None:
    monkeypatch.setattr(backends, "_cuda_reason", lambda package, advice: None)
    gpu("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose("volume", "auto", "cuda") == "torch"
    assert backends.choose("volume", "nerfacc", "cuda") == "nerfacc"


def test_an_empty_cloud_does_not_reach_gsplat(monkeypatch) -> None:
    monkeypatch.setattr(backends, "choose", lambda kind, name, device: "gsplat")
    output = SplattingRenderer()(random_cloud(0, 0), cameras_around(4, 4), torch.ones(3))
    torch.testing.assert_close(output.rgb, torch.ones(3, 4, 4, 3))


@pytest.mark.usefixtures("no_native")
def test_without_kernels_torch_renders_and_warns_once_that_it_is_slow() -> None:
    with pytest.warns(RuntimeWarning, match=r"plain torch backend.*native: not compiled"):
        output = SplattingRenderer()(random_cloud(5, 0), cameras_around(8, 8), torch.zeros(3))
    assert output.rgb.shape == (3, 8, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SplattingRenderer()(random_cloud(5, 0), cameras_around(8, 8), torch.zeros(3))


def test_float64_keeps_its_precision() -> None:
    output = SplattingRenderer()(
        cast(random_cloud(5, 0), torch.float64), cameras_around(8, 8), torch.zeros(3)
    )
    assert output.rgb.dtype == torch.float64


def test_backgrounds_are_a_colour_colours_or_pictures() -> None:
    cloud, cameras, color = random_cloud(20, 0), cameras_around(9, 12), torch.tensor([0.1, 0.5, 0.9])
    render = SplattingRenderer()
    first = render(cloud, cameras, color).rgb
    torch.testing.assert_close(render(cloud, cameras, color.expand(3, 3)).rgb, first)
    torch.testing.assert_close(render(cloud, cameras, color.expand(3, 9, 12, 3)).rgb, first)
    with pytest.raises(ValueError, match="background must be"):
        render(cloud, cameras, torch.zeros(2, 3))


def test_gradients_of_the_screen_reach_density_control() -> None:
    cloud = random_cloud(20, 0)
    cloud.means.requires_grad_()
    output = SplattingRenderer()(cloud, cameras_around(16, 16), torch.zeros(3))
    output.rgb.square().sum().backward()
    assert output.screen is not None
    gradient = output.screen.means2d.grad
    assert gradient is not None
    assert gradient.shape == (3, 20, 2)
    seen = output.screen.radii > 0
    assert gradient[seen].any()
    assert not gradient[~seen].any()
