"""Files of Gaussians of other programs: every kind of PLY, the compact formats, scenes, and rows of no use."""

from __future__ import annotations

import gzip
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.transforms import quat_from_matrix, transform
from threedgen.core.types import GaussianCloud, TriMesh
from threedgen.datasets.splat_files import SplatParameters, holds_splats, read_asset_splats, read_splats
from threedgen.datasets.splat_ply import names
from threedgen.export import write
from threedgen.export.splat_settings import SplatConfig
from threedgen.pipelines.fit import target_of
from threedgen.representations.dynamic_gaussians import describe_asset

COUNT = 12


def table(coefficients: int = 4) -> np.ndarray:
    draw = torch.randn(COUNT, len(names(coefficients)), generator=generator(0, "splat-files", 0))
    return draw.numpy().astype("<f4")


def ply(
    values: np.ndarray,
    columns: list[str],
    kind: str = "float",
    order: str = "binary_little_endian",
    newline: str = "\n",
    before: str = "",
    after: str = "",
) -> bytes:
    lines = ["ply", f"format {order} 1.0", *before.split("|"), f"element vertex {len(values)}"]
    lines += [f"property {kind} {name}" for name in columns]
    lines += [*after.split("|"), "end_header"]
    header = newline.join(line for line in lines if line) + newline
    if order == "ascii":
        return header.encode() + "\n".join(" ".join(repr(float(v)) for v in row) for row in values).encode()
    types = {"float": "f4", "double": "f8"}
    return header.encode() + values.astype((">" if "big" in order else "<") + types[kind]).tobytes()


def bytes_beside(values: np.ndarray) -> bytes:
    columns = names(4)
    kinds = [(name, "<f4") for name in columns] + [(name, "u1") for name in ("red", "green", "blue")]
    records = np.zeros(len(values), np.dtype(kinds))
    for number, name in enumerate(columns):
        records[name] = values[:, number]
    header = ply(values[:0], columns, after="|".join(f"property uchar {c}" for c in ("red", "green", "blue")))
    return header.replace(b"vertex 0", f"vertex {len(values)}".encode()) + records.tobytes()


