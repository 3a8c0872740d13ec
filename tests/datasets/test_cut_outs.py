"""Cut-outs: the object is separated from the background, centred, and framed as the cameras see the unit sphere."""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.datasets import cut_outs
from threedgen.datasets.background_removal import cut_out
from threedgen.datasets.cut_outs import (
    FILL,
    RADIUS,
    cut_out_of,
    read_cut_out,
    read_nearness,
    write_cut_out,
    write_nearness,
)

SIDE = 96


def disc(radius: float = 24.0, x: float = 52.0, y: float = 44.0, side: int = SIDE) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] + 0.5
    return np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0.0, 1.0)


def on(background: np.ndarray, cover: np.ndarray, color=(190.0, 60.0, 40.0)) -> np.ndarray:
    object_ = np.broadcast_to(np.array(color), background.shape)
    mixed = background * (1 - cover[..., None]) + object_ * cover[..., None]
    return np.round(np.clip(mixed, 0, 255)).astype(np.uint8)


def overlap(alpha: np.ndarray, truth: np.ndarray) -> float:
    a, b = alpha > 127, truth > 0.5
    return float((a & b).sum() / (a | b).sum())


def backgrounds() -> dict[str, np.ndarray]:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    rng = np.random.default_rng(0)
    white = np.full((SIDE, SIDE, 3), 255.0)
    gradient = np.stack([90 + 100 * y, 130 + 60 * x, 210 - 80 * y], axis=2)
    # A sky over a table with stripes, and grain.
    busy = np.where((y < 0.6)[..., None], [120.0, 160.0, 220.0], [150.0, 140.0, 120.0])
    busy = busy - 110.0 * ((x * 8).astype(int) % 2 == 0)[..., None] + 5.0 * rng.standard_normal(busy.shape)
    return {"white": white, "gradient": gradient, "busy": busy}


@pytest.mark.parametrize("name", backgrounds())
def test_the_border_tells_the_background(name):
    alpha = cut_out(on(backgrounds()[name], disc()))
    assert overlap(alpha, disc()) > 0.95


def test_a_hole_stays_and_a_spot_of_the_backgrounds_colour_is_filled():
    ring = disc() - disc(8.0)
    alpha = cut_out(on(backgrounds()["white"], ring))
    assert overlap(alpha, ring) > 0.93
    shades = 250.0 - 12.0 * disc(5.0)[..., None] * np.ones(3)  # nearly white, with shades
    spotted = on(backgrounds()["white"], ring)
    inner = disc(8.0) > 0.5
    spotted[inner] = np.round(shades[inner]).astype(np.uint8)
    assert overlap(cut_out(spotted), disc()) > 0.95


def test_dust_is_no_part_of_the_object():
    dusty = np.maximum(disc(), disc(3.0, 10.0, 85.0))
    for name in ("white", "busy"):
        alpha = cut_out(on(backgrounds()[name], dusty))
        assert overlap(alpha, disc()) > 0.95
        assert alpha[80:90, 5:15].max() < 128


def test_the_objects_colour_at_the_border_is_background():
    object_ = disc(18.0, 44.0, 44.0)
    marked = np.maximum(object_, disc(14.0, 96.0, 70.0))  # half of it is outside the picture
    alpha = cut_out(on(textures()["clouds"], marked))
    assert overlap(alpha[:, :75], object_[:, :75]) > 0.95
    assert alpha[:, -2:].max() < 128


