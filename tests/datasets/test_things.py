"""The set of things: every class, its words and captions, what is held out, and scenes of several things."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from threedgen.core.errors import UserError
from threedgen.datasets import world
from threedgen.datasets.things import scenes, thing_set, thing_views, wording
from threedgen.datasets.things.captions import Palette
from threedgen.datasets.things.catalogue import Thing, Words, word_map
from threedgen.datasets.things.thing_class import COLORS, FIXED_PAINTS, PAINTS, RADIUS
from threedgen.datasets.things.thing_set import ThingSource, forbidden_colors, held_out
from threedgen.datasets.things.thing_views import ObjectLook, true_views

THINGS = thing_set.thing_set(None)
CLASSES = [source for word in THINGS.words for source in THINGS.classes(word)]
TOLERANCE = 0.02  # world units, by which the things of a scene may reach into each other


def corners(source: ThingSource):
    """Parameters: all least, all greatest, and the two mixtures in turn."""
    assert source.thing is not None
    names = list(source.thing.ranges)
    for pick in (lambda i: 0, lambda i: 1, lambda i: i % 2, lambda i: (i + 1) % 2):
        yield {name: source.thing.ranges[name][pick(i)] for i, name in enumerate(names)}


@pytest.mark.parametrize("source", CLASSES, ids=lambda source: source.name)
def test_every_class_builds_inside_its_ball_at_the_corners_of_its_ranges(source):
    thing = source.thing
    assert set(thing.natural) | set(thing.second) <= set(COLORS)
    assert thing.natural
    seen = set()
    for parameters in corners(source):
        for solid, paint in thing.pieces(parameters):
            seen.add(paint)
            assert np.isfinite(solid.vertices).all()
            assert np.linalg.norm(solid.vertices, axis=1).max() <= RADIUS + 1e-9
            np.testing.assert_allclose(np.linalg.norm(solid.normals, axis=1), 1.0, atol=1e-6)
            assert solid.faces.min() >= 0
            assert solid.faces.max() < len(solid.vertices)
    assert seen <= {*PAINTS, *FIXED_PAINTS}
    assert "main" in seen
    assert ("second" in seen) == bool(thing.second)


def test_words_of_two_families_are_an_error(monkeypatch):
    thing_set.family_classes.cache_clear()
    twice = SimpleNamespace(
        CLASSES=thing_set.importlib.import_module(f"{thing_set.families.__name__}.fruit").CLASSES
    )
    monkeypatch.setattr(thing_set.importlib, "import_module", lambda name: twice)
    with pytest.raises(ValueError, match="'banana' is both animals/banana and buildings/banana"):
        thing_set.family_classes()


def test_the_set_has_families_and_the_shape_world():
    assert len(THINGS.words) > 130
    assert {source.name for source in THINGS.classes("car")} == {"vehicles/car", "shapes/car"}
    assert {"cube", "torus", "chair", "cat", "snowman"} <= set(THINGS.words)
    assert THINGS.canonical("cat").name == "animals/cat"
    with pytest.raises(UserError, match="there is no thing called 'unicorn'"):
        THINGS.of(["cat", "unicorn"])


def test_without_a_catalogue_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("threedgen.datasets.things.sh3f.FOLDERS", (tmp_path / "nothing",))
    things = thing_set.thing_set()
    assert things.words == THINGS.words
    assert things.note is not None
    assert re.fullmatch(r"only procedural things: there is no furniture catalogue at .*", things.note)
    with pytest.raises(UserError, match="there is no folder"):
        thing_set.thing_set(tmp_path / "nothing")


def test_what_is_held_out_exists():
    kept = held_out()
    assert len(kept.objects) == 80
    assert len(kept.pairs) == 30
    assert kept.pairs >= world.HELD_OUT
    assert {word for _, word in kept.pairs} <= set(THINGS.words)
    assert {color for color, _ in kept.pairs} <= set(COLORS)
    heads: dict[str, list[str]] = {}
    for key, words in word_map().items():
        heads.setdefault(words.words[0], []).append(key)
    assert kept.objects <= set(word_map())
    for word, keys in heads.items():
        left = set(keys) - kept.objects
        assert left or word in THINGS.words, f"no training thing is called {word}"
        assert len(keys) < 3 or len(left) < len(keys), f"no {word} is held out"


def test_synonyms_are_no_words_of_other_things():
    known = {word for words in word_map().values() for word in words.words} | set(THINGS.words)
    heads = {words.words[0] for words in word_map().values()} | set(THINGS.words)
    synonyms = wording.synonyms()
    every = [word for values in synonyms.values() for word in (*values.train, *values.held_out)]
    assert len(synonyms) >= 100
    assert set(synonyms) <= heads
    assert len(set(every)) == len(every)
    assert not known & set(every)
    for word, values in synonyms.items():
        assert values.train or values.held_out, word
        assert len(values.train) + len(values.held_out) < 2 or (values.train and values.held_out), word
    assert 0.4 < len(wording.held_out_words()) / len(every) < 0.6


def test_phrases_have_articles_and_plurals():
    assert wording.phrase("owl", ()) == "an owl"
    assert wording.phrase("bird", ("blue", "white")) == "a blue and white bird"
    assert wording.phrase("grapes", ("green",)) == "green grapes"
    assert wording.phrase("bread", ()) == "bread"
    assert wording.count_phrase(3, "mouse", ("gray",)) == "three gray mice"
    assert [wording.plural(word) for word in ("bench", "cherry", "toy", "wine glass", "fish")] == [
        "benches",
        "cherries",
        "toys",
        "wine glasses",
        "fish",
    ]


def names_held_out(text: str, words: tuple[str, ...]) -> bool:
    """Whether a caption has a held-out synonym, or one of the words with a colour that is held out of it."""
    if any(re.search(rf"\b{re.escape(word)}\b", text) for word in wording.held_out_words()):
        return True
    for color in forbidden_colors(words):
        for word in (
            *words,
            *(s for w in words if w in wording.synonyms() for s in wording.synonyms()[w].train),
        ):
            if re.search(
                rf"\b{color}( and \w+)? {re.escape(word)}\b|\b\w+ and {color} {re.escape(word)}\b", text
            ):
                return True
    return False


def test_coats_have_two_colours_and_no_held_out_pair():
    rng = np.random.default_rng(0)
    for source in CLASSES:
        for _ in range(20):
            coat = wording.draw_coat(source, rng)
            text = wording.phrase(wording.draw_word(source.word, rng), coat.named)
            assert coat.main != coat.second
            assert not {coat.main, coat.second} & forbidden_colors(source.words)
            assert not names_held_out(text, source.words), text
            if coat.main not in source.natural:
                assert coat.named
                assert source.thing is not None
                assert source.thing.recolored


def test_half_of_the_captions_of_classes_name_no_colour():
    rng = np.random.default_rng(0)
    cat = THINGS.canonical("cat")
    named = [wording.draw_coat(cat, rng).named for _ in range(600)]
    assert abs(sum(not names for names in named) / 600 - 0.5) < 0.06
    words = [wording.draw_word("cat", rng) for _ in range(600)]
    assert abs(sum(word != "cat" for word in words) / 600 - 0.25) < 0.06


def test_captions_of_objects_fit_their_colours():
    words = Words(("siamese cat", "cat"))
    item = Thing(SimpleNamespace(key="x#cat"), words)  # pyright: ignore[reportArgumentType]
    source = ThingSource("x#cat", words.words, item=item)
    own = torch.tensor([COLORS["white"], COLORS["brown"]])
    look = ObjectLook(own, Palette({"black": 0.05}, ("white", "brown"), (0.6, 0.35)))
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(300):
        colors, text = wording.draw_object(source, look, rng)
        first = next(name for name, color in COLORS.items() if torch.equal(colors[0], torch.tensor(color)))
        assert "green" not in text
        assert not names_held_out(text, words.words), text
        if first != "white":
            changed += 1
            assert text.split(" ")[1] == first
    assert 90 < changed < 200


@pytest.mark.parametrize("relation", ["on", "beside", "before"])
def test_things_of_a_scene_touch_and_do_not_interpenetrate(relation):
    rng = np.random.default_rng(3)
    drawn = (scenes.draw_pair(CLASSES, rng) for _ in itertools.count())
    for scene in itertools.islice((s for s in drawn if s.relation == relation), 12):
        first, second = scenes.pair_pieces(scene, rng)
        points = [np.concatenate([solid.vertices for solid, _ in pieces]) for pieces in (first, second)]
        assert max(np.linalg.norm(p, axis=1).max() for p in points) <= RADIUS + 1e-9
        (low, high), (floor, top) = ((p.min(axis=0), p.max(axis=0)) for p in points)
        if relation == "on":
            room = scenes.heights(first, below=True) - scenes.heights(second)
            assert -TOLERANCE < np.nanmin(room) < TOLERANCE, f"{scene.first.word} on {scene.second.word}"
        else:
            axis = 0 if relation == "beside" else 2
            assert max(low[axis] - top[axis], floor[axis] - high[axis]) > -TOLERANCE
            assert max(low[axis] - top[axis], floor[axis] - high[axis]) < 0.15
            assert low[1] == pytest.approx(floor[1], abs=1e-9)
        if relation == "before":
            assert low[2] > top[2]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("row", [True, False])
def test_several_of_the_same_thing_are_apart_in_their_ball(count, row):
    rng = np.random.default_rng(0)
    pieces = scenes.count_pieces(scenes.CountScene(THINGS.canonical("apple"), count, row), rng)
    size = len(pieces) // count
    boxes = [scenes.joined_bounds(pieces[i * size : (i + 1) * size]) for i in range(count)]
    assert np.linalg.norm(np.concatenate([s.vertices for s, _ in pieces]), axis=1).max() <= RADIUS + 1e-9
    for (low, high), (floor, top) in itertools.combinations(boxes, 2):
        assert max((low - top).max(), (floor - high).max()) > 0.0


def test_captions_of_scenes_name_both_things():
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = scenes.draw_pair(CLASSES, rng)
        coats, text = scenes.draw_pair_look(scene, rng)
        assert re.search(r" (on|on top of|beside|next to|and|in front of) ", text)
        for source, coat in zip((scene.first, scene.second), coats, strict=True):
            assert not names_held_out(text, source.words), text
            assert set(coat.named) <= set(re.findall(r"\w+", text))


def test_true_views_show_the_colour_that_is_asked_for():
    cat = THINGS.canonical("cat")
    views = true_views(cat, (0.0, 90.0), 15.0, 32, color="red")
    assert views.images.shape == (2, 32, 32, 3)
    inside = views.images[views.alpha[..., 0] > 0.9].mean(dim=0)
    assert inside[0] > 1.5 * inside[1:].max()
    natural = true_views(cat, (0.0,), 15.0, 32)
    assert natural.images.shape == (1, 32, 32, 3)
    assert float(natural.cameras.centers.norm()) == pytest.approx(thing_views.DISTANCE, rel=1e-5)
