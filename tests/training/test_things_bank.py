"""The bank of things: batches are functions of (seed, step), show what captions say, and survive in the cache."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import pytest
import torch

from threedgen.core.errors import UserError
from threedgen.datasets.cut_outs import DISTANCE, FILL, bounding_circle
from threedgen.datasets.things.thing_class import COLORS
from threedgen.datasets.things.thing_set import forbidden_colors, thing_set
from threedgen.datasets.things.thing_views import SIDES, unseen_sides
from threedgen.datasets.things.wording import held_out_words
from threedgen.training.render_bank import ELEVATION, RADIUS
from threedgen.training.things_bank import Shares, ThingsBank
from threedgen.training.things_store import PieceFolder, stratified_views

WORDS = ["cat", "cube", "apple", "chair"]
FEW = {"catalogue": None, "instances": 3, "views": 4, "scene_count": 4}
ALONE = Shares(0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def bank() -> ThingsBank:
    return ThingsBank(16, 0, WORDS, **FEW)


@pytest.fixture
def library(tmp_path):
    """A furniture library of one object, a red box that is a pallet."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    sides = ("1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4")
    lines = [
        "mtllib box.mtl",
        *(f"v {x} {y} {z}" for x, y, z in corners),
        "usemtl red",
        *(f"f {s}" for s in sides),
    ]
    about = {
        "id": "Blend Swap CC-0#pallet",
        "name": "Box",
        "model": "/box/box.obj",
        "width": "50",
        "depth": "40",
        "height": "30",
    }
    with zipfile.ZipFile(folder / "boxes.sh3f", "w") as archive:
        listing = "".join(f"{key}#1={value}\n" for key, value in about.items())
        archive.writestr("PluginFurnitureCatalog.properties", listing)
        archive.writestr("box/box.obj", "\n".join(lines) + "\n")
        archive.writestr("box/box.mtl", "newmtl red\nKd 0.8 0.1 0.1\n")
    return folder


def same(first, second) -> bool:
    tensors = ("images", "layers", "cameras")
    equal = all(torch.equal(getattr(first, name), getattr(second, name)) for name in tensors)
    return equal and first.captions == second.captions


def test_a_batch_is_a_function_of_seed_and_step(bank):
    batch = bank.batch(12, 5, 7)
    assert batch.images.shape == (12, 16, 16, 3)
    assert batch.layers.shape == (12, 16, 16, 4)
    assert batch.cameras.shape == (12, 3)
    for values in (batch.images, batch.layers):
        assert values.min() >= 0.0
        assert values.max() <= 1.0
    bank.batch(3, 1, 1)
    assert same(batch, bank.batch(12, 5, 7))
    assert not same(batch, bank.batch(12, 5, 8))
    assert not same(batch, bank.batch(12, 6, 7))
    assert same(batch, ThingsBank(16, 0, WORDS, **FEW).batch(12, 5, 7))


def test_pictures_are_their_layers_on_one_background(bank):
    batch = bank.batch(16, 0, 0)
    rest = 1.0 - batch.layers[..., 3:]
    corner = (batch.images - batch.layers[..., :3])[:, 0, 0] / rest[:, 0, 0]
    torch.testing.assert_close(batch.images, batch.layers[..., :3] + rest * corner[:, None, None, :])


def test_every_word_is_drawn_equally_often_or_by_its_weight():
    def counts(weights):
        bank = ThingsBank(8, 0, WORDS, **FEW, shares=ALONE, weights=weights)
        texts = [text for step in range(40) for text in bank.batch(20, 0, step).captions]
        kinds = {"cat": r"cat|kitten", "cube": "cube", "apple": "apple", "chair": "chair"}
        return {
            word: sum(bool(re.search(kind, text)) for text in texts) / len(texts)
            for word, kind in kinds.items()
        }

    assert all(abs(share - 0.25) < 0.01 for share in counts(None).values())
    weighted = counts({"cat": 2.0, "cube": 0.0})
    assert abs(weighted["cat"] - 0.5) < 0.01
    assert weighted["cube"] == 0.0


