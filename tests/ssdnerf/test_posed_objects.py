from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.datasets.multiview import PosedPictures, write_srn, write_transforms
from threedgen.datasets.objects import ObjectSet, open_objects
from threedgen.renderers.volumetric import camera_rays
from threedgen.ssdnerf import posed_objects
from threedgen.ssdnerf.posed_objects import PosedObjects, open_packed, pack

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def pictures(tag: int, views: int = 4, height: int = 9, width: int = 12) -> PosedPictures:
    """Pictures of noise with cameras all around, in which every pixel has another colour."""
    rng = generator(0, "pictures", tag)
    images = torch.randint(256, (views, height, width, 3), generator=rng) / 255.0
    turn = 360.0 * torch.rand(views, generator=rng)
    cameras = orbit(turn, 0.1 * turn, torch.full((views,), 2.5), 50.0, height, width)
    return PosedPictures(images, torch.ones(views, height, width, 1), cameras)


def object_set(*items: PosedPictures) -> ObjectSet:
    return ObjectSet([f"s{i}" for i in range(len(items))], lambda i: items[i], lambda i: f"a thing {i}")


def write_set(folder: Path, count: int = 4) -> Path:
    for index in range(count):
        (write_transforms if index == 1 else write_srn)(folder / f"car{index}", pictures(index))
    return folder