KINDS: dict[str, Callable[[np.ndarray], bytes]] = {
    "doubles": lambda v: ply(v, names(4), "double"),
    "big endian": lambda v: ply(v, names(4), order="binary_big_endian"),
    "text": lambda v: ply(v, names(4), order="ascii"),
    "CRLF": lambda v: ply(v, names(4), newline="\r\n"),
    "CRLF text": lambda v: ply(v, names(4), order="ascii", newline="\r\n"),
    "bytes beside": bytes_beside,
    "elements after": lambda v: (
        ply(v, names(4), after="element camera 1|property list uchar int of|property float f") + b"\1\0\0\0\0"
    ),
    "element before": lambda v: ply(
        v, names(4), before="element extrinsic 2|property float e|property uchar k"
    ).replace(b"end_header\n", b"end_header\n" + bytes(10)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_ply_holds_the_same_gaussians(tmp_path: Path, kind: str) -> None:
    values = table()
    (tmp_path / "plain.ply").write_bytes(ply(values, names(4)))
    (tmp_path / "a.ply").write_bytes(KINDS[kind](values))
    plain, found = read_splats(tmp_path / "plain.ply"), read_splats(tmp_path / "a.ply")
    assert torch.equal(plain.means, torch.from_numpy(values[:, :3]) * torch.tensor([1.0, -1.0, -1.0]))
    for name, value in vars(plain).items():
        assert torch.equal(getattr(found, name), value), name


def test_rows_of_no_use_are_left_out_with_their_number(tmp_path: Path) -> None:
    columns, values = names(4), table()
    values[1, columns.index("y")] = np.nan
    values[3, columns.index("scale_1")] = -np.inf
    values[4, columns.index("rot_0") :] = 0.0
    values[6, columns.index("f_rest_2")] = np.inf
    values[7, columns.index("opacity")] = np.inf  # the logit of 1: it is opaque
    (tmp_path / "a.ply").write_bytes(ply(values, columns))
    with pytest.warns(UserWarning, match=f"4 of {COUNT} Gaussians are left out"):
        found = read_splats(tmp_path / "a.ply")
    kept = [0, 2, 5, 7, 8, 9, 10, 11]
    assert torch.equal(found.means[:, 0], torch.from_numpy(values[kept, 0]))
    assert float(found.opacity_logits[3].sigmoid()) == pytest.approx(1.0, abs=1e-6)
    values[:, 0] = np.nan
    (tmp_path / "a.ply").write_bytes(ply(values, columns))
    with pytest.raises(UserError, match="holds no Gaussians whose numbers are finite"):
        read_splats(tmp_path / "a.ply")


def test_harmonics_of_degree_4_are_read_up_to_degree_3(tmp_path: Path) -> None:
    values = table(25)
    (tmp_path / "a.ply").write_bytes(ply(values, names(25)))
    with pytest.warns(UserWarning, match="degree 4: those above 3 are left out"):
        found = read_splats(tmp_path / "a.ply")
    assert found.sh.shape == (COUNT, 16, 3)
    # Half a turn about X leaves the function x alone, which is the fourth.
    assert torch.equal(found.sh[:, 3, 1], torch.from_numpy(values[:, names(25).index("f_rest_26")]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ply(table()[:, :3], ["x", "y", "z"]), "holds no 3D Gaussians: property opacity is missing"),
        (ply(table()[:0], names(4)), "it has no vertices"),
        (ply(table(), names(4))[:-1], "cut short"),
        (ply(table(), names(4), order="ascii")[:-40], "cut short"),
        (ply(table(), names(4), before="element k 1|property list uchar int of"), "lists before"),
        (ply(table(), names(4)).replace(b"vertex 12", b"vertex 99999999999999"), "cut short"),
    ],
)
def test_what_is_no_ply_of_gaussians_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.ply").write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_splats(tmp_path / "a.ply")


def test_a_mesh_and_gaussians_with_the_same_suffix_are_told_apart(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "mesh.ply")
    trimesh.creation.box().export(tmp_path / "mesh.glb")
    cloud = SplatParameters(*(torch.rand(5, *more) for more in ((3,), (4,), (3,), (), (1, 3)))).cloud()
    for name in ("a.ply", "a.compressed.ply", "a.splat", "a.spz", "a.sog", "a.splats.glb", "a.splats.usda"):
        write(cloud, tmp_path / name)
        assert holds_splats(tmp_path / name)
        asset, about = describe_asset(tmp_path / name)
        assert isinstance(asset, GaussianCloud)
        assert about.startswith(f"{name}: 5 Gaussians, up is ")
    for name in ("mesh.ply", "mesh.glb"):
        assert not holds_splats(tmp_path / name)
        assert isinstance(describe_asset(tmp_path / name)[0], TriMesh)


def spz(version: int) -> bytes:
    """One Gaussian at (1, -2, 3), a third of a turn about (1, 1, 1), by hand."""
    if version == 1:
        position = np.array([1.0, -2.0, 3.0], "<f2").tobytes()
    else:
        fixed = [int(value * 256) & 0xFFFFFF for value in (1.0, -2.0, 3.0)]
        position = b"".join(value.to_bytes(3, "little") for value in fixed)
    rotation = bytes([191, 191, 191])  # x, y and z of 0.498
    rest = bytes([128, 255, 128, 0, 160, 160, 144])
    content = struct.pack("<4sIIBBBB", b"NGSP", version, 1, 0, 8, 0, 0) + position + rest + rotation
    return gzip.compress(content)


@pytest.mark.parametrize("version", [1, 2])
def test_the_first_versions_of_spz(tmp_path: Path, version: int) -> None:
    (tmp_path / "a.spz").write_bytes(spz(version))
    found = read_splats(tmp_path / "a.spz")
    assert found.means.tolist() == [[1.0, -2.0, 3.0]]
    assert found.log_scales.tolist() == [[0.0, 0.0, -1.0]]
    torch.testing.assert_close(found.quats, torch.full((1, 4), 0.5), atol=8e-3, rtol=0.0)
    assert float(found.opacity_logits.sigmoid()) == pytest.approx(128 / 255)
    torch.testing.assert_close(found.sh[0, 0], torch.tensor([0.5, 0.002, -0.5]) / 0.15, atol=0.02, rtol=0.0)


@pytest.mark.parametrize("kind", ["count", "version", "short", "empty"])
def test_damaged_spz_is_one_line(tmp_path: Path, kind: str) -> None:
    content = bytearray(gzip.decompress(spz(2)))
    if kind == "count":
        content[8:12] = b"\xff\xff\xff\xff"
    elif kind == "version":
        content[4] = 9
    data = gzip.compress(bytes(content[:-3] if kind == "short" else content))
    (tmp_path / "a.spz").write_bytes(b"" if kind == "empty" else data)
    with pytest.raises(UserError, match=r"a\.spz is no \.spz file, or damaged"):
        read_splats(tmp_path / "a.spz")


def webp(pixels: list[list[int]]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.array([pixels], np.uint8)).save(content, "WEBP", lossless=True, exact=True)
    return content.getvalue()


def sog(folder: Path) -> None:
    """A .sog of the first version: bounds in place of tables. Gaussians at x = 0 and x = e - 1."""
    meta = {
        "means": {"shape": [2, 3], "mins": [0, 0, 0], "maxs": [1, 1, 1], "files": ["l.webp", "u.webp"]},
        "scales": {"mins": [-4, -4, -4], "maxs": [-2, -2, -2], "files": ["s.webp"]},
        "quats": {"encoding": "quaternion_packed", "files": ["q.webp"]},
        "sh0": {"mins": [-1, -1, -1, -5], "maxs": [1, 1, 1, 5], "files": ["c.webp"]},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    for name, pixels in {
        "l": [[0, 0, 0, 255], [255, 0, 0, 255]],
        "u": [[0, 0, 0, 255], [255, 0, 0, 255]],
        "s": [[0, 255, 0, 255]] * 2,
        "q": [[128, 128, 128, 252]] * 2,
        "c": [[0, 255, 0, 255]] * 2,
    }.items():
        (folder / f"{name}.webp").write_bytes(webp(pixels))


@pytest.mark.parametrize("packed", [False, True])
def test_the_first_version_of_sog_in_a_folder_and_in_an_archive(tmp_path: Path, packed: bool) -> None:
    sog(tmp_path)
    path = tmp_path / "meta.json"
    if packed:
        path = tmp_path / "a.sog"
        with zipfile.ZipFile(path, "w") as archive:
            for file in [*tmp_path.glob("*.webp"), tmp_path / "meta.json"]:
                archive.write(file, f"inner/{file.name}")
    assert holds_splats(path)
    found = read_splats(path)
    torch.testing.assert_close(found.means[:, 0], torch.tensor([0.0, np.e - 1]), atol=1e-5, rtol=0.0)
    assert found.log_scales.tolist() == [[-4.0, -2.0, -4.0]] * 2
    assert found.opacity_logits.tolist() == [5.0, 5.0]
    assert found.sh[0].tolist() == [[-1.0, 1.0, -1.0]]
    (tmp_path / "q.webp").unlink()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/meta.json").write_text('{"frames": []}')
    assert not holds_splats(tmp_path / "b/meta.json")
    if not packed:
        with pytest.raises(UserError, match=r"is no \.sog file, or damaged"):
            read_splats(path)


def a_cloud() -> GaussianCloud:
    rng = generator(0, "scene", 0)
    draws = [torch.randn(5, *more, generator=rng) for more in ((3,), (4,), (3,), (), (9, 3))]
    return SplatParameters(*draws).cloud()


TURN = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # a quarter turn about Z


def close(found: SplatParameters, expected: GaussianCloud) -> None:
    for name in ("means", "quats", "scales", "opacities", "sh"):
        one, two = getattr(found.cloud(), name), getattr(expected, name)
        if name == "quats":
            one, two = (torch.nn.functional.normalize(quats, dim=1) for quats in (one, two))
            two = two * (one * two).sum(1, keepdim=True).sign()
        torch.testing.assert_close(one, two, atol=2e-5, rtol=2e-5, msg=name)


def test_nodes_of_gltf_place_their_gaussians(tmp_path: Path) -> None:
    cloud = a_cloud()
    write(cloud, tmp_path / "a.splats.glb")
    data = (tmp_path / "a.splats.glb").read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    quat = quat_from_matrix(TURN).tolist()
    nodes: list[dict[str, object]] = [
        {"children": [1], "translation": [1, 2, 3]},
        {"mesh": 0, "rotation": [*quat[1:], quat[0]], "scale": [2, 2, 2]},
    ]
    tree["nodes"] = nodes

    def save() -> Path:
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 4)
        whole = struct.pack(
            "<4sIIII", b"glTF", 2, 20 + len(text) + len(data) - 20 - length, len(text), 0x4E4F534A
        )
        (tmp_path / "b.glb").write_bytes(whole + text + data[20 + length :])
        return tmp_path / "b.glb"

    close(read_splats(save()), transform(cloud, TURN, torch.tensor([1.0, 2.0, 3.0]), 2.0))
    nodes[1]["scale"] = [2, 1, 1]
    with pytest.raises(UserError, match="mirrors or stretches"):
        read_splats(save())
    nodes[1]["scale"] = [2, 2, 2]
    tree["accessors"][2]["count"] = 3
    with pytest.raises(UserError, match="not as many rotations, scales and colours as positions"):
        read_splats(save())
    tree["extensionsRequired"] = ["KHR_gaussian_splatting_compression_spz_2"]
    with pytest.raises(UserError, match="needs KHR_gaussian_splatting_compression_spz_2"):
        read_splats(save())


def test_prims_of_usd_place_their_gaussians_and_z_may_be_up(tmp_path: Path) -> None:
    Gf, Usd, UsdGeom = (pytest.importorskip(f"pxr.{name}") for name in ("Gf", "Usd", "UsdGeom"))
    cloud = a_cloud()
    write(cloud, tmp_path / "a.splats.usda", splats=SplatConfig(up="z"))
    close(read_splats(tmp_path / "a.splats.usda"), cloud)
    stage = Usd.Stage.Open(str(tmp_path / "a.splats.usda"))
    form = UsdGeom.Xformable(stage.GetPrimAtPath("/asset"))
    form.AddTranslateOp().Set(Gf.Vec3d(0, 0, 3))  # 3 up
    form.AddScaleOp().Set(Gf.Vec3f(2, 2, 2))
    stage.GetRootLayer().Export(str(tmp_path / "b.usda"))
    close(read_splats(tmp_path / "b.usda"), transform(cloud, None, torch.tensor([0.0, 3.0, 0.0]), 2.0))


def test_flat_gaussians_of_linear_formats_stay(tmp_path: Path) -> None:
    record = struct.pack("<6f8B", 1, 2, 3, 0.1, 0.2, 0.0, 255, 0, 0, 255, 255, 128, 128, 128)
    nothing = struct.pack("<6f8B", 1, 2, 3, 0, 0, 0, 255, 0, 0, 255, 255, 128, 128, 128)
    (tmp_path / "a.splat").write_bytes(record + nothing)
    with pytest.warns(UserWarning, match="1 of 2 Gaussians are left out"):
        found = read_splats(tmp_path / "a.splat")
    assert found.means.tolist() == [[1.0, -2.0, -3.0]]
    assert float(found.cloud().scales[0, 2]) == pytest.approx(2e-7, rel=1e-4)


def test_fit_takes_pictures_of_gaussians(tmp_path: Path) -> None:
    cloud = a_cloud()
    write(cloud, tmp_path / "a.splat")
    target = target_of(tmp_path / "a.splat", views=4, resolution=16)
    assert target.pictures.images.shape == (12, 16, 16, 3)
    assert float(target.pictures.alpha.max()) > 0.2
    assert "5 Gaussians, up is -y in the file; centred and scaled" in target.about
    with pytest.raises(UserError, match="--light is not for Gaussians"):
        target_of(tmp_path / "a.splat", light=0.5)


def test_nothing_is_said_of_files_that_are_whole(tmp_path: Path) -> None:
    write(a_cloud(), tmp_path / "a.sog")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, about = read_asset_splats(tmp_path / "a.sog", 0.9)
    assert "it is a file of threedgen, so they stay where they are" in about