def test_shares_of_scenes(bank):
    texts = [text for step in range(100) for text in bank.batch(20, 0, step).captions]
    pairs = sum(bool(re.search(r" (on|beside|next to|and an?|in front of) ", text)) for text in texts)
    counts = sum(bool(re.search(r"\b(two|three) ", text)) for text in texts)
    assert abs(counts / len(texts) - bank.shares.counts) < 0.02
    assert abs(pairs / len(texts) - bank.shares.pairs - 0.2 * bank.shares.shapes) < 0.03
    with pytest.raises(UserError, match="shares of a batch"):
        Shares(0.5, 0.5, 0.5)


def test_no_caption_names_what_is_held_out():
    words = ["cat", "dog", "cube", "horse", "teddy bear", "mug", "sofa", "chair"]
    bank = ThingsBank(4, 0, words, **FEW)
    texts = [text for step in range(60) for text in bank.batch(40, 0, step).captions]
    for text in texts:
        assert not any(re.search(rf"\b{word}\b", text) for word in held_out_words()), text
        for word in words:
            for color in forbidden_colors((word,)):
                assert not re.search(rf"\b{color}( and \w+)? {word}\b|\band {color} {word}\b", text), text
    assert any("kitten" in text for text in texts)


@pytest.mark.parametrize("word", ["cube", "cat"])
def test_colours_agree_with_captions(word):
    bank = ThingsBank(16, 0, [word], **FEW, shares=ALONE)
    seen = set()
    for step in range(12):
        batch = bank.batch(32, 0, step)
        for text, layers in zip(batch.captions, batch.layers, strict=True):
            named = [name for name in COLORS if name in text.split()]
            if len(named) != 1 or word not in text:
                continue
            inside = layers[layers[..., 3] > 0.95][:, :3]
            color = np.array(COLORS[named[0]])
            found = inside.median(dim=0).values.numpy() if word == "cat" else inside.mean(dim=0).numpy()
            away = {
                n: np.abs(found / max(found.max(), 0.2) - c / max(c.max(), 0.2)).sum()
                for n, c in ((n, np.array(c)) for n, c in COLORS.items())
            }
            if named[0] in ("red", "blue", "green", "cyan", "purple") and word == "cube":
                assert np.abs(found / found.max() - color / color.max()).max() < 0.03, text
                assert min(away, key=lambda n: away[n]) == named[0]
            elif named[0] == "red":
                assert found[0] > 2.0 * max(found[1:]), text
            seen.add(named[0])
    assert len(seen) >= 8


def test_cameras_are_spread_over_all_directions():
    views = stratified_views(5, 8, 0, "views")
    azimuth, elevation, distance = views.unbind(2)
    assert ((azimuth / 45.0).floor() == torch.arange(8)).all()
    assert ((azimuth.flatten() / 9.0).floor().unique() == torch.arange(40)).all()
    assert ELEVATION[0] <= elevation.min()
    assert elevation.max() <= ELEVATION[1]
    assert RADIUS[0] <= distance.min()
    assert distance.max() <= RADIUS[1]
    many = stratified_views(100, 20, 0, "views")[..., 1]
    middle = 0.5 * (np.sin(np.radians(ELEVATION[0])) + np.sin(np.radians(ELEVATION[1])))
    assert float(torch.deg2rad(many).sin().mean()) == pytest.approx(middle, abs=0.02)


def test_the_cache_gives_the_same_bits_and_is_not_rendered_again(tmp_path, monkeypatch):
    done = []
    made = ThingsBank(16, 0, WORDS, **FEW, cache=tmp_path, progress=lambda i, n: done.append((i, n)))
    assert done == [(i, len(done)) for i in range(1, len(done) + 1)]
    assert len(list(tmp_path.glob("*.safetensors"))) == len(done)
    monkeypatch.setattr("threedgen.training.things_recipes.Recipe.render", None)
    read = ThingsBank(16, 0, WORDS, **FEW, cache=tmp_path)
    assert same(made.batch(20, 3, 1), read.batch(20, 3, 1))
    assert all(torch.equal(made.layers[paints], read.layers[paints]) for paints in made.layers)


