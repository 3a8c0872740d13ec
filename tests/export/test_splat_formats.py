"""Compact files of Gaussians: what is read back, within the steps of each format, and which way is up."""

from __future__ import annotations

import json
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from clouds import ball
from splat_decoders import decode
from test_gltf import issues

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.spherical_harmonics import basis
from threedgen.core.transforms import covariances
from threedgen.core.types import GaussianCloud
from threedgen.datasets.splat_files import TURNS, SplatParameters, read_splats
from threedgen.export import splat_sog, write
from threedgen.export.splat_settings import SplatConfig

# The largest error of positions, of rotations (a cosine below 1), of the logarithms of scales, of opacities and of
# colours, and the highest degree that the format holds.
FORMATS = {
    ".compressed.ply": (2e-3, 1e-4, 5e-3, 2.1e-3, 0.1, 3),
    ".splat": (0.0, 3e-4, 1e-6, 2.1e-3, 2.1e-3, 0),
    ".spz": (2e-6, 1e-4, 0.032, 2.1e-3, 0.05, 3),
    ".sog": (1e-4, 4e-4, 0.03, 2.1e-3, 0.05, 3),
    ".splats.glb": (0.0, 1e-6, 1e-6, 1e-6, 1e-5, 3),
    ".splats.usda": (0.0, 1e-6, 1e-6, 1e-6, 1e-5, 3),
    ".splats.usdz": (0.0, 1e-6, 1e-6, 1e-6, 1e-5, 3),
}
UP = {
    ".compressed.ply": "-y",
    ".splat": "-y",
    ".spz": "y",
    ".sog": "-y",
    ".splats.glb": "y",
    ".splats.usda": "y",
}
UP[".splats.usdz"] = "y"


