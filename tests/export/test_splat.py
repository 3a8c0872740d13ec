"""PLY files of Gaussians: exact round trips, and the layout that other readers expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.datasets.splat_files import SplatParameters, read_splats
from threedgen.export.splat import write_splats

FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh")


def random_parameters(degree: int, count: int = 37) -> SplatParameters:
    rng = generator(degree, "splat-test", 0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    return SplatParameters(
        draw(count, 3), draw(count, 4), draw(count, 3), 4 * draw(count), draw(count, (degree + 1) ** 2, 3)
    )


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip_is_bitwise(tmp_path: Path, degree: int) -> None:
    parameters = random_parameters(degree)
    back = read_splats(write_splats(tmp_path / "a.ply", parameters, "a cube\nwith é"))
    for name in FIELDS:
        one, two = getattr(parameters, name), getattr(back, name)
        assert torch.equal(one.view(torch.int32), two.view(torch.int32)), name


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_an_independent_reader_finds_the_standard_layout(tmp_path: Path, degree: int) -> None:
    """The PLY parser of trimesh, by property name; f_rest is channel-major."""
    parameters = random_parameters(degree)
    loaded = trimesh.load(write_splats(tmp_path / "a.ply", parameters))
    data = loaded.metadata["_ply_raw"]["vertex"]["data"]
    names = list(data.dtype.names)
    rest = (degree + 1) ** 2 - 1
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9 : 9 + 3 * rest] == [f"f_rest_{i}" for i in range(3 * rest)]
    assert names[9 + 3 * rest :] == [
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]
    np.testing.assert_array_equal(data["y"].ravel(), parameters.means[:, 1].numpy())
    np.testing.assert_array_equal(data["opacity"].ravel(), parameters.opacity_logits.numpy())
    np.testing.assert_array_equal(data["scale_2"].ravel(), parameters.log_scales[:, 2].numpy())
    np.testing.assert_array_equal(data["rot_0"].ravel(), parameters.quats[:, 0].numpy())
    np.testing.assert_array_equal(data["f_dc_1"].ravel(), parameters.sh[:, 0, 1].numpy())
    for channel in range(3):
        for k in range(rest):
            stored = data[f"f_rest_{channel * rest + k}"].ravel()
            np.testing.assert_array_equal(stored, parameters.sh[:, 1 + k, channel].numpy())


def test_activations_are_undone_and_redone(tmp_path: Path) -> None:
    cloud = random_parameters(1).cloud()
    back = read_splats(write_splats(tmp_path / "a.ply", SplatParameters.from_cloud(cloud))).cloud()
    for name in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(back, name), getattr(cloud, name), rtol=2e-6, atol=1e-7)


def test_fully_opaque_and_fully_transparent_stay_so(tmp_path: Path) -> None:
    cloud = random_parameters(0, 2).cloud()
    cloud.opacities.copy_(torch.tensor([0.0, 1.0]))
    back = read_splats(write_splats(tmp_path / "a.ply", SplatParameters.from_cloud(cloud))).cloud()
    torch.testing.assert_close(back.opacities, torch.tensor([0.0, 1.0]), atol=2e-7, rtol=0.0)


def test_other_property_orders_and_extra_properties_are_read(tmp_path: Path) -> None:
    names = ["rot_3", "rot_2", "rot_1", "rot_0", "red_eye", "opacity", "scale_0", "scale_1", "scale_2"]
    names += ["f_dc_2", "f_dc_1", "f_dc_0", "z", "y", "x"]
    header = ["ply", "format binary_little_endian 1.0", "element vertex 1"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    values = np.arange(len(names), dtype="<f4")
    (tmp_path / "a.ply").write_bytes("\n".join(header).encode() + values.tobytes())
    read = read_splats(tmp_path / "a.ply")
    assert read.quats.tolist() == [[3.0, 2.0, 1.0, 0.0]]
    assert read.means.tolist() == [[14.0, 13.0, 12.0]]
    assert read.sh.tolist() == [[[11.0, 10.0, 9.0]]]


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = write_splats(tmp_path / "a.ply", random_parameters(1))
    whole = path.read_bytes()
    for content, words in (
        (whole[:-1], "cut short"),
        (whole.replace(b"opacity", b"opaqity"), "opacity is missing"),
        (whole.replace(b"f_rest_8", b"f_rust_8"), "is missing"),
        (whole.replace(b"float rot_0", b"int rot_0"), "not float32"),
        (b"solid\n", "no binary"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_splats(path)
    with pytest.raises(UserError, match="cannot read"):
        read_splats(tmp_path / "missing.ply")
    bad = random_parameters(0)
    bad.means[3, 1] = float("inf")
    with pytest.raises(UserError, match="not finite"):
        write_splats(tmp_path / "b.ply", bad)
    assert not (tmp_path / "b.ply").exists()


def test_a_property_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.ply"
    write_splats(file, random_parameters(0))
    data = file.read_bytes()
    file.write_bytes(data.replace(b"property float opacity\n", b"property float opacity\nproperty float x\n"))
    with pytest.raises(UserError, match="names a property twice"):
        read_splats(file)
