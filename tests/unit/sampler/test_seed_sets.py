"""Seed files as people really send them: defective, hostile, half copied."""

import gzip
import json
import random
from collections import Counter
from typing import Any

import pytest
from tests.support.prepare_bench import Bench, Row, instruction, ranked

from selfrewarding.api.algorithm import JudgeSpec
from selfrewarding.api.data import SeedDataSpec
from selfrewarding.contract.program import BadData
from selfrewarding.data.judge_prompt import judge_prompt
from srr_sampler.problems import Problems
from srr_sampler.seed_sets import read_seed_sets


def test_a_missing_file_is_named_with_the_field_to_correct(bench: Bench) -> None:
    source = {"uri": (bench.root / "data" / "gone.jsonl").as_uri(), "format": "PromptResponse"}
    with pytest.raises(
        BadData, match=r"gone\.jsonl: found no such file.*Correct seedData\.instructions\.uri"
    ):
        bench.run(bench.seeds(instructions=source))


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ([instruction(1), {"prompt": "a"}], 2, "field `response`: found no such field"),
        ([instruction(1), {"prompt": "a", "response": "  "}], 2, "field `response`"),
        ([instruction(1), {}], 2, "found an empty object"),
        ([instruction(1), instruction(2), instruction(1)], 3, "the same content as line 1"),
        ([instruction(1) | {"id": "a"}, instruction(2) | {"id": "a"}], 2, "again (first on line 1)"),
        (
            b'{"prompt": "a", "response": "b"}\n\n{"prompt": "c", "response": "d"}\n',
            2,
            "an empty line between rows",
        ),
        (b'{"prompt": "a", "response": "b"}\n{"prompt": "\xff"}\n', 2, "a byte that is not UTF-8 (0xff"),
        (b'{"prompt": "a", "response": \n', 1, "broken JSON"),
        (b"[1, 2]\n", 1, "instead of an object"),
        (b"", None, "no usable row"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_a_defective_instruction_file_is_one_error_with_line_and_field(
    bench: Bench, content: list[Row] | bytes, line: int | None, said: str, suffix: str
) -> None:
    uri = bench.put(f"bad.{suffix}", content)
    with pytest.raises(BadData) as caught:
        bench.run(bench.seeds(instructions={"uri": uri, "format": "PromptResponse"}))
    text = str(caught.value)
    assert text.startswith(uri if line is None else f"{uri}:{line}: ")
    assert said in text
    assert "\n" not in text


def test_a_cut_gz_file_is_told_as_one(bench: Bench) -> None:
    whole = gzip.compress(b"".join(json.dumps(instruction(n)).encode() + b"\n" for n in range(10)))
    path = bench.root / "data" / "cut.jsonl.gz"
    path.write_bytes(whole[:-20])
    with pytest.raises(BadData, match="a damaged gz file"):
        bench.run(bench.seeds(instructions={"uri": path.as_uri(), "format": "PromptResponse"}))


@pytest.mark.parametrize(
    ("responses", "said"),
    [
        ([{"text": "a"}, {"text": "b", "rank": 1}], "field `responses[0].rank`: found no such field"),
        ([{"text": "a", "rank": "0"}, {"text": "b", "rank": 1}], 'field `responses[0].rank`: found "0"'),
        ([{"text": "a", "rank": 1}, {"text": "b", "rank": 1}], "rank 1 for all 2 answers"),
        ([{"text": "a", "rank": 0}], "1 of them"),
    ],
)
def test_ranked_rows_without_an_order_are_refused(bench: Bench, responses: list[Row], said: str) -> None:
    uri = bench.put("r.jsonl", [ranked(1), ranked(2, responses=responses)])
    with pytest.raises(BadData) as caught:
        bench.run(bench.seeds(ranked={"uri": uri, "format": "Ranked"}))
    assert f"{uri}:2: " in str(caught.value)
    assert said in str(caught.value)


def hostile_line(source: random.Random) -> bytes:
    """One line of a seed file as a tired person, another program or an attacker may write it."""
    values: list[Any] = [
        None, True, -1, 1e308, "", " \u200b", "\x00", "<|im_end|>", "a" * 3000, [], {}, [[]], "\ud7ff", 10**400,
        {"role": "user", "content": "x"}, [{"role": "user", "content": "x"}], [{"role": "robot", "content": 1}],
    ]  # fmt: skip
    names = ["prompt", "response", "messages", "responses", "id", "language", "rank", "text", "프롬프트", ""]
    row = {source.choice(names): source.choice(values) for _ in range(source.randrange(6))}
    if source.random() < 0.4:
        row |= {"prompt": f"p{source.random()}", "response": source.choice(["r", 5, None, "ok"])}
    line = json.dumps(row, ensure_ascii=source.random() < 0.5).encode("utf-8", "surrogatepass")
    match source.randrange(8):
        case 0:
            line = line[: source.randrange(len(line) + 1)]
        case 1:
            place = source.randrange(len(line) + 1)
            line = line[:place] + bytes([source.randrange(256)]) + line[place:]
        case 2:
            line = source.choice(
                [b"", b"NaN", b'{"prompt": NaN}', b"[" * 5000, b'{"a":1}{"a":2}', b'{"id":"\\ud800"}']
            )
    return line.replace(b"\n", b" ")


def test_a_thousand_hostile_rows_end_in_one_sentence_each_and_never_in_a_traceback(bench: Bench) -> None:
    """Each row stands in a file of its own behind a good one, else the first defect would hide the others."""
    source = random.Random(20241101)
    good = json.dumps(instruction(1)).encode() + b"\n"
    found: Counter[str] = Counter()
    formats = ("PromptResponse", "Messages", "SelfInstruct", "OpenAssistant")
    spec = bench.seeds()
    for number in range(1000):
        uri = bench.put("hostile.jsonl", good + hostile_line(source) + b"\n")
        spec["instructions"] = {"uri": uri, "format": formats[0] if number % 2 else source.choice(formats)}
        problems = Problems()
        read_seed_sets(
            SeedDataSpec.model_validate(spec), JudgeSpec(), judge_prompt(), seed=1, problems=problems
        )
        try:
            problems.stop_if_any()
            found["taken"] += 1
        except BadData as error:
            found["refused"] += 1
            text = str(error)
            assert text.startswith(uri)
            assert "; expected " in text
            assert len(text) < 1024
            assert text.isprintable()
    assert found["taken"] > 50
    assert found["refused"] > 500