def test_no_object():
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    grey = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)
    nearly = on(backgrounds()["white"], disc(), (253.0, 253.0, 253.0))
    halves = grey.copy()
    halves[:, SIDE // 2 :] = (200, 30, 20)
    for picture in (noise, grey, nearly, halves, backgrounds()["gradient"].astype(np.uint8)):
        with pytest.raises(UserError, match=r"no object stands out.*--mask"):
            cut_out(picture)


def textures() -> dict[str, np.ndarray]:
    """Backgrounds far from a smooth surface: clouds, tiles, stripes, a wall above a table; all with noise."""
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    rng = np.random.default_rng(1)
    clouds = np.stack([gaussian_filter(rng.standard_normal((SIDE, SIDE)), 7.0) for _ in range(3)], axis=2)
    clouds = np.array([90.0, 130.0, 110.0]) + 30.0 * clouds / clouds.std()
    tiles = np.where(
        ((x * 6).astype(int) + (y * 6).astype(int))[..., None] % 2, [70, 90, 140], [120, 150, 170]
    )
    stripes = np.array([120.0, 140.0, 90.0]) + 50.0 * np.sin(40.0 * (x + 0.4 * y))[..., None]
    boards = np.stack([150 - 60 * (x % 0.2 < 0.1), 0 * x + 130, 0 * x + 90], axis=2)
    table = np.where((y < 0.6)[..., None], [120.0, 160.0, 220.0], boards)
    return {
        name: np.clip(texture + 6.0 * rng.standard_normal((SIDE, SIDE, 3)), 0, 255)
        for name, texture in (("clouds", clouds), ("tiles", tiles), ("stripes", stripes), ("table", table))
    }


def person(side: int = SIDE) -> np.ndarray:
    """A head on a body with two legs: an outline that is neither round nor convex."""
    y, x = np.mgrid[:side, :side] + 0.5
    head = np.hypot(x - 50, y - 26) < 11
    body = (np.abs(x - 50) < 17) & (y > 36) & (y < 64)
    legs = ((np.abs(x - 40) < 6) | (np.abs(x - 60) < 6)) & (y >= 64) & (y < 84)
    return (head | body | legs).astype(float)


@pytest.mark.parametrize("cover", [disc(), person()], ids=["disc", "person"])
@pytest.mark.parametrize("name", textures())
def test_textured_backgrounds(name, cover):
    """The case for GrabCut. The object has two colours that the background lacks."""
    two = np.where((np.mgrid[:SIDE, :SIDE][0] < 48)[..., None], [200.0, 60.0, 40.0], [235.0, 190.0, 60.0])
    alpha = cut_out(on(textures()[name], cover, two))
    assert overlap(alpha, cover) > 0.93


def test_the_outline_is_refined_at_the_pictures_own_size():
    """The cut is made at 192 pixels per side; the alpha of a larger picture is finer than that."""
    side = 600
    cover = disc(170.0, 310.0, 290.0, side)
    background = np.random.default_rng(0).normal([110, 150, 190], 12.0, (side, side, 3))
    alpha = cut_out(on(background, cover))
    assert overlap(alpha, cover) > 0.985
    soft = (alpha > 10) & (alpha < 245)
    assert soft.sum() < 2 * 2 * np.pi * 170 * 3, "soft in a narrow band alone"
    away = np.abs(np.hypot(*(np.mgrid[:side, :side] + 0.5 - np.array([290, 310])[:, None, None])) - 170)
    assert away[soft].max() < 8


def test_what_reaches_the_border_is_background():
    """A frame is no object; an object that reaches the border is one."""
    framed = np.full((48, 192, 3), 255, dtype=np.uint8)
    rng = np.random.default_rng(0)
    framed[6:-6, 6:-6] = rng.integers(0, 200, (36, 180, 1)) + np.array([0, 30, 55], dtype=np.uint8)
    with pytest.raises(UserError, match="no object stands out"):
        cut_out(framed)
    framed[8:-8, 8:-8] = 255  # an object that is only a frame is none
    with pytest.raises(UserError, match="no object stands out"):
        cut_out(framed)
    filled = np.full((192, 192, 3), 255, dtype=np.uint8)
    filled[7:-7, 7:-7] = (40, 90, 200)  # nearly all of the picture, but nothing along the border
    with pytest.raises(UserError, match="no object stands out"):
        cut_out(filled)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    standing = np.maximum(disc(), (np.abs(x - 52) < 6) & (y > 44))
    alpha = cut_out(on(backgrounds()["gradient"], standing))
    assert overlap(alpha, standing) > 0.9


def save(path, rgb, alpha=None):
    array = rgb if alpha is None else np.dstack([rgb, np.round(255 * alpha).astype(np.uint8)])
    Image.fromarray(array).save(path)
    return path


def covered(*arguments) -> float:
    """The share of the object in the line for the user."""
    return int(cut_out_of(*arguments).about.rpartition(" ")[2].rstrip("%")) / 100


def test_what_tells_them_apart(tmp_path):
    """A mask has precedence over alpha, and alpha over the colours of the border."""
    picture = on(backgrounds()["white"], disc())
    plain = save(tmp_path / "plain.png", picture)
    transparent = save(tmp_path / "alpha.png", picture, disc(12.0))
    mask = save(tmp_path / "mask.png", np.round(255 * disc(9.0)).astype(np.uint8))
    for source, found in (
        ("border", cut_out_of(plain)),
        ("alpha", cut_out_of(transparent)),
        ("mask", cut_out_of(transparent, mask)),
    ):
        assert found.source == source
        assert "\n" not in found.about
    assert covered(plain) == pytest.approx(0.2, abs=0.015)
    assert covered(transparent) == pytest.approx(0.05, abs=0.01)
    assert covered(plain, mask) == pytest.approx(0.028, abs=0.01)


@pytest.mark.parametrize("center", [(52.0, 44.0), (24.0, 70.0), (90.0, 48.0)])
def test_framing(tmp_path, center):
    """The object is centred and as large as FILL of the frame, which is transparent beyond the edge of the
    picture."""
    cover = disc(20.0, *center)
    path = save(tmp_path / "a.png", on(backgrounds()["busy"], cover), cover)
    alpha = cut_out_of(path, size=200).rgba[..., 3]
    rows, columns = np.nonzero(alpha > 127)
    box = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    assert abs(box[0] + box[1] - 200) <= 3
    assert abs(box[2] + box[3] - 200) <= 3
    whole = center[0] + 20 <= SIDE
    assert not whole or abs((box[1] - box[0]) / 200 - FILL) < 0.04


def test_the_frame_is_the_cameras():
    """A ball of radius RADIUS fills the share FILL of the picture of the camera of a cut-out."""
    camera = orbit(torch.zeros(1), torch.zeros(1), torch.tensor([cut_outs.DISTANCE]), cut_outs.FOV, 64, 64)
    tangent = RADIUS / (cut_outs.DISTANCE**2 - RADIUS**2) ** 0.5
    assert abs(2 * tangent * float(camera.intrinsics[0, 0, 0]) / 64 - FILL) < 1e-5
    assert RADIUS < 1.0


def test_no_background_bleeds_into_the_outline(tmp_path):
    """Red on blue without alpha: half-transparent pixels of the cut-out are red, not violet."""
    blue = np.full((SIDE, SIDE, 3), (20.0, 30.0, 220.0))
    rgba = cut_out_of(save(tmp_path / "a.png", on(blue, disc()))).rgba
    soft = (rgba[..., 3] > 20) & (rgba[..., 3] < 235)
    assert soft.any()
    assert rgba[soft][:, 2].mean() < 60


def test_what_is_written_is_read_again_on_white(tmp_path):
    cover = disc(20.0)
    made = cut_out_of(save(tmp_path / "a.png", on(backgrounds()["white"], cover), cover), size=64)
    write_cut_out(tmp_path / "below" / "c.png", made)
    image, alpha = read_cut_out(tmp_path / "below" / "c.png")
    assert image.shape == (64, 64, 3)
    torch.testing.assert_close(alpha[..., 0], torch.from_numpy(made.rgba[..., 3].astype(np.float32)) / 255)
    torch.testing.assert_close(image[0, 0], torch.ones(3))
    with pytest.raises(UserError, match="is no cut-out"):
        read_cut_out(save(tmp_path / "b.png", on(backgrounds()["white"], cover)))


def test_bad_objects(tmp_path):
    picture = on(backgrounds()["white"], disc())
    clear = save(tmp_path / "clear.png", picture, np.zeros((SIDE, SIDE)))
    tiny = save(tmp_path / "tiny.png", picture, disc(4.0))
    plain = save(tmp_path / "plain.png", picture)
    black = save(tmp_path / "black.png", np.zeros((SIDE, SIDE), dtype=np.uint8))
    small = save(tmp_path / "small.png", np.round(255 * disc(9.0)[:, :-1]).astype(np.uint8))
    glass = save(tmp_path / "glass.png", picture, 0.4 * disc())
    for arguments, message in (
        ((clear,), "transparent all over"),
        ((glass,), "at most 40% opaque"),
        ((tiny,), "pixels large, 16 are needed"),
        ((plain, black), "black all over"),
        ((plain, small), "must be of one size"),
        ((plain, tmp_path / "no.png"), "there is no mask"),
    ):
        with pytest.raises(UserError, match=message):
            cut_out_of(*arguments)


@pytest.mark.parametrize("source", ["alpha", "mask", "border"])
def test_stray_pixels_do_not_move_the_frame(tmp_path, source):
    """Parts far smaller than the object are left out and counted; a part of some size belongs to it."""
    cover, white = disc(20.0, 50.0, 40.0), backgrounds()["white"]
    stray = cover.copy()
    stray[2, 2] = stray[90, 90] = 1.0
    stray[2, 3] = 0.3

    def found(shown):
        name = tmp_path / "a.png"
        if source == "mask":
            mask = save(tmp_path / "m.png", np.round(255 * shown).astype(np.uint8))
            return cut_out_of(save(name, on(white, cover)), mask)
        return cut_out_of(save(name, on(white, shown), shown if source == "alpha" else None))

    clean, dusty = found(cover), found(stray)
    assert "left out" not in clean.about
    assert np.abs(clean.rgba[..., 3].astype(int) - dusty.rgba[..., 3]).mean() < 1.0
    if source != "border":
        assert dusty.about.endswith("; 2 specks were left out")
        beside = found(np.maximum(cover, disc(4.0, 84.0, 84.0)))
        assert "left out" not in beside.about
        assert beside.rgba[380:, 380:, 3].max() == 255


def test_a_depth_picture_is_cut_like_the_picture(tmp_path):
    """It is scaled to the range of the object, and no depth of the background mixes in."""
    cover = disc(20.0, 60.0, 40.0)
    x = np.mgrid[:SIDE, :SIDE][1] + 0.5
    slope = 0.3 + 0.4 * (x - 40.0) / 40.0  # over the disc: 0.3 to 0.7
    depth = np.where(cover > 0.5, slope, 1.0)
    path = save(tmp_path / "a.png", on(backgrounds()["white"], cover), cover)
    Image.fromarray(np.round(65535 * depth).astype(np.uint16)).save(tmp_path / "d.png")
    for size in (40, 64, 300):
        made = cut_out_of(path, depth=tmp_path / "d.png", size=size)
        assert made.nearness is not None
        solid = made.rgba[..., 3] > 127
        place = ((np.arange(size) + 0.5) / size - 0.5) / FILL + 0.5
        expected = np.broadcast_to(place.clip(0, 1), (size, size))
        assert np.abs(made.nearness - expected)[solid].max() < 0.06
        assert made.nearness[0, 0] == 0
        write_nearness(tmp_path / "n.png", made.nearness)
        write_cut_out(tmp_path / "c.png", made)
        again = read_nearness(tmp_path / "n.png", tmp_path / "c.png")
        assert again.shape == (size, size, 1)
        assert np.abs(again[..., 0].numpy() - made.nearness).max() < 1e-4
    assert cut_out_of(path).nearness is None
    Image.new("L", (SIDE, SIDE), 80).save(tmp_path / "f.png")
    with pytest.raises(UserError, match="one depth for all of the object"):
        cut_out_of(path, depth=tmp_path / "f.png")


@pytest.fixture
def rembg(monkeypatch, tmp_path):
    """A package that records its environment when it makes a session; the object that it finds is a disc."""
    asked = []
    fake = types.ModuleType("rembg")

    def new_session(name):
        asked.append((name, os.environ["U2NET_HOME"], os.environ["MODEL_CHECKSUM_DISABLED"]))
        return name

    def remove(image, session, only_mask):
        assert (session, only_mask) == ("u2net", True)
        return Image.fromarray(np.round(255 * disc(10.0)).astype(np.uint8))

    fake.new_session, fake.remove = new_session, remove  # type: ignore[attr-defined]
    for name, module in (("rembg", fake), ("onnxruntime", types.ModuleType("onnxruntime"))):
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME", "MODEL_CHECKSUM_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return asked


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("", "home/.rembg/models/u2net"),
        ("", "home/.u2net"),
        ("U2NET_HOME", "own"),
        ("U2NET_HOME", "own/models/u2net"),
        ("REMBG_HOME", "own/models/u2net"),
        ("XDG_DATA_HOME", "own/rembg/models/u2net"),
        ("XDG_DATA_HOME", "own/.u2net"),
    ],
)
def test_rembg_is_asked_only_where_its_model_is(tmp_path, monkeypatch, rembg, variable, folder):
    """rembg would download a model that is missing, or whose checksum it does not know."""
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "own"))
    before = dict(os.environ)
    path = save(tmp_path / "a.png", on(backgrounds()["white"], disc()))
    assert covered(path) == pytest.approx(0.2, abs=0.015)
    assert rembg == []
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "u2net.onnx").write_bytes(b"weights")
    assert covered(path) == pytest.approx(0.034, abs=0.01)
    assert rembg == [("u2net", str(tmp_path / folder), "1")]
    assert dict(os.environ) == before
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # rembg would end the process
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(sys, "meta_path", [])
    assert covered(path) == pytest.approx(0.2, abs=0.015)