class Log:
    """A progress function that counts its calls. There are none if a packing was used again."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


def packed(source: ObjectSet | str | Path, folder: Path, **options: object) -> tuple[PosedObjects, Log]:
    objects = source if isinstance(source, ObjectSet) else open_objects(str(source))
    log = Log()
    found = pack(objects, folder, progress=log, **options)  # pyright: ignore[reportArgumentType]
    return found, log


def message(call: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pictures_and_cameras_come_back(tmp_path: Path):
    items = pictures(0), pictures(1, views=2, height=5, width=7), pictures(2, views=7)
    found, log = packed(object_set(*items), tmp_path)
    assert log.calls == [(1, 3), (2, 3), (3, 3)]
    for opened in (found, open_packed(tmp_path)):
        assert (len(opened), opened.names, opened.captions[2]) == (3, ["s0", "s1", "s2"], "a thing 2")
        assert opened.skipped == ()
        for index, item in enumerate(items):
            assert opened.views(index) == len(item.images)
            assert torch.equal(opened.pictures(index), (item.images * 255.0).round().byte())
            cameras = opened.cameras(index)
            assert (cameras.height, cameras.width) == item.images.shape[1:3]
            assert (cameras.near, cameras.far) == (item.cameras.near, item.cameras.far)
            for name in ("world_from_camera", "intrinsics", "time"):
                assert torch.equal(getattr(cameras, name), getattr(item.cameras, name)), name


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_rays_are_those_of_the_pixels_with_their_colours(
    tmp_path_factory: pytest.TempPathFactory, views: int, height: int, width: int, seed: int
):
    item = pictures(seed, views, height, width)
    found = pack(object_set(item), tmp_path_factory.mktemp("packed"))
    cameras, colors = found.rays(0, 50, generator(seed, "draw", 0))
    assert (len(cameras), cameras.height, cameras.width, *colors.shape) == (50, 1, 1, 50, 3)
    every, drawn = camera_rays(item.cameras, BOX, None), camera_rays(cameras, BOX, None)
    distance = torch.cdist(torch.cat([drawn.origins, drawn.directions], 1),
                           torch.cat([every.origins, every.directions], 1))  # fmt: skip
    nearest, pixel = distance.min(dim=1)
    assert nearest.max() < 1e-5
    torch.testing.assert_close(colors, item.images.reshape(-1, 3)[pixel], rtol=0, atol=1e-6)


def test_every_pixel_is_drawn_equally_often(tmp_path: Path):
    item = pictures(3, views=3, height=4, width=5)
    found = pack(object_set(item), tmp_path)
    count = 60 * 600
    colors = (found.rays(0, count, generator(0, "draw", 0))[1] * 255.0).round().long()
    seen = (colors[:, None] == (item.images.reshape(-1, 3) * 255.0).round().long()).all(2).sum(0)
    assert int(seen.sum()) == count
    square = ((seen - 600) ** 2 / 600.0).sum()
    assert square < 103.0  # chi squared with 59 degrees of freedom: one in 3,000 is above


def test_a_draw_is_a_function_of_its_generator(tmp_path: Path):
    found = pack(object_set(pictures(0), pictures(1)), tmp_path)
    first, again = (found.rays(1, 30, generator(4, "draw", 2)) for _ in range(2))
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[0].intrinsics, again[0].intrinsics)
    assert not torch.equal(first[1], found.rays(1, 30, generator(4, "draw", 3))[1])


def test_pictures_with_transparency_are_on_white(tmp_path: Path):
    cameras = pictures(0, 2).cameras
    alpha = torch.zeros(2, 9, 12, 1)
    alpha[:, :4] = 1.0
    images = torch.where(alpha > 0, torch.tensor([1.0, 0.0, 0.0]), torch.ones(3))
    write_transforms(tmp_path / "set" / "red", PosedPictures(images, alpha, cameras))
    found, _ = packed(tmp_path / "set", tmp_path / "packed")
    assert torch.equal(found.pictures(0), (images * 255.0).byte())
    colors = found.rays(0, 200, generator(0, "draw", 0))[1]
    assert ((colors == torch.tensor([1.0, 0.0, 0.0])) | (colors == 1.0)).all()
    assert not (colors[:, 1] == 1.0).all()


@pytest.mark.parametrize(
    ("views", "kept"), [(1, [2]), (2, [1, 3]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_the_views_kept_are_spread_over_the_list(tmp_path: Path, views: int, kept: list[int]):
    item = pictures(0, views=5)
    found = pack(object_set(item, pictures(1, views=1)), tmp_path, views=views)
    assert torch.equal(found.pictures(0), (item.images[kept] * 255.0).round().byte())
    assert torch.equal(found.cameras(0).world_from_camera, item.cameras.world_from_camera[kept])
    assert found.views(1) == 1


def test_many_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(posed_objects, "BYTES_PER_SHARD", 2000)  # 1296 bytes for each object: two in a shard
    items = [pictures(tag) for tag in range(5)]
    found, _ = packed(object_set(*items), tmp_path)
    assert len(list(tmp_path.glob("pictures-*.safetensors"))) == 3
    for index, item in enumerate(items):
        assert torch.equal(found.pictures(index), (item.images * 255.0).round().byte())
        assert torch.equal(found.cameras(index).world_from_camera, item.cameras.world_from_camera)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_no_pictures_stay_mapped(tmp_path: Path):
    found = pack(object_set(pictures(0), pictures(1)), tmp_path)
    for index in range(2):
        found.rays(index, 10, generator(0, "draw", index))
        found.pictures(index)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)


def all_white(path: Path) -> None:
    """As one car of SRN is published."""
    for picture in path.glob("*.png"):
        imageio.imwrite(picture, np.full((9, 12, 3), 255, dtype=np.uint8))


def not_finite(path: Path) -> None:
    path.write_text(path.read_text().replace(path.read_text().split()[3], "nan", 1))


def no_pictures(path: Path) -> None:
    for picture in path.glob("*.png"):
        picture.unlink()


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing pose": ("pose/000002.txt", Path.unlink, "pose/000002.txt"),
    "truncated picture": ("rgb/000001.png", cut, "rgb/000001.png"),
    "garbled picture": ("rgb/000001.png", garble, "rgb/000001.png"),
    "no picture": ("rgb/000001.png", lambda path: path.write_bytes(b""), "rgb/000001.png"),
    "nothing to see": ("rgb", all_white, "show nothing but background"),
    "pose with NaN": ("pose/000002.txt", not_finite, "pose/000002.txt"),
    "short pose": ("pose/000002.txt", lambda path: path.write_text("1 2 3"), "pose/000002.txt"),
    "no views": ("rgb", no_pictures, "rgb"),
    "bad intrinsics": ("intrinsics.txt", lambda path: path.write_text("nan 0 0 0"), "intrinsics.txt"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bad_object_is_an_error_or_is_left_out(tmp_path: Path, kind: str):
    source, (name, damage, shown) = write_set(tmp_path / "set"), DAMAGE[kind]
    damage(source / "car2" / name)
    objects = open_objects(str(source))
    text = message(pack, objects, tmp_path / "packed", strict=True)
    assert "object 'car2' cannot be used" in text
    assert "car2" in text.partition("cannot be used")[2]
    assert shown in text
    assert not (tmp_path / "packed" / posed_objects.INDEX).exists()
    found = pack(objects, tmp_path / "packed", strict=False)
    assert found.names == ["car0", "car1", "car3"]
    ((skipped, reason),) = found.skipped
    assert skipped == "car2"
    assert shown in reason
    assert torch.equal(found.pictures(2), (pictures(3).images * 255.0).round().byte())
    found.rays(2, 10, generator(0, "draw", 0))


def with_pose(item: PosedPictures, value: float) -> PosedPictures:
    poses = item.cameras.world_from_camera.clone()
    poses[1, 0, 3] = value
    return PosedPictures(item.images, item.alpha, replace(item.cameras, world_from_camera=poses))


def test_sets_of_any_kind_are_checked(tmp_path: Path):
    good, nothing = pictures(0), pictures(1, views=0)
    bright = PosedPictures(good.images / 0.0, good.alpha, good.cameras)
    fewer = PosedPictures(good.images[:2], good.alpha[:2], good.cameras)
    for bad, reason in (
        (with_pose(good, float("nan")), "picture 1 has a pose with NaN"),
        (bright, "a picture with NaN"),
        (fewer, "do not fit 4 cameras"),
        (nothing, "holds no pictures"),
    ):
        text = message(pack, object_set(good, bad), tmp_path)
        assert reason in text
        assert "object 's1'" in text
        assert pack(object_set(good, bad), tmp_path, strict=False).skipped[0][0] == "s1"


def test_a_set_without_a_good_object_is_an_error_either_way(tmp_path: Path):
    source = write_set(tmp_path / "set", 2)
    for name in ("car0", "car1"):
        for picture in (source / name).rglob("*.png"):
            picture.write_bytes(b"no")
    text = message(pack, open_objects(str(source)), tmp_path / "packed", strict=False)
    assert "none of the 2 objects can be used" in text
    assert "car0" in text
    assert "no objects" in message(pack, object_set(), tmp_path / "packed")
    assert "at least one view" in message(pack, object_set(pictures(0)), tmp_path / "packed", views=0)


def test_a_packing_is_used_again_for_the_same_objects_and_views_only(tmp_path: Path):
    def repack(*items: PosedPictures, views: int | None = None) -> bool:
        return bool(packed(object_set(*items), tmp_path, views=views)[1].calls)

    first, second, third = pictures(0), pictures(1), pictures(2)
    assert repack(first, second, third)
    assert not repack(first, second, third)
    assert repack(first, second, third, views=2)
    assert not repack(first, second, third, views=2)
    assert repack(first, second, views=2)
    assert repack(first, third, views=2)
    assert repack(pictures(5), third, views=2)
    captioned = ObjectSet(["s0", "s1"], lambda i: (pictures(5), third)[i])
    assert packed(captioned, tmp_path, views=2)[1].calls


def test_a_packing_without_broken_objects_is_used_again_until_they_are_repaired(tmp_path: Path):
    source = write_set(tmp_path / "set")
    pose = source / "car1" / "images" / "000001.png"
    good = pose.read_bytes()
    cut(pose)
    assert packed(source, tmp_path / "packed", strict=False)[1].calls
    again, log = packed(source, tmp_path / "packed", strict=False)
    assert (len(again), len(again.skipped), log.calls) == (3, 1, [])
    assert "object 'car1'" in message(pack, open_objects(str(source)), tmp_path / "packed", strict=True)
    assert len(open_packed(tmp_path / "packed")) == 3  # the packing is still there
    pose.write_bytes(good)
    repaired, log = packed(source, tmp_path / "packed", strict=True)
    assert (len(repaired), repaired.skipped, len(log.calls)) == (4, (), 4)


def test_a_packing_that_was_stopped_is_done_again(tmp_path: Path):
    source = object_set(pictures(0), pictures(1), pictures(2))
    pack(object_set(pictures(7)), tmp_path)

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path, progress=stop)
    assert posed_objects.INDEX in message(open_packed, tmp_path)
    assert len(packed(source, tmp_path)[1].calls) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        posed_objects.CAMERAS, posed_objects.INDEX, "pictures-00000.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [posed_objects.CAMERAS, posed_objects.INDEX, "pictures-00000.safetensors"])
@pytest.mark.parametrize("damage", ["short", "empty", "missing"])
def test_a_damaged_packing_is_named_and_made_again(tmp_path: Path, name: str, damage: str):
    source = object_set(pictures(0), pictures(1))
    pack(source, tmp_path)
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3] if damage == "short" else b"")
    assert name in message(open_packed, tmp_path)
    found, log = packed(source, tmp_path)
    assert (len(found), len(log.calls)) == (2, 2)


@pytest.mark.parametrize(
    "change",
    [{"format": 0}, {"scenes": []}, {"scenes": [{}]}, {"scenes": 3}, {"skipped": [1]}, {"scenes": [None]}],
)
def test_an_index_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, object]):
    pack(object_set(pictures(0), pictures(1)), tmp_path)
    path = tmp_path / posed_objects.INDEX
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert posed_objects.INDEX in message(open_packed, tmp_path)


@pytest.mark.parametrize(("near", "far"), [(1e30, 100.0), (-1.0, 2.0), (1.0, float("inf")), (0.0, 1.0)])
def test_distances_of_an_index_that_make_no_sense_are_named(tmp_path: Path, near: float, far: float):
    pack(object_set(pictures(0), pictures(1)), tmp_path)
    path = tmp_path / posed_objects.INDEX
    values = json.loads(path.read_text())
    values["scenes"][1] |= {"near": near, "far": far}
    path.write_text(json.dumps(values))
    assert "the cameras of object 1" in message(open_packed, tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot" in message(pack, object_set(pictures(0)), tmp_path / "file" / "packed")


def test_a_source_that_a_training_does_not_need_is_refused_before_anything_is_replaced(tmp_path: Path):
    first = pack(open_objects("shape-world:car", 2, 8, "train", views=2), tmp_path / "scenes")
    before = (tmp_path / "scenes" / "index.json").read_bytes()
    other = open_objects("shape-world:mug", 2, 8, "train", views=2)
    with pytest.raises(UserError, match="on other objects or pictures"):
        pack(other, tmp_path / "scenes", needed=first.source)
    assert (tmp_path / "scenes" / "index.json").read_bytes() == before


@pytest.mark.parametrize("missing", ["intrinsics.txt", "rgb", "pose"])
def test_half_an_object_is_not_passed_over(tmp_path: Path, missing: str):
    """It is an object that cannot be used, so it is named or counted."""
    folder = tmp_path / "cars"
    for index in range(3):
        write_srn(folder / f"car{index}", pictures(index))
    gone = folder / "car1" / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    objects = open_objects(str(folder))
    assert len(objects) == 3
    with pytest.raises(UserError, match=objects.names[1]):
        pack(objects, tmp_path / "scenes")
    assert [name for name, _ in pack(objects, tmp_path / "scenes", strict=False).skipped] == [
        objects.names[1]
    ]


def test_a_file_is_no_set(tmp_path: Path):
    path = tmp_path / "cars.zip"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        open_objects(str(path))


def test_shape_world_sets_of_another_seed_or_size_are_others(tmp_path: Path):
    def repack(size: int, seed: int) -> bool:
        objects = open_objects("shape-world:cube", 2, size, "train", seed, views=2)
        return bool(packed(objects, tmp_path)[1].calls)

    assert repack(16, 0)
    assert not repack(16, 0)
    assert repack(16, 1)
    assert repack(20, 1)
