"""Laws of schedules: ends, monotony, pairs, and the refusal of what could never take effect."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threedgen.core.errors import UserError
from threedgen.core.schedule import Milestones, Ramp, parse_schedule, progress, range_at, value_at
from threedgen.recipes.typed import plain

numbers = st.floats(-10, 10)


@given(a=numbers, b=numbers, kind=st.sampled_from(["linear", "cosine"]), total=st.integers(2, 500))
def test_a_ramp_starts_at_from_and_ends_at_to(a, b, kind, total):
    ramp = {"from": a, "to": b, "kind": kind}
    assert value_at(ramp, 0, total) == pytest.approx(a)
    assert value_at(ramp, total - 1, total) == pytest.approx(b)


@given(
    a=numbers,
    b=numbers,
    kind=st.sampled_from(["linear", "cosine", "constant"]),
    begin=st.floats(0, 0.4),
    end=st.floats(0.5, 1),
)
def test_a_ramp_is_monotone_and_flat_outside(a, b, kind, begin, end):
    values = [Ramp(a, b, kind, begin, end).at(step, 101) for step in range(101)]
    rising = values if b >= a else values[::-1]
    assert all(x <= y + 1e-9 for x, y in itertools.pairwise(rising))
    assert all(value == pytest.approx(a) for step, value in enumerate(values) if step / 100 < begin)
    assert all(value == pytest.approx(b) for step, value in enumerate(values) if step / 100 > end)


def test_a_number_is_a_constant():
    assert value_at(3, 5, 10) == 3


def test_milestones_hold_until_the_next():
    schedule = {0: 32, 0.5: 64, "0.75": 128}
    values = [value_at(schedule, step, 101) for step in (0, 49, 50, 74, 75, 100)]
    assert values == [32, 32, 64, 64, 128, 128]


def test_a_range_moves_both_ends():
    schedule = {"from": [0.3, 0.98], "to": [0.02, 0.4]}
    assert range_at(schedule, 0, 11) == (0.3, 0.98)
    assert range_at(schedule, 10, 11) == pytest.approx((0.02, 0.4))
    assert range_at([0.02, 0.98], 5, 11) == (0.02, 0.98)


def test_a_run_of_one_step_is_at_the_start():
    assert progress(0, 1) == 0.0
    assert value_at({"from": 1, "to": 2}, 0, 1) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"from": 1, "to": 2, "begin": 0.6, "end": 0.6}, "begins at 0.6 but ends at 0.6"),
        ({"from": 1, "to": 2, "begin": 1.0}, "cannot take effect within the run"),
        ({"from": 1, "to": 2, "end": 5000}, "fractions of the run"),
        ({0: 32, 1: 64}, "milestone at 1 cannot take effect"),
        ({0: 32, 200: 64}, "milestone at 200 cannot take effect"),
        ({0.5: 64}, "from the start"),
        ({"from": 1, "tot": 2}, "unknown key 'tot'"),
        ({"to": 2}, "needs 'from'"),
        ({"from": "x"}, "must be a number"),
        ({"from": 1, "kind": "quadratic"}, "unknown schedule kind"),
        ("fast", "expected a number"),
        (True, "expected a number"),
        ({}, "expected a number"),
    ],
)
def test_what_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        parse_schedule(spec)


@pytest.mark.parametrize("spec", [[0.1], "0.1", {"from": [0.1, 0.2, 0.3]}, 0.5])
def test_ranges_that_are_refused(spec):
    with pytest.raises(UserError):
        range_at(spec, 0, 10)


@given(
    st.sampled_from(
        [{"from": 1, "to": 0.2, "kind": "cosine", "begin": 0.1, "end": 0.9}, {0: 32, 0.5: 64}, 7.5]
    )
)
def test_plain_form_reads_back_the_same(spec):
    parsed = parse_schedule(spec)
    assert parse_schedule(plain(parsed)) == parsed
    assert isinstance(parsed, float | Ramp | Milestones)
