"""Prepare reads `evaluation.prompts`, and refuses what is trained on; ranks that contradict each other."""

import json
from typing import Any

import pytest
from tests.support.prepare_bench import INSTRUCTION_ROWS, RANKED_ROWS, Bench, ranked
from tests.support.stages import summary_size, surroundings

from selfrewarding.contract.artifacts import EVALUATION_PROMPTS, HELD_OUT
from selfrewarding.contract.program import BadConfiguration, BadData
from selfrewarding.contract.result import MAX_SUMMARY_BYTES
from srr_sampler import prepare

MT_BENCH = [
    {"question_id": 81, "category": "writing", "turns": ["Compose a travel post.", "Rewrite it."]},
    {"question_id": 82, "category": "reasoning", "turns": ["Draft an email.", "Evaluate it."]},
]
ALPACA = [{"instruction": "What are the names of some famous actors?", "dataset": "helpful_base"}]
LONG = "Please explain to me in detail how the tides of the sea come about."


def sets(bench: Bench, **files: Any) -> list[dict[str, Any]]:
    """Prompt sets by name: (format, rows or content)."""
    found = []
    for name, (file_format, content) in files.items():
        uri = bench.put(f"{name}.json", content)
        found.append({"name": name, "uri": uri, "format": file_format})
    return found


def test_all_sets_are_written_as_one_file_with_a_digest(bench: Bench) -> None:
    given = sets(
        bench, mtbench=("MtBench", MT_BENCH), alpaca=("AlpacaEval", json.dumps(ALPACA, indent=1).encode())
    )
    result = bench.run(prompt_sets=given)
    rows = bench.rows(result, EVALUATION_PROMPTS)
    assert [(row["set"], row["id"]) for row in rows[:1]] == [("alpaca", "0")]
    assert {row["id"] for row in rows[1:]} == {"81", "82"}
    assert all(row["turns"][1] for row in rows[1:])
    assert [row.get("temperature") for row in rows] == [None, 0.7, 0.0]
    assert result.counts["evaluationPrompts"] == 3
    assert result.counts["evaluationTurns"] == 5
    assert len(result.data["evaluationPrompts"]) == 12
    told = result.report["evaluationPrompts"]
    assert told["sets"] == {"mtbench": 2, "alpaca": 1}  # type: ignore[index]
    assert told["nearDuplicates"]["found"] == 0  # type: ignore[index]
    assert summary_size(result) <= MAX_SUMMARY_BYTES


def test_the_digest_follows_all_that_the_rows_say(bench: Bench) -> None:
    def digest(rows: list[dict[str, Any]]) -> str:
        config = bench.config(prompt_sets=sets(bench, own=("Prompts", rows)))
        key = json.dumps(rows).encode().hex()[:64].ljust(64, "0")
        return prepare.main(config.model_copy(update={"key": key}), surroundings(bench.root / "s")).data[
            "evaluationPrompts"
        ]

    first = {"prompt": "one", "id": "a"}
    second = {"prompt": "two", "id": "b"}
    assert digest([first, second]) == digest([second, first])
    assert digest([first]) != digest([first | {"category": "c"}]) != digest([second])


def test_without_sets_there_is_no_file_and_no_digest(bench: Bench) -> None:
    result = bench.run()
    assert EVALUATION_PROMPTS not in result.files
    assert "evaluationPrompts" not in result.data


def test_max_rows_takes_by_content(bench: Bench) -> None:
    rows = [{"prompt": f"Number {n}"} for n in range(30)]
    (one,) = sets(bench, own=("Prompts", rows))
    taken = {
        row["turns"][0]
        for row in bench.rows(bench.run(prompt_sets=[one | {"maxRows": 5}]), EVALUATION_PROMPTS)
    }
    assert len(taken) == 5
    assert taken != {f"Number {n}" for n in range(5)}