def test_a_stopped_training_goes_on_with_the_pieces_that_are_there(bank, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        ThingsBank(16, 0, WORDS, **FEW, cache=tmp_path, progress=stop)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    again = ThingsBank(16, 0, WORDS, **FEW, cache=tmp_path)
    assert same(again.batch(8, 0, 0), bank.batch(8, 0, 0))


def test_a_class_that_changed_is_rendered_again(tmp_path, monkeypatch):
    few = {**FEW, "shares": ALONE}
    ThingsBank(8, 0, ["cat"], **few, cache=tmp_path)
    path = next(tmp_path.glob("class-cat*"))
    before = path.stat().st_mtime_ns
    ThingsBank(8, 0, ["cat"], **few, cache=tmp_path)
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr("threedgen.datasets.things.thing_set.ThingSource.stamp", lambda source: "other")
    ThingsBank(8, 0, ["cat"], **few, cache=tmp_path)
    assert path.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("size", "seed", "reason"), [(8, 0, "with size 16, not 8"), (16, 1, "with seed 0, not 1")]
)
def test_a_cache_of_another_size_or_seed_is_refused_in_one_line(tmp_path, size, seed, reason):
    few = {**FEW, "shares": ALONE}
    ThingsBank(16, 0, ["cube"], **few, cache=tmp_path)
    with pytest.raises(UserError, match=reason) as caught:
        ThingsBank(size, seed, ["cube"], **few, cache=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "half"])
def test_a_damaged_piece_is_refused_in_one_line(tmp_path, damage):
    few = {**FEW, "shares": ALONE}
    ThingsBank(16, 0, ["cube"], **few, cache=tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "half" else damage)
    with pytest.raises(UserError, match="is no piece of rendered things") as caught:
        ThingsBank(16, 0, ["cube"], **few, cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_piece_of_another_shape_is_refused(tmp_path):
    few = {**FEW, "shares": ALONE}
    ThingsBank(16, 0, ["cube"], **few, cache=tmp_path)
    folder = PieceFolder(tmp_path, {"size": 16, "seed": 0})
    stamp = f"{thing_set(None).canonical('cube').stamp()} 3x4"
    assert folder.read("class cube", stamp, (12, 16, 16, 6)) is not None
    with pytest.raises(UserError, match="has layers"):
        folder.read("class cube", stamp, (12, 16, 16, 8))


def test_too_many_pictures_are_refused_before_any_is_rendered():
    with pytest.raises(UserError, match=r"views of 512 pixels would take .* GB"):
        ThingsBank(512, 0, WORDS, None, instances=200)


def test_a_part_of_the_catalogue_is_that_of_the_public_domain(library):
    """The library of the fixture has no licence, so it is not known to be in the public domain."""
    assert "pallet" in thing_set(library).words
    with pytest.raises(UserError, match="no object"):
        thing_set(library, "cc0")


def test_catalogue_objects_are_coloured_and_named(library, tmp_path):
    bank = ThingsBank(16, 0, ["pallet"], library, object_views=8, shares=ALONE, cache=tmp_path / "cache")
    texts = set()
    for step in range(6):
        batch = bank.batch(16, 0, step)
        for text, layers in zip(batch.captions, batch.layers, strict=True):
            named = next((name for name in COLORS if name in text.split()), "")
            texts.add(named)
            if named in ("red", "blue", "cyan"):
                found = layers[layers[..., 3] > 0.95][:, :3].mean(dim=0).numpy()
                color = np.array(COLORS[named])
                assert np.abs(found / found.max() - color / color.max()).max() < 0.06, text
    assert {"", "red", "blue"} <= texts
    again = ThingsBank(16, 0, ["pallet"], library, object_views=8, shares=ALONE, cache=tmp_path / "cache")
    assert same(bank.batch(16, 1, 1), again.batch(16, 1, 1))


def test_the_picture_of_an_object_that_measures_a_prior_is_framed_as_a_cut_out(library):
    source = thing_set(library).objects("pallet")[0]
    views = unseen_sides(source, 64)
    assert views.images.shape == (1 + len(SIDES), 64, 64, 3)
    circle = bounding_circle((views.alpha[0, ..., 0] >= 0.5).numpy())
    assert circle is not None
    assert max(abs(circle[0] - 32.0), abs(circle[1] - 32.0)) <= 1.0
    assert abs(circle[2] - FILL * 32.0) < 1.5
    torch.testing.assert_close(views.cameras.centers.norm(dim=1), torch.full((9,), DISTANCE))
    inside = views.images[views.alpha[..., 0] > 0.9].mean(0)
    assert float(inside[0]) > 3.0 * float(inside[1])
