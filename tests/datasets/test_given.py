"""Given views: shuffled epochs, held-out views, and one line for every broken folder."""

from __future__ import annotations

import json
import zlib
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.datasets import multiview
from threedgen.datasets.given import GivenViews, held_out, read_pictures
from threedgen.datasets.multiview import PosedPictures, write_srn, write_transforms


def some_pictures(count: int = 10, height: int = 8, width: int = 12) -> PosedPictures:
    cameras = orbit(
        torch.arange(count) * 37.0,
        torch.linspace(-60, 60, count),
        torch.full((count,), 2.8),
        40.0,
        height,
        width,
    )
    rng = torch.Generator().manual_seed(0)
    alpha = torch.rand(count, height, width, 1, generator=rng).round()
    images = torch.rand(count, height, width, 3, generator=rng) * alpha + (1 - alpha)
    return PosedPictures(images, alpha, cameras)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("given")
    write_transforms(path, some_pictures())
    return path


def sampler(path, **settings: Any):
    return GivenViews(GivenViews.Config(path=str(path), **settings))


def drawn_at(views: GivenViews, seed: int, step: int) -> list[int]:
    index = views(seed, step, 100).index
    assert index is not None
    return index.tolist()


@settings(max_examples=50)
@given(total=st.integers(1, 200), data=st.data())
def test_held_out_views_are_distinct_in_order_and_evenly_spread(total, data):
    holdout = data.draw(st.integers(0, total))
    chosen = held_out(total, holdout).tolist()
    assert len(chosen) == holdout
    assert chosen == sorted(set(chosen))
    assert all(0 <= index < total for index in chosen)
    gaps = {b - a for a, b in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(("batch", "holdout"), [(1, 0), (3, 2), (4, 3), (16, 3)])
def test_every_epoch_shows_every_training_view_once(folder, batch, holdout):
    views = sampler(folder, batch=batch, holdout=holdout)
    count = 10 - holdout
    drawn = torch.tensor([i for step in range(3 * count) for i in drawn_at(views, 7, step)])
    for epoch in drawn[: len(drawn) // count * count].reshape(-1, count):
        assert epoch.sort().values.tolist() == views.train.tolist()
    assert not set(drawn.tolist()) & set(views.held_out.tolist())
    assert sorted([*views.train.tolist(), *views.held_out.tolist()]) == list(range(10))


def test_draws_depend_on_the_arguments_alone_and_epochs_differ(folder):
    views, again = sampler(folder, batch=5), sampler(folder, batch=5)
    first = [drawn_at(views, 3, step) for step in range(8)]
    state = torch.get_rng_state()
    assert [drawn_at(again, 3, step) for step in reversed(range(8))] == first[::-1]
    assert torch.equal(torch.get_rng_state(), state)
    assert first[0] + first[1] != first[2] + first[3]
    assert [drawn_at(views, 4, step) for step in range(8)] != first


def test_a_view_has_the_camera_of_its_picture_at_any_size(folder):
    truth = read_pictures(folder).cameras
    views = sampler(folder, batch=6)(0, 0, 1)
    torch.testing.assert_close(views.world_from_camera, truth.world_from_camera[views.index])
    assert (views.height, views.width) == (8, 12)
    small = sampler(folder, batch=6, resolution={"from": 4, "to": 8})
    assert [(c.height, c.width) for c in (small(0, step, 3) for step in range(3))] == [
        (4, 6),
        (6, 9),
        (8, 12),
    ]
    torch.testing.assert_close(small(0, 0, 3).intrinsics[:, :2], views.intrinsics[:, :2] / 2)


def test_srn_and_transforms_give_the_same_views(folder, tmp_path):
    write_srn(tmp_path / "srn", some_pictures())
    one, two = (read_pictures(path) for path in (tmp_path / "srn", folder))
    torch.testing.assert_close(one.cameras.world_from_camera, two.cameras.world_from_camera)
    torch.testing.assert_close(one.cameras.intrinsics, two.cameras.intrinsics)
    torch.testing.assert_close(one.images, two.images, atol=1.01 / 255, rtol=0)
    assert torch.equal(read_pictures(folder / "transforms.json").images, two.images)


def edit(frame, **changes):
    frame.update(changes)


BROKEN = {
    "NaN": lambda d: edit(d["frames"][3], transform_matrix=[[float("nan")] * 4] * 4),
    "stretched": lambda d: edit(
        d["frames"][3],
        transform_matrix=[[2.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 3], [0, 0, 0, 1]],
    ),
    "mirrored": lambda d: edit(
        d["frames"][3],
        transform_matrix=[[-1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]],
    ),
    "last row": lambda d: edit(
        d["frames"][3],
        transform_matrix=[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 2]],
    ),
    "focal": lambda d: edit(d["frames"][3], fl_x=-5.0),
    "focal NaN": lambda d: edit(d["frames"][3], fl_x=float("nan")),
    "one": lambda d: edit(d, frames=d["frames"][:1]),
    "none": lambda d: edit(d, frames=[]),
}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("NaN", "picture 3 .* has a pose with NaN"),
        ("stretched", "picture 3 .* has a pose that is not a rotation"),
        ("mirrored", "picture 3 .* has a pose that is not a rotation"),
        ("last row", "picture 3 .* has a pose that is not a rotation"),
        ("focal", "picture 3 .* has no positive focal length"),
        ("focal NaN", "picture 3 .* has intrinsics with NaN"),
        ("one", "holds one picture"),
        ("none", "'frames' must list pictures"),
    ],
)
def test_broken_transforms(kind, message, tmp_path):
    write_transforms(tmp_path, some_pictures())
    file = tmp_path / "transforms.json"
    document = json.loads(file.read_text())
    BROKEN[kind](document)
    file.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message) as error:
        read_pictures(tmp_path)
    assert "\n" not in str(error.value)


