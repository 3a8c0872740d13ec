"""Assets that are true things are told apart from all others, by shape, colour and side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from threedgen.datasets import world
from threedgen.datasets.things.thing_class import COLORS
from threedgen.datasets.things.thing_set import thing_set
from threedgen.datasets.things.thing_views import class_layers
from threedgen.metrics.named_things import SIZE, VIEWS, Gallery, Judge, make_gallery
from threedgen.metrics.shape_world import ring

WORDS = ("apple", "cat", "mug", "rocket", "teapot")


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return make_gallery(thing_set(None).of(WORDS))


@pytest.fixture(scope="module")
def judge(gallery: Gallery) -> Judge:
    return Judge(gallery)


def seen(word: str, main: str, second: str, turn: int = 0) -> Tensor:
    """The canonical thing of a word in two colours, premultiplied, turned by steps of 45 degrees."""
    source = thing_set(None).of([word]).canonical(word)
    layers = class_layers(source, ring(VIEWS, SIZE)).clamp(0.0, 1.0).roll(turn, 0)
    colors = torch.tensor([COLORS[main], COLORS[second]]).expand(VIEWS, -1, -1)
    rgb = world.compose(layers, colors, torch.zeros(VIEWS, 3))
    return torch.cat([rgb, layers[..., -1:]], dim=-1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(("main", "second"), [("red", "white"), ("blue", "yellow")])
def test_a_true_thing_is_found_in_its_colour(judge: Judge, word: str, main: str, second: str) -> None:
    scores = judge.score(seen(word, main, second), word)
    assert (scores.nearest, scores.rank, scores.color) == (word, 0, main)
    assert scores.iou > 0.999
    assert scores.canonical_iou is not None
    assert scores.canonical_iou > 0.999
    assert not scores.janus


def test_another_thing_is_told_apart(judge: Judge) -> None:
    scores = judge.score(seen("rocket", "gray", "red"), "mug")
    assert scores.nearest == "rocket"
    assert scores.rank >= 1
    assert scores.iou < 0.6


def test_the_distance_is_that_of_the_pictures(judge: Judge, gallery: Gallery) -> None:
    rgba = torch.rand(VIEWS, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    errors, colors = judge.distances(rgba)
    for entry in (0, 7, 20):
        names = list(COLORS.values())
        choice = int(colors[entry])
        pair = torch.tensor([names[choice // len(names)], names[choice % len(names)]])
        layers = gallery.layers[entry].float().view(VIEWS, 32, 32, 6)
        rgb = world.compose(layers, pair.expand(VIEWS, -1, -1), torch.zeros(VIEWS, 3))
        true = torch.cat([rgb, layers[..., -1:]], dim=-1).permute(0, 3, 1, 2)
        torch.testing.assert_close(errors[entry], (rgba - true).square().sum(), rtol=1e-4, atol=1e-2)


def test_a_face_at_the_back_is_a_janus_failure(judge: Judge) -> None:
    two_faced = seen("cat", "orange", "white")
    two_faced[4] = two_faced[0]
    scores = judge.score(two_faced, "cat")
    assert scores.janus
    assert scores.worst_turn == 180.0


def test_a_gallery_is_read_as_it_was_written(gallery: Gallery, tmp_path: Path) -> None:
    gallery.save(tmp_path / "gallery.safetensors")
    read = Gallery.load(tmp_path / "gallery.safetensors")
    assert read.words == gallery.words
    for name in ("trained", "fronts", "layers", "alpha"):
        assert torch.equal(getattr(read, name), getattr(gallery, name))
