"""Conditions: the transition time changes when the status flips, and only then."""

from selfrewarding.api.conditions import Condition, ConditionType, get_condition, is_true, set_condition


def condition(kind: str, status: str, at: str, reason: str = "Because") -> Condition:
    return Condition.model_validate(
        {"type": kind, "status": status, "lastTransitionTime": at, "reason": reason, "message": "A sentence."}
    )


def test_an_unflipped_condition_keeps_its_transition_time_and_takes_the_new_reason() -> None:
    before = [condition("Ready", "True", "2026-01-01T00:00:00Z")]
    after = set_condition(before, condition("Ready", "True", "2026-01-02T00:00:00Z", "Other"))
    assert [(c.last_transition_time, c.reason) for c in after] == [("2026-01-01T00:00:00Z", "Other")]


def test_a_flipped_condition_takes_the_new_transition_time() -> None:
    before = [condition("Ready", "True", "2026-01-01T00:00:00Z")]
    after = set_condition(before, condition("Ready", "False", "2026-01-02T00:00:00Z"))
    assert [c.last_transition_time for c in after] == ["2026-01-02T00:00:00Z"]


def test_conditions_keep_their_order_and_new_ones_come_last() -> None:
    before = [condition("Ready", "True", "a"), condition("Failed", "False", "a")]
    after = set_condition(
        set_condition(before, condition("Stalled", "True", "b")), condition("Ready", "False", "b")
    )
    assert [c.type for c in after] == ["Ready", "Failed", "Stalled"]
    assert is_true(after, ConditionType.STALLED)
    assert not is_true(after, ConditionType.READY)
    assert get_condition(after, ConditionType.SUSPENDED) is None