def cloud(degree: int, count: int = 700) -> GaussianCloud:
    rng = generator(degree, "splat-formats", 0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    rest = (0.2 * draw(count, (degree + 1) ** 2 - 1, 3)).clamp(-0.9, 0.9)
    return GaussianCloud(
        0.3 * draw(count, 3),
        draw(count, 4),
        (0.5 * draw(count, 3) - 4.0).exp(),
        (2.0 * draw(count)).sigmoid().clamp(0.01, 0.99),
        torch.cat([draw(count, 1, 3).clamp(-1.7, 1.7), rest], dim=1),
    )


def read(path: Path, up: str, like: GaussianCloud, own: bool = False) -> SplatParameters:
    """What the file holds, turned into the world and in the order of the cloud that was written. own: as threedgen
    reads it, else as its description says."""
    found = read_splats(path) if own else decode(path).turned(-TURNS[up])
    assert len(found.means) == len(like)
    order = torch.cdist(like.means.double(), found.means.double()).argmin(dim=1)
    assert len(order.unique()) == len(order)
    return SplatParameters(*(value[order] for value in vars(found).values()))


def axes(quats: torch.Tensor) -> torch.Tensor:
    """The covariances of long ellipsoids: what can be seen of rotations, however their axes are turned over."""
    count = len(quats)
    lengths = torch.tensor([1.0, 0.5, 0.1]).repeat(count, 1)
    return covariances(
        GaussianCloud(torch.zeros(count, 3), quats, lengths, torch.ones(count), torch.zeros(count, 1, 3))
    )


@pytest.mark.parametrize("own", [False, True], ids=["by its description", "by threedgen"])
@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_read_is_what_was_written(tmp_path: Path, suffix: str, degree: int, own: bool) -> None:
    position, cosine, scale, opacity, color, highest = FORMATS[suffix]
    meant = cloud(degree)
    write(meant, tmp_path / f"a{suffix}", note={"prompt": "a cube"})
    found = read(tmp_path / f"a{suffix}", UP[suffix], meant, own)
    assert float((found.means - meant.means).abs().max()) <= position
    torch.testing.assert_close(
        axes(found.quats), axes(meant.quats), atol=2.0 * (2.0 * cosine) ** 0.5, rtol=0.0
    )
    assert float((found.log_scales - meant.scales.log()).abs().max()) <= scale
    assert float((found.opacity_logits.sigmoid() - meant.opacities).abs().max()) <= opacity
    assert found.sh.shape[1] == (min(degree, highest) + 1) ** 2
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator(0, "d", 0)), dim=1)
    shown = [
        torch.einsum("mk,nkc->nmc", basis(directions, min(degree, highest)), sh[:, : found.sh.shape[1]])
        for sh in (found.sh, meant.sh)
    ]
    assert float((shown[0] - shown[1]).abs().max()) <= color


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_right_way_up_in_each_format(tmp_path: Path, suffix: str) -> None:
    """One Gaussian on each axis, told apart by its colour; up and front of the file are where they should be."""
    sh = torch.eye(3).unsqueeze(1)
    parts = GaussianCloud(
        torch.eye(3),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(3, 1),
        torch.full((3, 3), 0.1),
        torch.ones(3),
        sh,
    )
    up = torch.tensor([0.0, 1.0 if UP[suffix] == "y" else -1.0, 0.0])
    for asked, where in (
        ("auto", up),
        ("y", torch.eye(3)[1]),
        ("z", torch.eye(3)[2]),
        ("-z", -torch.eye(3)[2]),
    ):
        write(parts, tmp_path / f"a{suffix}", splats=SplatConfig(up=asked))  # type: ignore[arg-type]
        found = decode(tmp_path / f"a{suffix}")
        right, top, front = (found.means[found.sh[:, 0, channel].argmax()] for channel in range(3))
        torch.testing.assert_close(right, torch.eye(3)[0], atol=1e-3, rtol=0.0)
        torch.testing.assert_close(top, where, atol=1e-3, rtol=0.0)
        torch.testing.assert_close(torch.linalg.cross(right, top, dim=0), front, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize(("suffix", "up"), [(".ply", -1.0), (".splats.glb", 1.0)])
def test_trimesh_finds_the_points_the_right_way_up(tmp_path: Path, suffix: str, up: float) -> None:
    """Points on the three axes; of glTF also their colours, which programs show that know no Gaussians."""
    parts = cloud(0, 3)
    parts.means.copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    parts.opacities.fill_(1.0)
    parts.sh.copy_(((torch.eye(3) - 0.5) / 0.28209479).unsqueeze(1))
    write(parts, tmp_path / f"a{suffix}")
    (found,) = trimesh.load_scene(tmp_path / f"a{suffix}").geometry.values()
    assert isinstance(found, trimesh.PointCloud)
    np.testing.assert_allclose(found.vertices, np.diag([1.0, 2.0 * up, 3.0 * up]), atol=1e-6)
    if suffix == ".splats.glb":
        np.testing.assert_allclose(found.colors, np.insert(255 * np.eye(3), 3, 255, axis=1), atol=2.0)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_asset_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        write(cloud(1, 70), tmp_path / f"{name}{suffix}", note={"prompt": "a cube"})
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_one_gaussian_and_extreme_ones(tmp_path: Path, suffix: str) -> None:
    """Chunks without extent, tables of one number, a rotation of length 0, opacities 0 and 1, tiny scales."""
    one = GaussianCloud(
        torch.tensor([[0.1, -0.2, 300.0]]),
        torch.zeros(1, 4),
        torch.full((1, 3), 1e-9),
        torch.zeros(1),
        torch.zeros(1, 1, 3),
    )
    three = torch.zeros(3, dtype=torch.long)
    colors = torch.tensor([-50.0, 0.0, 50.0])[:, None, None].expand(3, 4, 3).contiguous()
    many = GaussianCloud(
        one.means[three], one.quats[three], one.scales[three], torch.tensor([0.0, 1.0, 1.0]), colors
    )
    for asset in (one, many):
        write(asset, tmp_path / f"a{suffix}")
        found = decode(tmp_path / f"a{suffix}").turned(-TURNS[UP[suffix]])
        torch.testing.assert_close(found.means, asset.means, atol=1e-3, rtol=1e-3)
        still = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(found.quats), 4)
        torch.testing.assert_close(axes(found.quats), axes(still), atol=0.02, rtol=0.0)
        assert bool((found.quats.norm(dim=1) - 1.0).abs().max() < 0.02)
        for value in vars(found).values():
            assert bool(torch.isfinite(value).all())


