"""What Compare pays: its token budget over all attempts, and for no verdict twice; what retiring leaves of them."""

import json
from pathlib import Path

import pytest
from tests.support.comparisons import (
    NEW,
    OLD,
    answered,
    compared,
    configure,
    foreign,
    log_rows,
    prefers,
    rows_of,
    used,
)
from tests.support.sampler_stages import Workplace
from tests.support.scripted_server import Fault, ScriptedServer, default_reply

from selfrewarding.contract.config import StageConfig
from srr_sampler.retire import retire


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_is_never_exceeded_and_whole_comparisons_are_judged(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str, concurrency: int
) -> None:
    server.reply = prefers(NEW)
    budget = 11_000
    config = configure(
        place, tokenizer_folder, spec=foreign(server, budget=budget, concurrency=concurrency), servers=()
    )
    result = compared(place, config)
    assert 0 < used(place) <= budget
    assert result.report["budget"] == {"tokens": budget, "used": used(place)}
    assert 0 < result.counts["judged"] < 6
    assert result.counts["overBudget"] == result.counts["unjudged"] == 6 - result.counts["judged"]
    judged = [row["preference"] for row in rows_of(place, result)]
    assert judged == sorted(judged, key=lambda one: one is None), "in the order of the prompts"
    assert result.metrics["winRate"] == 1


def test_the_budget_holds_over_all_attempts(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    server.reply = prefers(NEW)
    config = configure(place, tokenizer_folder, spec=foreign(server, budget=11_000), servers=())
    first = compared(place, config)
    place.uncommit(config)
    before = used(place)
    server.requests.clear()
    second = compared(place, config, "second")
    assert server.requests == []
    assert used(place) == before
    assert second.counts == first.counts


def test_tokens_that_the_endpoint_does_not_tell_are_taken_at_their_most(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    silent = json.dumps(
        {"choices": [{"message": {"content": "Preference: Tie"}, "finish_reason": "stop"}]}
    ).encode()
    server.fail_next(*[Fault(body=silent)] * 100)
    config = configure(place, tokenizer_folder, spec=foreign(server, budget=11_000), servers=())
    result = compared(place, config)
    assert 0 < result.counts["judged"] < 6
    assert 0 < used(place) <= 11_000
    assert result.report["tokensEstimated"] == 2 * result.counts["judged"]


def test_a_budget_too_small_for_one_comparison_judges_none(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    result = compared(place, configure(place, tokenizer_folder, spec=foreign(server, budget=10), servers=()))
    assert server.requests == []
    assert (result.metrics, result.counts["overBudget"]) == ({}, 6)


def test_a_larger_budget_pays_only_for_what_was_left(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    server.reply = prefers(NEW)
    small = configure(place, tokenizer_folder, spec=foreign(server, budget=11_000), servers=())
    first = compared(place, small)
    asked = len(server.requests)
    assert 0 < asked < 12
    large = configure(place, tokenizer_folder, spec=foreign(server, budget=1_000_000), servers=())
    second = compared(place, large.model_copy(update={"key": "e" * 64}), "second")
    assert len(server.requests) == 12
    assert server.repeated() == []
    assert second.counts["judged"] == 6
    assert second.report["verdicts"] == first.report["verdicts"]
    other = foreign(server).model_copy(update={"max_tokens": 99})
    compared(
        place, configure(place, tokenizer_folder, spec=other, servers=()).model_copy(update={"key": "d" * 64})
    )
    assert len(server.requests) == 24, "asked otherwise, it is another question"


def test_verdicts_that_were_given_before_a_kill_are_not_paid_for_again(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = default_reply
    undisturbed = Workplace(place.folder / "undisturbed")
    spec = foreign(server, concurrency=3)

    def config_of(at: Workplace) -> StageConfig:
        return configure(
            at, tokenizer_folder, spec=spec, servers=(),
            answers=answered(at, NEW, prompts=20), previous=answered(at, OLD, prompts=20),
        )  # fmt: skip

    whole = compared(undisturbed, config_of(undisturbed))
    server.delay = 0.15
    config = config_of(place)
    place.start_and_kill(config, {}, lambda: bool(log_rows(place)))
    before = log_rows(place)
    assert 0 < len(before) < 40, place.log("killed")

    server.delay = 0
    server.requests.clear()
    resumed = compared(place, config, "resumed")
    after = log_rows(place)
    expected = log_rows(undisturbed)
    assert {key: after[key] for key in before} == before
    assert after == expected
    assert len(server.requests) == len(expected) - len(before)
    assert (resumed.counts, resumed.metrics) == (whole.counts, whole.metrics)
    assert rows_of(place, resumed) == rows_of(undisturbed, whole)


def test_opponents_with_the_same_answer_are_asked_about_once(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = prefers(NEW)
    config = configure(
        place,
        tokenizer_folder,
        answers=answered(place, NEW),
        previous=answered(place, OLD, text="old words"),
        baseline=answered(place, "base", text="old words"),
    )
    result = compared(place, config)
    assert len(server.requests) == 12
    assert (result.counts["comparisons"], result.counts["judged"], result.counts["verdicts"]) == (12, 12, 12)
    assert (result.metrics["winRate"], result.metrics["winRateBaseline"]) == (1, 1)


def test_a_deleted_run_leaves_no_verdicts_behind(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    config = configure(place, tokenizer_folder)
    compared(place, config)
    assert log_rows(place)
    retire(place.store, config.run)
    assert not any(place.store.list("stages/Compare"))
