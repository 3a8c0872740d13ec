"""Layers of catalogue objects, the colours that are seen of them, and captions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from furniture import RED, camera, things

from threedgen.cameras.orbit import orbit
from threedgen.datasets.painted_mesh import REPEATED
from threedgen.datasets.things.captions import Palette, article, caption, color_names, palette, phrase
from threedgen.datasets.things.catalogue import Words, read_thing
from threedgen.datasets.things.painted_layers import find_paints, painted_layers, recolor, render
from threedgen.datasets.things.thing_class import COLORS
from threedgen.datasets.world import compose


def views(size=24):
    return orbit(
        torch.tensor([0.0, 130.0]), torch.tensor([20.0, -10.0]), torch.full((2,), 2.85), 40.0, size, size
    )


@pytest.mark.parametrize("index", [0, 1])
def test_layers_with_the_own_colours_are_the_picture(index, tmp_path):
    painted = read_thing(things(tmp_path)[index])
    paints = find_paints(painted)
    assert paints.shares[0] > 0.0
    layers = painted_layers(painted, paints, views())
    pictures = render(painted, views(), background=(0.2, 0.5, 0.9))
    composed = compose(layers, paints.colors.expand(2, -1, -1), torch.tensor([[0.2, 0.5, 0.9]]).expand(2, -1))
    torch.testing.assert_close(composed, pictures.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(layers[..., 5:], pictures.alpha)
    assert float(layers.min()) >= 0.0


def test_a_paint_takes_another_colour(tmp_path):
    painted = read_thing(things(tmp_path)[0])
    paints = find_paints(painted)
    torch.testing.assert_close(paints.colors[0], torch.tensor(RED), atol=3e-3, rtol=0)
    layers = painted_layers(painted, paints, camera(180.0))
    yellow = torch.tensor([COLORS["yellow"], COLORS["black"]])
    pixel = recolor(layers, yellow, torch.ones(3))[0, 16, 16]
    before = recolor(layers, paints.colors, torch.ones(3))[0, 16, 16]
    torch.testing.assert_close(
        pixel / torch.tensor(COLORS["yellow"]), before / paints.colors[0], rtol=1e-4, atol=0
    )
    fixed = find_paints(painted, recolored=False)
    assert fixed.shares == (0.0, 0.0)
    assert bool((painted_layers(painted, fixed, camera())[..., :2] == 0).all())


def test_a_texture_of_one_colour_is_a_paint_and_another_is_not(tmp_path):
    painted = read_thing(things(tmp_path)[0])
    ramp = torch.linspace(0.6, 1.0, 64)[:, None, None] * torch.tensor([0.5, 0.3, 0.1])
    wild = torch.from_numpy(np.random.default_rng(0).random((8, 8, 3))).float()
    grain = ramp + 0.02 * wild.repeat(8, 1, 1)  # the rest of it stays among the fixed colours
    for texture, expected in ((ramp.expand(64, 4, 3), True), (grain, True), (wild, False)):
        uvs = torch.from_numpy(np.random.default_rng(1).random((len(painted.texture), 3, 2))).float()
        textured = dataclasses.replace(
            painted,
            textures=(texture,),
            alphas=(None,),
            wraps=(REPEATED,),
            texture=torch.zeros_like(painted.texture),
            corner_uvs=uvs * torch.tensor([1.0, 0.8]) + 0.1,
            corner_colors=torch.ones_like(painted.corner_colors),
        )
        paints = find_paints(textured)
        assert (paints.shares[0] > 0.9) == expected
        composed = compose(
            painted_layers(textured, paints, views()), paints.colors.expand(2, -1, -1), torch.ones(2, 3)
        )
        torch.testing.assert_close(composed, render(textured, views()).images, atol=1e-5, rtol=0)


def test_each_side_is_lit_on_its_own(tmp_path):
    """A sheet seen from behind is not as bright as the front, whatever the order of the corners of its faces."""
    painted = read_thing(things(tmp_path)[1])
    turned = dataclasses.replace(
        painted, mesh=dataclasses.replace(painted.mesh, faces=painted.mesh.faces.flip(1))
    )
    torch.testing.assert_close(
        render(dataclasses.replace(turned, corner_colors=painted.corner_colors), views()).images,
        render(painted, views()).images,
        atol=1e-4,
        rtol=0,
    )


def test_colours_are_named_as_people_name_them():
    assert color_names(np.array(list(COLORS.values()))) == list(COLORS)
    for color, name in (
        ((0.8, 0.8, 0.8), "white"),
        ((0.6, 0.6, 0.6), "gray"),
        ((0.05, 0.25, 0.08), "green"),
        ((0.06, 0.08, 0.30), "blue"),
        ((0.40, 0.02, 0.05), "red"),
        ((0.35, 0.20, 0.10), "brown"),
        ((0.02, 0.02, 0.02), "black"),
    ):
        assert color_names(np.array([color])) == [name]


def test_the_palette_names_what_covers_enough(tmp_path):
    painted = read_thing(things(tmp_path)[0])
    paints = find_paints(painted)
    found = palette(painted, paints)
    assert found.own[0] == "red"
    assert found.dominant() == ("red",)
    assert found.dominant(first="green") == ("green",)
    assert palette(painted, find_paints(painted, recolored=False)).dominant() == ("red",)
    mixed = Palette({"white": 0.35, "blue": 0.1}, ("red", "blue"), (0.4, 0.15))
    assert mixed.dominant() == ("red", "white")
    assert mixed.dominant("blue") == ("blue", "white")
    assert mixed.dominant("white") == ("white",)
    assert Palette({"red": 0.29, "blue": 0.29}, (None, None), (0.0, 0.0)).dominant() == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (phrase("fire hydrant", ["red", "white"]), "a red and white fire hydrant"),
        (phrase("armchair"), "an armchair"),
        (phrase("armchair", ["blue"]), "a blue armchair"),
        (phrase("umbrella", ["orange"]), "an orange umbrella"),
        (phrase("desk", ["white"], "wooden"), "a white wooden desk"),
        (phrase("bed", (), "iron"), "an iron bed"),
        (phrase("scissors", ["red"]), "red scissors"),
        (phrase("bread"), "bread"),
        (article("suv"), "an"),
        (article("urinal"), "a"),
        (article("unicycle"), "a"),
        (article("umbrella"), "an"),
    ],
)
def test_wordings(text, expected):
    assert text == expected


def test_captions_vary_and_say_only_what_is_true():
    words = Words(("desk", "table"), material="wooden")
    rng = np.random.default_rng(0)
    drawn = {caption(words, ("brown", "white"), rng) for _ in range(400)}
    assert {"a desk", "a table", "a wooden desk", "a brown desk", "a brown and white wooden table"} <= drawn
    assert all(text.startswith("a ") and text.endswith(("desk", "table")) for text in drawn)
    again = [caption(words, ("brown",), np.random.default_rng(3)) for _ in range(2)]
    assert again[0] == again[1]
    plain = {caption(Words(("woman",), colored=False), ("red",), rng) for _ in range(50)}
    assert plain == {"a woman"}
    assert {caption(Words(("wooden doll",), material="wooden"), (), rng) for _ in range(20)} == {
        "a wooden doll"
    }