@pytest.mark.parametrize("kind", ["instructions", "ranked"])
def test_a_prompt_that_is_trained_on_is_refused_with_both_places(bench: Bench, kind: str) -> None:
    trained = INSTRUCTION_ROWS[3]["prompt"] if kind == "instructions" else None
    result = bench.run()
    if trained is None:
        trained = bench.rows(result, "ranked.jsonl")[0]["prompt"][0]["content"]
    given = sets(bench, own=("Prompts", [{"prompt": "Unheard of."}, {"prompt": f" {trained.upper()} "}]))
    with pytest.raises(BadData) as caught:
        Bench.run(_other(bench), prompt_sets=given)
    text = str(caught.value)
    assert text.startswith(f"{given[0]['uri']}:2: field `prompt`: found the prompt")
    assert ("i.jsonl:4" if kind == "instructions" else "r.jsonl:") in text


def _other(bench: Bench, name: str = "again") -> Bench:
    """The same files with an empty store."""
    other = Bench.__new__(Bench)
    other.root, other.model = bench.root / name, bench.model
    (other.root / "data").mkdir(parents=True)
    return other


def test_a_prompt_that_only_measures_may_be_held_out_too(bench: Bench) -> None:
    held_out = bench.rows(bench.run(), HELD_OUT)[0]["prompt"][0]["content"]
    given = sets(bench, own=("Prompts", [{"prompt": held_out}]))
    assert _other(bench).run(prompt_sets=given).counts["evaluationPrompts"] == 1


def test_a_prompt_that_stands_in_a_judges_turn_is_trained_on(bench: Bench) -> None:
    evaluation = {
        "messages": [
            {"role": "user", "content": f"Grade this.\nQuestion: {LONG}\nAnswer: The moon."},
            {"role": "assistant", "content": "Short.\nScore: 3"},
        ]
    }
    seeds = bench.seeds(
        ranked=None, evaluations={"uri": bench.put("e.jsonl", [evaluation]), "format": "Evaluations"}
    )
    with pytest.raises(BadData, match=r"also trained on in .*e\.jsonl:1"):
        bench.run(seeds, prompt_sets=sets(bench, own=("Prompts", [{"prompt": LONG}])))


def test_near_duplicates_of_training_rows_are_counted_and_stay(bench: Bench) -> None:
    rows = [*INSTRUCTION_ROWS, {"prompt": LONG, "response": "The moon does it."}]
    seeds = bench.seeds(instructions={"uri": bench.put("i.jsonl", rows), "format": "PromptResponse"})
    given = sets(
        bench, own=("Prompts", [{"prompt": LONG.replace("in detail", "briefly")}, {"prompt": "Else?"}])
    )
    result = bench.run(seeds, prompt_sets=given)
    near = result.report["evaluationPrompts"]["nearDuplicates"]  # type: ignore[index]
    assert near["found"] == 1
    assert near["rows"][0]["place"].endswith("own.json:1")
    assert near["rows"][0]["trained"].endswith("i.jsonl:11")
    assert 0.7 < near["rows"][0]["rougeL"] < 1
    assert result.counts["evaluationPrompts"] == 2


def test_defects_of_all_sets_and_of_the_seed_are_told_at_once(bench: Bench) -> None:
    given = sets(bench, one=("Prompts", [{"text": "x"}]), two=("MtBench", [{"question_id": 1, "turns": []}]))
    given.append(
        {"name": "three", "uri": (bench.root / "data" / "gone.json").as_uri(), "format": "AlpacaEval"}
    )
    seeds = bench.seeds(
        instructions={"uri": bench.put("i.jsonl", [{"prompt": "a"}]), "format": "PromptResponse"}
    )
    with pytest.raises(BadData) as caught:
        bench.run(seeds, prompt_sets=given)
    text = str(caught.value)
    assert text.startswith("4 problems:")
    for part in ("one.json:1: field `prompt`", "two.json:1: field `turns`", "gone.json: found no such file",
                 "Correct evaluation.prompts[2].uri", "i.jsonl:1: field `response`"):  # fmt: skip
        assert part in text


def test_prompts_without_room_are_counted_and_most_of_them_an_error(bench: Bench) -> None:
    # The tiny tokenizer has about one token per character.
    long = {"prompt": "wordy " * 4000}
    few = sets(bench, own=("Prompts", [long, {"prompt": "a"}, {"prompt": "b"}]))
    result = bench.run(prompt_sets=few)
    told = result.report["evaluationPrompts"]["tooLong"]  # type: ignore[index]
    assert (told["found"], told["longest"] > told["limit"]) == (1, True)
    with pytest.raises(BadConfiguration, match="1 of 1 evaluation prompts leave no room"):
        _other(bench).run(prompt_sets=sets(bench, own=("Prompts", [long])))


