import pytest

from hybridcascade.backbone.plans import STAGE_PLANS, stage_plan
from hybridcascade.errors import SettingsError, UnknownNameError


def spans(*pairs: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(range(low, high + 1)) for low, high in pairs)


@pytest.mark.parametrize(
    ("name", "depth", "expected"),
    [
        ("hybrid", 12, spans((5, 7), (8, 9), (10, 12))),
        ("hybrid", 24, spans((9, 14), (15, 18), (19, 24))),
        ("multilayer", 12, spans((1, 4), (5, 8), (9, 11), (12, 12))),
        ("multilayer", 24, spans((1, 8), (9, 16), (17, 22), (23, 24))),
        ("cascade_clip", 12, spans((6, 8), (9, 11), (12, 12))),
        ("cascade_clip", 24, spans((11, 16), (17, 22), (23, 24))),
        ("last", 12, ((12,),)),
        ("last", 1, ((1,),)),
    ],
)
def test_named_plans_follow_the_depth(name, depth, expected):
    plan = stage_plan(name, depth)
    assert plan.stages == expected
    assert plan.depth == depth
    assert plan.sizes == tuple(map(len, expected))


@pytest.mark.parametrize("name", sorted(STAGE_PLANS))
@pytest.mark.parametrize("depth", [8, 12, 16, 24, 32, 40, 48])
def test_named_plans_end_at_the_last_block_without_gap_or_overlap(name, depth):
    taps = stage_plan(name, depth).taps
    assert taps == tuple(range(taps[0], depth + 1))


def test_explicit_plans():
    assert stage_plan([[2, 3], [4]], 6).stages == ((2, 3), (4,))
    assert stage_plan("2-3,4, 5 - 6", 6).stages == ((2, 3), (4,), (5, 6))
    assert stage_plan([[2], [5]], 6, allow_gaps=True).taps == (2, 5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([[2, 3], [5]], r"blocks \[4\] between 2 and 5"),
        ([[2, 3], [3, 4]], "block 3 appears more than once"),
        ([[0, 1]], "block 0 is out of range: this tower has blocks 1 to 6"),
        ([[6, 7]], "block 7 is out of range: this tower has blocks 1 to 6"),
        ([[3, 4], [1, 2]], "ascend"),
        ([[1], []], "at least one block"),
        ([], "at least one block"),
        ("3-2", "at least one block"),
    ],
)
def test_wrong_explicit_plans_say_what_is_wrong(spec, message):
    with pytest.raises(SettingsError, match=message):
        stage_plan(spec, 6)


def test_unknown_plan_lists_the_valid_ones_and_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"Did you mean 'hybrid'\? Valid: hybrid, multilayer, cascade_clip, last"
    ):
        stage_plan("hybird", 12)


def test_named_plan_on_a_tower_that_is_too_shallow():
    with pytest.raises(SettingsError, match="'multilayer' has 4 stages and does not fit 3 blocks"):
        stage_plan("multilayer", 3)
    with pytest.raises(SettingsError, match="at least 1 block"):
        stage_plan("last", 0)