def test_broken_folders(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    for path, message in (
        (tmp_path / "nowhere", "the folder is missing"),
        (tmp_path / "empty", "holds no posed pictures"),
        (tmp_path / "file.txt", "not a folder of pictures"),
    ):
        with pytest.raises(UserError, match=message):
            read_pictures(path)
    small = some_pictures(2, height=7)
    write_transforms(tmp_path / "small", small)
    with pytest.raises(UserError, match="12 x 7 pixels are too small"):
        read_pictures(tmp_path / "small")
    for path in ("x" * 5000, "a\0b", "~nosuchuser/x"):
        with pytest.raises(UserError, match="cannot look at"):
            read_pictures(path)
    with pytest.raises(UserError, match="the cameras name no folder"):
        GivenViews(GivenViews.Config())
    with pytest.raises(UserError, match="at least one must be left"):
        sampler(folder, holdout=10)
    wrong: list[dict[str, Any]] = [{"batch": 0}, {"holdout": -1}, {"resolution": 0.5}]
    for settings_ in wrong:
        with pytest.raises(UserError, match=f"{next(iter(settings_))} is .*; it must be at least"):
            GivenViews.Config(**settings_)


def header_of_a_large_picture(path, width=12_000, height=12_000):
    """A PNG whose header announces its size and whose pixels are not there: reading these would be an error."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x06\0\0\0") + chunk(b"IDAT", b""))


@pytest.mark.parametrize("number", [0, 3])
def test_a_picture_that_is_too_large_is_refused_by_its_header(number, tmp_path):
    write_transforms(tmp_path, some_pictures())
    header_of_a_large_picture(tmp_path / "images" / f"{number:06d}.png")
    with pytest.raises(UserError, match=rf"{number:06d}.png' has 12000 x 12000 pixels, at most 40 million"):
        read_pictures(tmp_path)


def test_pictures_that_are_too_large_together_are_refused_by_their_headers(tmp_path, monkeypatch):
    write_transforms(tmp_path, some_pictures())
    monkeypatch.setattr(multiview, "_MOST_PIXELS", 900)
    monkeypatch.setattr(multiview, "read_picture", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"pictures beside .*: make them smaller, or leave some out"):
        read_pictures(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform_matrix": [[1.0, 0, 0, 1e30], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]]}, "is more than"),
        ({"fl_x": 1e-30, "fl_y": 1e-30}, "has a focal length below 0.01 or above 10000 times"),
        ({"fl_y": 1e30}, "has a focal length below 0.01 or above 10000 times"),
        ({"cx": -1e9}, "has a principal point more than 100 times"),
        ({"cy": float("inf")}, "has intrinsics with NaN or infinite numbers"),
    ],
)
def test_a_camera_that_makes_no_sense_is_refused_with_the_name_of_its_picture(changes, message, tmp_path):
    write_transforms(tmp_path, some_pictures())
    file = tmp_path / "transforms.json"
    document = json.loads(file.read_text())
    document["frames"][3].update(changes)
    file.write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"picture 3 \(000003.png\) {message}"):
        read_pictures(tmp_path)


def test_a_pose_of_srn_that_makes_no_sense_is_refused_with_the_name_of_its_picture(tmp_path):
    write_srn(tmp_path, some_pictures())
    pose = tmp_path / "pose" / "000002.txt"
    words = pose.read_text().split()
    words[3] = "1e30"
    pose.write_text(" ".join(words))
    with pytest.raises(UserError, match=r"picture 2 \(000002.png\) is more than 100000 world units away"):
        read_pictures(tmp_path)