def test_a_degree_can_be_asked_for(tmp_path: Path) -> None:
    meant = cloud(1, 20)
    write(meant, tmp_path / "a.ply", splats=SplatConfig(degree=3))
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header")[0]
    assert header.count(b"f_rest_") == 45
    write(meant, tmp_path / "a.splats.glb", splats=SplatConfig(degree=3))
    found = read(tmp_path / "a.splats.glb", "y", meant)
    assert torch.equal(found.sh[:, :4], meant.sh)
    assert not bool(found.sh[:, 4:].any())
    write(meant, tmp_path / "a.splats.glb", splats=SplatConfig(degree=0))
    assert torch.equal(read(tmp_path / "a.splats.glb", "y", meant).sh, meant.sh[:, :1])


def test_version_4_of_spz(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    meant = cloud(2, 50)
    write(meant, tmp_path / "3.spz")
    write(meant, tmp_path / "4.spz", splats=SplatConfig(spz_version=4))
    third, fourth = (vars(decode(tmp_path / f"{version}.spz")) for version in (3, 4))
    assert all(torch.equal(value, fourth[name]) for name, value in third.items())


def test_version_4_of_spz_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(
        UserError, match=r"needs zstandard, pip install \"threedgen\[spz\]\", or write version 3"
    ):
        write(cloud(0, 3), tmp_path / "a.spz", splats=SplatConfig(spz_version=4))
    assert not (tmp_path / "a.spz").exists()


def test_many_gaussians_share_the_entries_of_a_palette(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splat_sog, "_EXACT", 100)
    monkeypatch.setattr(splat_sog, "_PALETTE", 60)
    monkeypatch.setattr(splat_sog, "_BLOCK", 64)
    meant = cloud(1, 600)
    kinds = 0.5 * torch.randn(20, 3, 3, generator=generator(0, "kinds", 0))
    meant.sh[:, 1:] = kinds[torch.arange(600) % 20]
    write(meant, tmp_path / "a.sog")
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        assert json.loads(archive.read("meta.json"))["shN"]["count"] == 60
    found = read(tmp_path / "a.sog", "-y", meant)
    off = (found.sh[:, 1:] - meant.sh[:, 1:]).abs().flatten(1).amax(dim=1)
    assert float((off < 0.02).float().mean()) > 0.9  # those whose kind was sampled


def test_the_largest_and_most_opaque_come_first_in_splat_files(tmp_path: Path) -> None:
    meant = cloud(0)
    write(meant, tmp_path / "a.splat", splats=SplatConfig(up="y"))
    order = torch.argsort(meant.scales.prod(dim=1) * meant.opacities, descending=True)
    torch.testing.assert_close(decode(tmp_path / "a.splat").means, meant.means[order])


def test_gltf_validator_complains_of_nothing_but_names_that_it_does_not_know(tmp_path: Path) -> None:
    write(cloud(3, 30), tmp_path / "a.splats.glb", note={"prompt": "a cube"})
    found = [one for one in issues(tmp_path / "a.splats.glb")["messages"] if one["severity"] < 2]
    assert {one["code"] for one in found} == {"MESH_PRIMITIVE_INVALID_ATTRIBUTE"}
    assert all("/KHR_gaussian_splatting:" in one["pointer"] for one in found)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_no_file_can_hold_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    bad = cloud(0, 3)
    bad.means[1, 1] = float("nan")
    with pytest.raises(
        UserError, match=f"cannot write .*a{suffix}: the Gaussians hold numbers that are not finite"
    ):
        write(bad, path)
    none = GaussianCloud(*(value[:0] for value in vars(cloud(0, 3)).values()))
    with pytest.raises(UserError, match="there are no Gaussians"):
        write(none, path)
    assert list(tmp_path.iterdir()) == []


def test_the_note_is_kept(tmp_path: Path) -> None:
    note = {"prompt": "a red ball", "seed": 3}
    write(ball(), tmp_path / "a.compressed.ply", note=note)
    assert (
        b"comment up: -y\ncomment prompt: a red ball\ncomment seed: 3\n"
        in (tmp_path / "a.compressed.ply").read_bytes()
    )
    write(ball(), tmp_path / "a.sog", note=note)
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        assert json.loads(archive.read("meta.json"))["asset"] == {
            "generator": "threedgen",
            "up": "-y",
            **note,
        }
    write(ball(), tmp_path / "a.splats.glb", note=note)
    data = (tmp_path / "a.splats.glb").read_bytes()
    length = int(np.frombuffer(data, "<u4", 1, 12)[0])
    assert json.loads(data[20 : 20 + length])["asset"]["extras"] == note


def test_the_validators_of_usd_find_nothing(tmp_path: Path) -> None:
    Usd, UsdGeom, UsdValidation = (
        import_module(f"pxr.{name}") for name in ("Usd", "UsdGeom", "UsdValidation")
    )
    for up, axis in (("auto", "Y"), ("z", "Z")):
        path = tmp_path / f"{axis}.splats.usdz"
        write(cloud(1, 30), path, note={"prompt": "a cube"}, splats=SplatConfig(up=up))  # type: ignore[arg-type]
        stage = Usd.Stage.Open(str(path))
        validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
        found = UsdValidation.ValidationContext(validators).Validate(stage)
        assert [error.GetMessage() for error in found] == []
        assert UsdGeom.GetStageUpAxis(stage) == axis
        assert stage.GetRootLayer().customLayerData["threedgen"] == {"prompt": "a cube"}


def test_gaussians_in_usd_need_a_recent_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(import_module("pxr.UsdVol"), "ParticleField3DGaussianSplat")
    with pytest.raises(UserError, match=r"usd-core 26\.3 or newer"):
        write(cloud(0, 3), tmp_path / "a.splats.usda")
    assert list(tmp_path.iterdir()) == []


def test_neighbours_share_the_bounds_of_a_chunk(tmp_path: Path) -> None:
    """Two small clusters far from each other, in turns: positions are as fine as the clusters are small."""
    meant = cloud(0, 512)
    meant.means.mul_(0.1)
    meant.means[::2, 0] += 50.0
    write(meant, tmp_path / "a.compressed.ply")
    found = decode(tmp_path / "a.compressed.ply").turned(-TURNS["-y"])
    away = torch.cdist(meant.means.double(), found.means.double()).amin(dim=1)
    assert float(away.max()) < 3e-4


def test_what_is_transparent_keeps_its_colour(tmp_path: Path) -> None:
    meant = cloud(0, 40)
    meant.opacities.fill_(0.0)
    write(meant, tmp_path / "a.sog")
    torch.testing.assert_close(read(tmp_path / "a.sog", "-y", meant).sh, meant.sh, atol=0.05, rtol=0.0)


def test_neighbours_in_a_table_are_nearly_the_same(tmp_path: Path) -> None:
    """Of a picture whose opacities are below 1, some readers get numbers that are one too low."""
    meant = cloud(0, 40)
    meant.sh.copy_(torch.where(meant.sh > 0.0, 1.5, -1.5))
    write(meant, tmp_path / "a.sog")
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        table = np.array(json.loads(archive.read("meta.json"))["sh0"]["codebook"])
    assert (table[0], table[-1]) == (-1.5, 1.5)
    assert np.abs(np.diff(table)).max() < 0.02
    assert torch.equal(read(tmp_path / "a.sog", "-y", meant).sh, meant.sh)
