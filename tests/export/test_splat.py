"""PLY files of Gaussians: exact round trips, and the layout that other readers expect."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.spherical_harmonics import basis
from threedgen.core.transforms import covariances, matrix_from_quat, transform
from threedgen.datasets.splat_files import SplatParameters, _parse, read_asset_splats, read_splats
from threedgen.export.splat import write_splats

FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh")


def random_parameters(degree: int, count: int = 37) -> SplatParameters:
    rng = generator(degree, "splat-test", 0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    return SplatParameters(
        draw(count, 3), draw(count, 4), draw(count, 3), 4 * draw(count), draw(count, (degree + 1) ** 2, 3)
    )


@pytest.mark.parametrize("up", ["y", "-y"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip_is_bitwise(tmp_path: Path, degree: int, up: str) -> None:
    parameters = random_parameters(degree)
    parameters.sh[:, ::2] *= 1e-10  # beside them, a rounding error of the others would show
    back = read_splats(write_splats(tmp_path / "a.ply", parameters, "a cube\nwith é", up))
    for name in FIELDS:
        one, two = getattr(parameters, name), getattr(back, name)
        assert torch.equal(one.view(torch.int32), two.view(torch.int32)), name


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_an_independent_reader_finds_the_standard_layout(tmp_path: Path, degree: int) -> None:
    """The PLY parser of trimesh, by property name; f_rest is channel-major."""
    parameters = random_parameters(degree)
    loaded = trimesh.load(write_splats(tmp_path / "a.ply", parameters, up="y"))
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
    header = ["ply", "format binary_little_endian 1.0", "comment up: y", "element vertex 1"]
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
        (whole.replace(b"float rot_0", b"half rot_0"), "header that cannot be read"),
        (b"solid\n", "no PLY file"),
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


def signed(axis: str) -> torch.Tensor:
    """The unit vector of an axis such as -y."""
    return torch.eye(3)["xyz".index(axis[-1])] * (-1.0 if axis.startswith("-") else 1.0)


@pytest.mark.parametrize(("up", "front"), [("y", "z"), ("-y", "-z"), ("z", "-y"), ("-z", "y")])
def test_what_is_up_in_the_world_is_up_in_the_file(tmp_path: Path, up: str, front: str) -> None:
    """One Gaussian on each axis, long and bright in that direction: the file has it where the axis points."""
    bright = basis(torch.eye(3), 3)  # as a function of the direction, it is largest in that of each axis
    quats = torch.stack([turn_to(axis) for axis in torch.eye(3)])
    long = torch.tensor([0.0, -3.0, -3.0]).repeat(3, 1)
    sh = bright.unsqueeze(2).repeat(1, 1, 3)
    parameters = SplatParameters(torch.eye(3), quats, long, torch.zeros(3), sh)
    path = write_splats(tmp_path / "a.ply", parameters, up=up)
    found = _parse(path)
    stored = SplatParameters(*(torch.tensor(np.array(one)) for one in found[:5]))
    axes = torch.stack([signed("x"), signed(up), signed(front)])
    torch.testing.assert_close(stored.means, axes, atol=1e-6, rtol=0.0)
    for number, axis in enumerate(axes):
        along = matrix_from_quat(stored.quats[number : number + 1])[0, :, 0]
        assert abs(float(along @ axis)) == pytest.approx(1.0, abs=1e-6)
        directions = torch.cat([axes, -axes])
        colors = basis(directions, 3) @ stored.sh[number, :, 0]
        assert torch.argmax(colors) == number
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(read_splats(path), name), getattr(parameters, name), atol=1e-6, rtol=0.0
        )


def turn_to(axis: torch.Tensor) -> torch.Tensor:
    """A rotation that takes +X to an axis."""
    half = 0.5 * (torch.tensor([1.0, 0.0, 0.0]) + axis)
    across = torch.linalg.cross(torch.tensor([1.0, 0.0, 0.0]), axis, dim=0)
    return torch.nn.functional.normalize(
        torch.cat([half @ half.new_tensor([[2.0], [0.0], [0.0]]), across]), dim=0
    )


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_turning_twice_is_the_identity(degree: int) -> None:
    parameters = random_parameters(degree)
    for degrees in (180, -180):
        back = parameters.turned(degrees).turned(-degrees)
        assert all(torch.equal(getattr(back, name), getattr(parameters, name)) for name in FIELDS)
    twice = parameters.turned(180).turned(180)
    assert torch.equal(twice.quats, -parameters.quats)  # the same rotation
    assert torch.equal(twice.means, parameters.means)
    assert torch.equal(twice.sh, parameters.sh)
    turned = parameters.turned(90)
    once, both = (
        transform(parameters.cloud(), turned.means.new_tensor([[1, 0, 0], [0, 0, -1], [0, 1, 0]])),
        turned.cloud(),
    )
    for one, other in ((once.means, both.means), (once.sh, both.sh), (covariances(once), covariances(both))):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_file_without_a_word_about_up_has_y_down_unless_it_is_ours(tmp_path: Path) -> None:
    parameters = random_parameters(1)
    data = write_splats(tmp_path / "a.ply", parameters, up="y").read_bytes().replace(b"comment up: y\n", b"")
    (tmp_path / "ours.ply").write_bytes(data)
    (tmp_path / "other.ply").write_bytes(data.replace(b"comment threedgen\n", b""))
    assert torch.equal(read_splats(tmp_path / "ours.ply").means, parameters.means)
    other = read_splats(tmp_path / "other.ply").means
    assert torch.equal(other, parameters.means * torch.tensor([1.0, -1.0, -1.0]))


def test_a_comment_of_a_prompt_does_not_turn_the_file(tmp_path: Path) -> None:
    parameters = random_parameters(0)
    back = read_splats(write_splats(tmp_path / "a.ply", parameters, "up: z", up="y"))
    assert torch.equal(back.means, parameters.means)


def test_splats_of_other_programs_are_placed_as_meshes_are(tmp_path: Path) -> None:
    """A cloud far away, large, Y down, and with a floater that cannot be seen."""
    parameters = random_parameters(1)
    parameters.opacity_logits.clamp_(min=0.0)
    parameters.opacity_logits[0] = -8.0
    far = replace(
        parameters, means=20.0 * parameters.means + 100.0, log_scales=parameters.log_scales + math.log(20.0)
    )
    far.means[0] = 1e6
    data = write_splats(tmp_path / "a.ply", far).read_bytes()
    own, about = read_asset_splats(tmp_path / "a.ply", 0.9)
    assert torch.equal(own.means, far.means)
    assert "stay where they are" in about
    (tmp_path / "b.ply").write_bytes(data.replace(b"comment threedgen\ncomment up: -y\n", b""))
    placed, about = read_asset_splats(tmp_path / "b.ply", 0.9)
    assert about == "b.ply: 37 Gaussians, up is -y in the file; centred and scaled into a ball of radius 0.9"
    seen = placed.means[1:]
    torch.testing.assert_close(seen.amin(0), -seen.amax(0), atol=1e-5, rtol=0.0)
    assert float(seen.norm(dim=1).max()) == pytest.approx(0.9, abs=1e-5)
    before, after = (torch.pdist(one.means[1:]) for one in (far, placed))
    scale = (after / before).mean()
    torch.testing.assert_close(after, scale * before, atol=1e-4, rtol=0.0)
    torch.testing.assert_close(placed.log_scales, far.log_scales + scale.log(), atol=1e-5, rtol=0.0)
    one = replace(far, means=torch.ones_like(far.means))
    data = write_splats(tmp_path / "c.ply", one).read_bytes()
    (tmp_path / "c.ply").write_bytes(data.replace(b"comment threedgen\n", b""))
    with pytest.raises(UserError, match=r"c\.ply: all Gaussians that can be seen are at one point"):
        read_asset_splats(tmp_path / "c.ply", 0.9)
