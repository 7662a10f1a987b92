"""Compare at an endpoint that is not ours: its key, half documents, refusals."""

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
    metrics_of,
    prefers,
)
from tests.support.sampler_stages import Workplace
from tests.support.scripted_server import Fault, ScriptedServer

from selfrewarding.contract.program import BadConfiguration


def test_an_endpoint_compares_with_its_key_and_without_a_server_of_ours(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    server.reply = prefers(NEW)
    result = compared(place, configure(place, tokenizer_folder, spec=foreign(server), servers=()))
    assert result.metrics["winRate"] == 1
    assert {asked.path for asked in server.requests} == {"/v1/chat/completions"}
    assert {asked.headers["authorization"] for asked in server.requests} == {f"Bearer {referee_key}"}
    assert server.max_in_flight <= 4
    judge = metrics_of(place, result)["judge"]
    assert (judge["endpoint"], judge["fixed"]) == (f"{server.url}/v1", True)
    stored = b"".join(path.read_bytes() for path in (place.folder / "artifacts").rglob("*") if path.is_file())
    assert referee_key.encode() not in stored


def test_a_key_that_is_refused_is_told_by_its_field(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    server.key = "another"
    with pytest.raises(
        BadConfiguration, match=r"check the key in evaluation\.headToHead\.judge\.endpoint\.apiKey"
    ) as caught:
        compared(place, configure(place, tokenizer_folder, spec=foreign(server), servers=()))
    assert referee_key not in str(caught.value)


HALVES = [
    b'{"choices": [{"message": {"content": "Preference: A',
    b'{"choices": []}',
    b'{"choices": [{"message": {"content": ["Preference: A"]}, "finish_reason": "stop"}]}',
    b'{"choices": [{"message": {"content": "Preference: A"}}]}',
    b"",
]


@pytest.mark.parametrize("half", HALVES)
def test_half_a_document_is_asked_for_again_counted_as_invalid_and_paid_for(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str, half: bytes
) -> None:
    server.reply = prefers(NEW)
    server.fail_next(*[Fault(body=half or b" ", kinds=("comparison",))] * 3)
    result = compared(
        place, configure(place, tokenizer_folder, spec=foreign(server, concurrency=1), servers=())
    )
    assert result.metrics["winRate"] == 1
    assert result.report["invalid"] == {"incomplete": 3}
    assert result.counts["invalid"] == 3
    assert result.report["tokensEstimated"] == 3
    assert len(server.requests) == 12 + 3


def test_an_endpoint_that_never_finishes_gives_no_verdict_and_ends(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    server.fail_next(*[Fault(body=HALVES[0])] * 100)
    result = compared(place, configure(place, tokenizer_folder, spec=foreign(server), servers=()))
    assert result.metrics == {}
    assert result.report["invalid"] == {"incomplete": 36}


def test_one_text_that_the_endpoint_refuses_costs_one_comparison_and_not_the_run(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    server.reply = prefers(NEW)
    server.fail_next(Fault(status=400))
    result = compared(
        place, configure(place, tokenizer_folder, spec=foreign(server, concurrency=1), servers=())
    )
    assert result.report["invalid"] == {"refused": 1}
    assert (result.counts["judged"], result.counts["unjudged"]) == (5, 1)


def test_an_endpoint_that_refuses_everything_is_a_bad_configuration_and_stores_nothing(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    server.fail_next(*[Fault(status=400)] * 20)
    config = configure(place, tokenizer_folder, spec=foreign(server), servers=())
    with pytest.raises(BadConfiguration, match="check evaluation and the endpoint's limits"):
        compared(place, config)
    assert log_rows(place) == {}


def test_too_few_refusals_to_blame_the_endpoint_are_not_kept_for_later_stages(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    """One prompt is asked about twice: nobody can tell whether its text or the configuration is at fault."""
    server.reply = prefers(NEW)
    server.fail_next(*[Fault(status=400)] * 2)
    config = configure(
        place, tokenizer_folder, spec=foreign(server, concurrency=1), servers=(),
        answers=answered(place, NEW, prompts=1), previous=answered(place, OLD, prompts=1),
    )  # fmt: skip
    first = compared(place, config)
    assert first.report["invalid"] == {"refused": 2}
    assert (first.counts["judged"], first.counts["unjudged"]) == (0, 1)
    assert log_rows(place) == {}
    second = compared(place, config.model_copy(update={"key": "e" * 64}), "later")
    assert (second.report["verdicts"], second.report["invalid"]) == (first.report["verdicts"], {})
    assert second.metrics["winRate"] == 1


def test_an_endpoint_that_has_answered_before_may_refuse_all_that_is_left(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, referee_key: str
) -> None:
    server.reply = prefers(NEW)
    spec = foreign(server, concurrency=1)
    compared(place, configure(place, tokenizer_folder, spec=spec, servers=()))
    server.fail_next(*[Fault(status=400)] * 12)
    further = configure(
        place, tokenizer_folder, spec=spec, servers=(),
        answers=answered(place, NEW, lengths=2), previous=answered(place, OLD, lengths=2),
    ).model_copy(update={"key": "e" * 64})  # fmt: skip
    result = compared(place, further, "later")
    assert result.report["invalid"] == {"refused": 10}
    assert result.counts["judged"] == 1, "the prompt whose answers are the same as before"
