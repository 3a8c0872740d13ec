"""Masks as programs write them show the object; what is no mask is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from threedgen.core.errors import UserError
from threedgen.datasets.masks import require_object
from threedgen.datasets.picture import LARGEST, read_mask, read_picture

WIDTH, HEIGHT = 48, 32


def sample() -> np.ndarray:
    """A photo in two colours."""
    picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture[:, : WIDTH // 2] = (200, 30, 20)
    picture[:, WIDTH // 2 :] = (20, 40, 210)
    return picture


def test_a_mask_has_the_pictures_size(tmp_path):
    Image.new("RGB", (2048, 1024)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    mask = np.zeros((1024, 2048), dtype=np.uint8)
    mask[:, 1024:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    found = read_mask(tmp_path / "m.png", picture)
    assert found.shape == picture.rgb.shape[:2]
    assert (found[:, : LARGEST // 2] == 0).all()
    assert (found[:, LARGEST // 2 :] == 255).all()
    Image.fromarray(mask[:, :-1]).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="2047 x 1024 pixels and the picture 2048 x 1024"):
        read_mask(tmp_path / "m.png", picture)


def _half(high, low=0, dtype: type = np.uint8):
    """A disc of `high` on `low`."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.where(np.hypot(rows - 15, columns - 20) < 10, high, low).astype(dtype)


def _mask_in_colours(at):
    picture = Image.fromarray(_half(1), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    picture.save(at)


def _cut_out_of_a_dark_thing(at):
    Image.fromarray(np.dstack([sample() // 8, _half(255)])).save(at)


def _white_and_black_below_transparency(at):
    """Of the black, half is transparent."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:2] = 0
    Image.fromarray(np.dstack([*3 * [_half(255)], alpha])).save(at)


@pytest.mark.parametrize(
    "write",
    [
        lambda at: Image.fromarray(_half(255)).save(at),
        lambda at: Image.fromarray(_half(255)).convert("1").save(at),
        lambda at: Image.fromarray(_half(1)).save(at),
        lambda at: Image.fromarray(_half(3)).save(at),
        lambda at: Image.fromarray(_half(1, dtype=np.uint16)).save(at),
        lambda at: Image.fromarray(_half(65535, dtype=np.uint16)).save(at),
        lambda at: Image.fromarray(np.dstack([_half(200), _half(0), _half(30)])).save(at),
        _mask_in_colours,
        _cut_out_of_a_dark_thing,
        _white_and_black_below_transparency,
    ],
    ids=["grey", "bit", "0 1", "0 3", "0 1 in 16 bits", "16 bits", "colour", "palette", "cut-out", "alpha"],
)  # fmt: skip
def test_masks_of_every_kind(tmp_path, write):
    Image.fromarray(sample()).save(tmp_path / "a.png")
    write(tmp_path / "m.png")
    found = read_mask(tmp_path / "m.png", read_picture(tmp_path / "a.png"))
    np.testing.assert_array_equal(found, _half(255))


def test_masks_that_show_no_object(tmp_path):
    Image.fromarray(sample()).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, sample().shape).astype(np.uint8)
    for mask, message in (
        (_half(0), "is black all over"),
        (np.dstack([*3 * [_half(0)], _half(0)]), "is black all over"),
        (_half(0, 255), "white along the edges .* exchange black and white"),
        (_half(0, 1), "white along the edges .* exchange black and white"),
        (noise, "is a coloured picture"),
    ):
        Image.fromarray(mask).save(tmp_path / "m.png")
        with pytest.raises(UserError, match=message):
            require_object(read_mask(tmp_path / "m.png", picture), tmp_path / "m.png")