def test_prompts_must_fit_into_the_length_that_the_servers_are_planned_with(bench: Bench) -> None:
    own = sets(bench, own=("Prompts", [{"prompt": "wordy " * 200}]))
    with pytest.raises(BadConfiguration, match=r"planned with \(serving\.maxModelLen\) is 256: raise it"):
        bench.run(prompt_sets=own, planned_len=256)


def test_a_second_turn_stands_behind_the_first_and_its_answer(bench: Bench) -> None:
    def longest(answer_tokens: int) -> int:
        other = _other(bench, f"answers-{answer_tokens}")
        result = other.run(prompt_sets=sets(other, mt=("MtBench", MT_BENCH)), answer_tokens=answer_tokens)
        return int(result.report["evaluationPrompts"]["tooLong"]["longest"])  # type: ignore[index]

    assert longest(200) == longest(100) + 100
    with pytest.raises(
        BadConfiguration,
        match=r"2 of 2 evaluation prompts leave no room.*evaluation\.answers\.maxTokens \(99999\)",
    ):
        longest(99_999)


# Ranks, and held-out rows within judge turns


def test_rows_whose_ranks_contradict_each_other_are_refused_with_both_places(bench: Bench) -> None:
    one = [{"text": "Good.", "rank": 0}, {"text": "Bad.", "rank": 1}]
    other = [{"text": "bad. ", "rank": 0}, {"text": "Good.", "rank": 2}, {"text": "New.", "rank": 1}]
    rows = [*RANKED_ROWS, ranked(9, responses=one), ranked(9, responses=other)]
    with pytest.raises(BadData) as caught:
        bench.run(bench.seeds(ranked={"uri": bench.put("r.jsonl", rows), "format": "Ranked"}))
    text = str(caught.value)
    assert "r.jsonl:10: field `responses`" in text
    assert "r.jsonl:9 ranks the other way round" in text


def test_contradictions_within_an_own_held_out_file_are_refused_too(bench: Bench) -> None:
    one = [{"text": "Good.", "rank": 0}, {"text": "Bad.", "rank": 1}]
    other = [{"text": "Bad.", "rank": 0}, {"text": "Good.", "rank": 1}]
    rows = [ranked(12, responses=one), ranked(12, responses=other)]
    seeds = bench.seeds(heldOut={"source": {"uri": bench.put("h.jsonl", rows), "format": "Ranked"}})
    with pytest.raises(BadData, match=r"h\.jsonl:2: field `responses`.*h\.jsonl:1 ranks"):
        bench.run(seeds)


def judged(prompt: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"Grade this.\nQuestion: {prompt}\nAnswer: x"},
            {"role": "assistant", "content": "Short.\nScore: 3"},
        ]
    }


def test_rule_01_a_held_out_prompt_within_a_judges_turn_is_refused_or_taken_out(bench: Bench) -> None:
    evaluations = {
        "uri": bench.put("e.jsonl", [judged(LONG), judged("Something else entirely, and at length.")]),
        "format": "Evaluations",
    }
    held_out = bench.put("h.jsonl", [ranked(12), ranked(13, prompt=LONG)])
    own = bench.seeds(heldOut={"source": {"uri": held_out, "format": "Ranked"}}, evaluations=evaluations)
    with pytest.raises(BadData, match=r"h\.jsonl:2: field `prompt`.*also trained on in .*e\.jsonl:1"):
        bench.run(own)
    share = bench.seeds(
        ranked={
            "uri": bench.put("r.jsonl", [ranked(13, prompt=f"{LONG} {n}") for n in range(4)]),
            "format": "Ranked",
        },
        evaluations={
            "uri": bench.put("e.jsonl", [judged(f"{LONG} {n}") for n in range(4)]),
            "format": "Evaluations",
        },
    )
    result = _other(bench).run(share)
    assert result.counts["heldOut"] == 1
    assert result.counts["evaluations"] == 3
    assert result.report["seedData"]["evaluationsOnHeldOutPrompts"] == 1  # type: ignore[index]
