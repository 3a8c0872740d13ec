"""The texts of the views: the side that each shows, mixtures between sides, and the opposed texts of Perp-Neg."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_pipelines import ring

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Blend, Condition
from threedgen.guidance.prompting.conditioning import Prompting, ViewConditions
from threedgen.guidance.prompting.prompts import (
    CONVENTIONS,
    SIDES,
    ViewTexts,
    convention,
    interpolated_prompts,
    perpendicular_negatives,
    turned_away,
    view_prompts,
)
from threedgen.recipes import typed

VIEWS = CONVENTIONS["dreamfusion"]
TEXTS = VIEWS.texts(dict.fromkeys(SIDES, "x"))
angles = st.floats(-720.0, 720.0)


def seen(azimuth: float, elevation: float = 0.0):
    one = torch.ones(1, dtype=torch.float64)
    return orbit(azimuth * one, elevation * one, 3 * one, 40.0, 8, 8)


def shares(azimuth: float, elevation: float = 0.0) -> dict[str, float]:
    """Each side and its share in the interpolated text."""
    (text,) = interpolated_prompts(TEXTS, seen(azimuth, elevation), VIEWS)
    blend = text if isinstance(text, Blend) else Blend((text,), (1.0,))
    named = {text: side for side, text in zip(SIDES, TEXTS.all(), strict=True)}
    result: dict[str, float] = dict.fromkeys(SIDES, 0.0)
    for text, share in zip(blend.texts, blend.shares, strict=True):
        result[named[text]] += share
    return result


def weights(azimuth: float, elevation: float = 0.0, factor: float = 1.0) -> dict[str, float]:
    (opposed,) = perpendicular_negatives(TEXTS, seen(azimuth, elevation), VIEWS, factor)
    assert [text for text, _ in opposed] == [TEXTS.front, TEXTS.side]
    return {"front": opposed[0][1], "side": opposed[1][1]}


def test_conventions_of_view_words():
    def side(name: str, azimuth: float, elevation: float = 0.0) -> str:
        (text,) = view_prompts(TEXTS, seen(azimuth, elevation), convention(name))
        return text.removeprefix("x, ").removesuffix(" view")

    assert [side("dreamfusion", a) for a in (0, 40, 50, 130, 140, 220, 230, 310, 320)] == [
        "front", "front", "side", "side", "back", "back", "side", "side", "front",
    ]  # fmt: skip
    assert side("dreamfusion", 0, 70) == "overhead"
    assert [side("mvdream", a) for a in (25, 35, 145, 155)] == ["front", "side", "side", "back"]
    assert [side("dreamgaussian", a) for a in (55, 65, 115, 125)] == ["front", "side", "side", "back"]
    for views in CONVENTIONS.values():
        assert {views.side(a, e) for a in range(-180, 400, 7) for e in (0.0, 80.0)} == set(SIDES)
    with pytest.raises(UserError, match="use one of dreamfusion"):
        convention("nobody")


@given(angles, st.floats(-89.0, 89.0), st.sampled_from(sorted(CONVENTIONS)))
def test_views_a_whole_turn_apart_or_mirrored_are_told_the_same(azimuth, elevation, name):
    views = convention(name)
    edges = [abs(turned_away(azimuth) - edge) for edge in (views.front, views.back)]
    assume(min(*edges, abs(elevation - views.overhead)) > 1e-6)  # exactly there, rounding decides
    for other in (azimuth + 360.0, -azimuth):
        assert views.side(azimuth, elevation) == views.side(other, elevation)
        assert shares(other, elevation) == pytest.approx(shares(azimuth, elevation), abs=1e-6)
        assert weights(other, elevation) == pytest.approx(weights(azimuth, elevation), abs=1e-6)


@given(angles, st.floats(-89.0, 89.0))
def test_shares_are_a_mixture_and_weights_never_attract(azimuth, elevation):
    mixture = shares(azimuth, elevation)
    assert sum(mixture.values()) == pytest.approx(1.0)
    assert min(mixture.values()) >= 0.0
    assert max(weights(azimuth, elevation).values()) <= 0.0


@given(angles, st.floats(-1.0, 1.0))
def test_a_small_turn_changes_little(azimuth, turn):
    before, after = shares(azimuth), shares(azimuth + turn)
    assert max(abs(before[side] - after[side]) for side in SIDES) <= abs(turn) / 90.0 + 1e-6
    # The fitted numbers of the paper agree at 90 degrees to three digits, and f falls by at most 2 over 90 degrees.
    before, after = weights(azimuth), weights(azimuth + turn)
    assert max(abs(before[side] - after[side]) for side in before) <= 2.0 * abs(turn) / 90.0 + 1e-3


def test_the_sides_themselves_and_the_middle_between_two():
    assert interpolated_prompts(TEXTS, seen(0.0), VIEWS) == (TEXTS.front,)
    assert shares(90.0)["side"] == pytest.approx(1.0)
    assert shares(-90.0)["side"] == pytest.approx(1.0)
    assert shares(180.0)["back"] == pytest.approx(1.0)
    assert shares(30.0) == pytest.approx({"front": 2 / 3, "side": 1 / 3, "back": 0.0, "overhead": 0.0})
    assert shares(150.0) == pytest.approx({"front": 0.0, "side": 1 / 3, "back": 2 / 3, "overhead": 0.0})
    assert shares(150.0, 70.0)["overhead"] == 1.0


@pytest.mark.parametrize(
    ("azimuth", "front", "side"),
    [
        # f(1) and f(0) of (4, 0.5, -2.426); of (1, 0.5, 0.967) and (1, 0.5, -0.606) behind the side.
        (0.0, -0.00012, -1.574),
        (90.0, -1.57353, -0.00053),
        (180.0, -1.967, -0.394),
        (45.0, -0.68920, -0.68920),
        (135.0, -1.74580, -0.17280),
    ],
)
def test_the_weights_are_the_papers(azimuth, front, side):
    assert weights(azimuth) == pytest.approx({"front": front, "side": side}, abs=1e-5)


def test_behind_the_object_the_front_is_the_enemy_and_overhead_nothing_is():
    assert weights(180.0)["front"] < weights(180.0)["side"]
    assert weights(0.0)["side"] < weights(0.0)["front"]
    assert weights(120.0, 70.0) == {"front": 0.0, "side": 0.0}
    assert weights(77.0, factor=2.5) == pytest.approx({k: 2.5 * v for k, v in weights(77.0).items()})


class Prior:
    """Records the texts that it has to embed."""

    camera_conditioned = False

    def __init__(self) -> None:
        self.prepared: list[list[str]] = []

    def prepare(self, prompts):
        self.prepared.append(list(prompts))


def condition(step: int = 0, prior: Prior | None = None, cameras=None, **settings) -> Condition:
    config = typed.build(Prompting, settings, "guidance.0")
    return ViewConditions(prior or Prior(), config)(  # type: ignore[arg-type]
        "a cube", ring(8) if cameras is None else cameras, step, 11
    )


def texts_of(told: Condition) -> set[str]:
    opposed = [text for texts in told.opposed for text, _ in texts]
    mixed = [t if isinstance(t, Blend) else Blend((t,), (1.0,)) for t in (*told.prompts, *opposed)]
    return {text for blend in mixed for text in blend.texts} | {told.negative, told.null().prompts[0]}


@pytest.mark.parametrize("mode", ["never", "always", "auto", "interpolated"])
@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_every_text_of_a_run_is_embedded_once_before_it(mode, factor):
    if mode == "never" and factor:
        return
    prior = Prior()
    config = Prompting(negative="ugly", view_prompts=mode, perp_neg=factor)
    conditions = ViewConditions(prior, config)  # type: ignore[arg-type]
    for step in range(11):
        for elevation in (0.0, 80.0):
            told = conditions("a cube", ring(7, elevation=elevation), step, 11)
            assert texts_of(told) <= set(prior.prepared[0])
    assert len(prior.prepared) == 1
    conditions("a cone", ring(4), 0, 11)
    assert len(prior.prepared) == 2


def test_modes():
    plain = ("a cube",) * 8
    sides = ("front", "front", "side", "side", "back", "back", "side", "side")
    # 45 and 135 degrees are thresholds, so the ring is turned a little.
    turned = orbit(torch.arange(8) * 45.0 - 10.0, torch.zeros(8), torch.full((8,), 3.0), 40.0, 8, 8)
    assert condition(cameras=turned, view_prompts="never").prompts == plain
    assert condition(cameras=turned).prompts == condition(cameras=turned, view_prompts="always").prompts
    assert condition(cameras=turned).prompts == tuple(f"a cube, {side} view" for side in sides)
    knowing = Prior()
    knowing.camera_conditioned = True
    assert condition(cameras=turned, prior=knowing).prompts == plain
    mixed = condition(view_prompts="interpolated")
    assert mixed.opposed == ()
    assert any(isinstance(text, Blend) for text in mixed.prompts)


def test_perp_neg_opposes_the_same_number_of_texts_for_every_view():
    told = condition(perp_neg=1.0, cameras=ring(8, elevation=30.0))
    assert [len(texts) for texts in told.opposed] == [2] * 8
    high = torch.tensor([0.0, 80.0, 10.0])
    mixed = orbit(torch.tensor([0.0, 90.0, 200.0]), high, torch.full((3,), 3.0), 40.0, 8, 8)
    told = condition(perp_neg=1.0, cameras=mixed)
    assert [len(texts) for texts in told.opposed] == [2, 2, 2]
    assert told.prompts == condition(view_prompts="interpolated", cameras=mixed).prompts


def test_factor_0_is_plain_prompts_and_a_schedule_scales_the_weights():
    off = condition(perp_neg=0.0)
    assert (off.prompts, off.opposed) == (condition().prompts, ())
    ramp = {"from": 2.0, "to": 0.0}
    start, middle, end = (condition(step, perp_neg=ramp) for step in (0, 5, 10))
    doubled = condition(perp_neg=2.0)
    assert start.opposed == doubled.opposed
    assert [w for texts in middle.opposed for _, w in texts] == pytest.approx(
        [w / 2.0 for texts in doubled.opposed for _, w in texts]
    )
    assert end.opposed == ()
    assert start.prompts == middle.prompts == end.prompts  # the text of a view does not jump with the factor


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"perp_neg": -1.0}, r"^guidance\.0\.perp_neg is -1; it must be at least 0"),
        (
            {"perp_neg": {"from": 1.0, "to": -0.5}},
            "perp_neg holds -0.5; every number of it must be at least 0",
        ),
        ({"perp_neg": float("nan")}, "perp_neg is nan; it must be at least 0"),
        ({"perp_neg": 1.0, "view_prompts": "never"}, "perp_neg works on view prompts, which are off"),
        ({"debias": "words", "view_prompts": "never"}, "debias works on view prompts, which are off"),
        ({"view_prompts": "interpolate"}, "did you mean 'interpolated'"),
        ({"view_convention": "mine"}, "use one of dreamfusion"),
        ({"negative": "bad \udcff"}, "negative prompt is not Unicode text"),
    ],
)
def test_settings_that_make_no_sense(settings, expected):
    with pytest.raises(UserError, match=expected):
        condition(**settings)


def test_settings_without_effect_on_a_prior_that_knows_cameras():
    prior = Prior()
    prior.camera_conditioned = True
    with pytest.raises(
        UserError, match="left out for a prior that receives cameras: set view_prompts to always"
    ):
        condition(prior=prior, perp_neg=1.0)
    assert condition(prior=prior, perp_neg=1.0, view_prompts="always").opposed


def test_a_prompt_that_is_no_unicode_text():
    conditions = ViewConditions(Prior(), Prompting())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"the prompt is not Unicode text \(character 3\): write it in UTF-8"):
        conditions("a \udce9t\udce9", ring(4), 0, 10)


def test_a_recipe_holds_every_setting():
    config = typed.build(
        Prompting, {"perp_neg": {"from": 1, "to": 0}, "negative": "no", "debias": "words"}, "g"
    )
    assert typed.build(Prompting, typed.plain(config), "g") == config


def test_texts_keep_the_prompt_as_it_is():
    assert ViewTexts("a", "b", "c", "d").all() == ("a", "b", "c", "d")
    assert VIEWS.texts(dict.fromkeys(SIDES, " a\n")).back == " a\n, back view"
