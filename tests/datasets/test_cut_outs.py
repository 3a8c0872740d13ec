"""The object of a picture: told from the background, centred, framed as the cameras see the unit sphere."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.cameras import orbit
from threedgen.datasets import cut_outs
from threedgen.datasets.background_removal import cut_out
from threedgen.datasets.cut_outs import FILL, RADIUS, cut_out_of, read_cut_out, write_cut_out
from threedgen.errors import UserError

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


def test_no_object():
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    grey = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)
    nearly = on(backgrounds()["white"], disc(), (253.0, 253.0, 253.0))
    halves = grey.copy()
    halves[:, SIDE // 2 :] = (200, 30, 20)
    for picture in (noise, grey, nearly, halves, backgrounds()["gradient"].astype(np.uint8)):
        with pytest.raises(UserError, match=r"no object stands out.*--mask"):
            cut_out(picture)


def save(path, rgb, alpha=None):
    array = rgb if alpha is None else np.dstack([rgb, np.round(255 * alpha).astype(np.uint8)])
    Image.fromarray(array).save(path)
    return path


def covered(*arguments) -> float:
    """The share that the line for the user names."""
    return int(cut_out_of(*arguments).about.rpartition(" ")[2].rstrip("%")) / 100


def test_what_tells_them_apart(tmp_path):
    """A mask comes before alpha, alpha before the border's colours."""
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
    """The object is centred and FILL of the frame large; beyond the picture's edge there is nothing."""
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
    """A ball of radius RADIUS fills FILL of what a camera of that frame sees."""
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
    small = save(tmp_path / "small.png", np.zeros((SIDE, SIDE - 1), dtype=np.uint8))
    for arguments, message in (
        ((clear,), "transparent all over"),
        ((tiny,), "pixels large, 16 are needed"),
        ((plain, black), "black all over"),
        ((plain, small), "must be of one size"),
        ((plain, tmp_path / "no.png"), "there is no mask"),
    ):
        with pytest.raises(UserError, match=message):
            cut_out_of(*arguments)


def test_rembg_is_asked_only_where_its_model_is(tmp_path, monkeypatch):
    """Without the model it would fetch one from the web."""
    cover = disc(10.0)
    fake = types.ModuleType("rembg")
    fake.new_session = lambda name: name  # type: ignore[attr-defined]
    fake.remove = lambda image, session, only_mask: Image.fromarray(  # type: ignore[attr-defined]
        np.round(255 * cover).astype(np.uint8)
    )
    fake.__spec__ = types.SimpleNamespace(name="rembg")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "rembg", fake)
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    path = save(tmp_path / "a.png", on(backgrounds()["white"], disc()))
    assert covered(path) == pytest.approx(0.2, abs=0.015)
    (tmp_path / "u2net.onnx").write_bytes(b"weights")
    assert covered(path) == pytest.approx(0.034, abs=0.01)
