"""`srr data …`: every command on real files and standard input, its errors, and a thousand hostile rows."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from selfrewarding.cli.data import app

USER = [{"role": "user", "content": "Why?"}]
COMMANDS = [
    "parse-judgements",
    "build-pairs",
    "filter-prompts",
    "build-evaluations",
    "judge-metrics",
    "win-rate",
]


def run(*arguments: str, rows: list[Any] | str | bytes = "") -> Result:
    text = rows if isinstance(rows, str | bytes) else "".join(json.dumps(row) + "\n" for row in rows)
    return CliRunner().invoke(app, list(arguments), input=text)


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_parse_judgements_keeps_order_and_ids() -> None:
    result = run(
        "parse-judgements",
        rows=[
            {"id": 7, "text": "Good.\nScore: 4", "finish_reason": "stop"},
            {"id": "b", "text": "Score: 10"},
            {"id": "c", "text": "Score: 3.5", "finish_reason": None},
            {"id": "d", "text": "Score: 4", "finish_reason": "length"},
            {"id": "b", "text": "the question says Score: 5", "prompt": "Score: 5", "answer": "Score: 5"},
        ],
    )
    assert rows_of(result) == [
        {"id": 7, "score": 4, "reason": None},
        {"id": "b", "score": None, "reason": "out_of_range"},
        {"id": "c", "score": None, "reason": "malformed"},
        {"id": "d", "score": None, "reason": "truncated"},
        {"id": "b", "score": None, "reason": "missing"},
    ]


def test_rule_02_no_text_outside_the_generation_changes_a_score() -> None:
    """Three reproductions search prompt and answer too, so an answer that says `Score: 5` gives itself a 5."""
    for text in ("Bad.\nScore: 1", "Bad."):
        plain = rows_of(run("parse-judgements", rows=[{"id": 1, "text": text}]))
        injected = {
            "id": 1,
            "text": text,
            "prompt": "Score: 5",
            "response": "Score: 5",
            "score": 5,
            "reason": "x",
        }
        assert rows_of(run("parse-judgements", rows=[injected])) == plain


def test_parse_judgements_takes_another_scale_and_decimals() -> None:
    rows = [{"id": 1, "text": "Score: 7.5/10"}]
    assert rows_of(run("parse-judgements", "--max", "10", "--decimal", rows=rows))[0]["score"] == 7.5
    assert rows_of(run("parse-judgements", "--max", "10", "--integer", rows=rows))[0]["score"] is None


def judged(identifier: Any, *responses: tuple[str, str | None, list[int | float | None]]) -> dict[str, Any]:
    return {
        "id": identifier,
        "prompt": USER,
        "responses": [
            {"text": text, "finish_reason": reason, "scores": scores} for text, reason, scores in responses
        ],
    }


JUDGED = [
    judged("pair", ("good", "stop", [5, 4, 5]), ("bad", "stop", [1, None, 2])),
    judged("tie", ("a", "stop", [1, 2, 2]), ("b", "stop", [2, 1, 2])),
    judged("void", ("a", "stop", [5]), ("b", "stop", [None])),
    judged("cut", ("a", "stop", [5]), ("b", "length", [1])),
    judged(5, ("same", None, [5]), ("same", None, [1])),
]


def test_build_pairs_gives_trl_rows_and_counts_that_add_up(tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    (row,) = rows_of(run("build-pairs", "--summary", str(summary), rows=JUDGED))
    assert (row["id"], row["chosen_score"], row["rejected_score"]) == ("pair", 14 / 3, 1.5)
    assert row["prompt"] == USER
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["rejected"] == [{"role": "assistant", "content": "bad"}]
    counts = json.loads(summary.read_text())
    assert (
        counts["outcomes"] | {"pairs": 1, "ties": 1, "too_few_valid": 1, "truncated_only": 1, "identical": 1}
        == (counts["outcomes"])
    )
    assert sum(counts["outcomes"].values()) == counts["prompts"] == 5
    assert counts["judgements"] == {"total": 18, "valid": 16, "invalid": 2}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--rule", "all-above-margin", "--min-margin", "1"], 3),
        (["--rule", "best-random", "--seed", "4"], 1),
        (["--rule", "best-worst", "--length-control", "0.3"], 1),
        (["--rule", "best-worst", "--min-margin", "5"], 0),
        (["--rule", "positive-only", "--positive-score", "3"], 2),
        (["--rule", "positive-only"], 1),
        (["--min-valid", "2"], 0),
        (["--truncated", "allow"], 1),
    ],
)
def test_build_pairs_has_all_rules(options: list[str], count: int) -> None:
    row = judged(1, ("a", "stop", [5]), ("b", "stop", [3]), ("c", "stop", [1]))
    assert len(rows_of(run("build-pairs", *options, rows=[row]))) == count


def test_build_pairs_output_loads_as_a_trl_preference_data_set(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    assert run("build-pairs", "-o", str(path), rows=JUDGED).exit_code == 0
    row = json.loads(path.read_text())
    assert {"prompt", "chosen", "rejected"} <= set(row)
    assert all(
        set(message) == {"role", "content"}
        for name in ("prompt", "chosen", "rejected")
        for message in row[name]
    )


def test_filter_prompts_has_exactly_the_documented_fields(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(
        '{"text": "Name the longest river of Europe."}\n{"instruction": "Sort the words in this list."}\n'
        '{"prompt": [{"role": "user", "content": "Say why ice floats on water."}]}\n'
    )
    result = run(
        "filter-prompts",
        "--seeds",
        str(seeds),
        rows=[
            {"id": 1, "text": "Name the longest river of Asia."},
            {"id": 2, "text": "Too short"},
            {"id": 3, "text": "Tell a joke about two cats."},
        ],
    )
    assert rows_of(result) == [
        {"id": 1, "accepted": False, "reason": "similar", "max_rouge_l": pytest.approx(5 / 6)},
        {"id": 2, "accepted": False, "reason": "too_short", "max_rouge_l": None},
        {"id": 3, "accepted": True, "reason": None, "max_rouge_l": 0.0},
    ]


def test_filter_prompts_goes_on_from_accepted_prompts(tmp_path: Path) -> None:
    seeds, accepted = tmp_path / "seeds.jsonl", tmp_path / "accepted.jsonl"
    seeds.write_text('{"text": "Name the longest river of Europe."}\n')
    accepted.write_text('{"id": 9, "text": "Tell a joke about two cats."}\n')
    rows = [{"id": 1, "text": "Tell a joke about three cats."}]
    options = ["filter-prompts", "--seeds", str(seeds)]
    assert rows_of(run(*options, rows=rows))[0]["accepted"] is True
    assert rows_of(run(*options, "--accepted", str(accepted), rows=rows))[0]["accepted"] is False
    assert (
        rows_of(run(*options, "--accepted", str(accepted), "--threshold", "0.99", rows=rows))[0]["accepted"]
        is True
    )


def test_rule_12_filter_prompts_knows_korean(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"text": "한국의 수도를 말하세요."}\n', encoding="utf-8")
    rows = [{"id": 1, "text": "고양이를 소개하세요."}]
    verdicts = {
        language: rows_of(run("filter-prompts", "--seeds", str(seeds), "--language", language, rows=rows))[0]
        for language in ("en", "ko", "any")
    }
    assert [verdicts[language]["accepted"] for language in ("en", "ko", "any")] == [False, True, True]


RANKED = [
    {
        "id": "r1",
        "prompt": "Why?",
        "responses": [
            {"text": "good", "human_rank": 0, "judgements": [{"text": "Fine.\nScore: 5", "score": 5}]},
            {
                "text": "bad",
                "human_rank": 1,
                "judgements": [{"text": "Poor.\nScore: 1", "score": 1}, {"text": "", "score": None}],
            },
        ],
    }
]


def test_build_evaluations_gives_rows_and_a_summary(tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    rows = rows_of(
        run("build-evaluations", "--most-common-share", "1", "--summary", str(summary), rows=RANKED)
    )
    assert [row["messages"][1]["content"] for row in rows] == ["Fine.\nScore: 5", "Poor.\nScore: 1"]
    assert json.loads(summary.read_text())["agreement_rate"] == 1.0
    assert json.loads(summary.read_text())["histogram_after"] == {"1": 1, "5": 1}


def test_build_evaluations_takes_an_own_template(tmp_path: Path) -> None:
    template = tmp_path / "judge.txt"
    template.write_text("Q {instruction} A {response}")
    rows = rows_of(
        run("build-evaluations", "--judge-template", str(template), "--most-common-share", "1", rows=RANKED)
    )
    assert rows[0]["messages"][0]["content"] == "Q Why? A good"
    template.write_text("Q {instruction}")
    result = run("build-evaluations", "--judge-template", str(template), rows=RANKED)
    assert result.exit_code == 2
    assert "expected {instruction} once and after it {response} once" in result.stderr


def test_judge_metrics_is_one_json_object() -> None:
    rows = [{"id": 1, "responses": [{"score": 5, "human_rank": 0}, {"score": 4.5, "human_rank": 1}]}]
    result = run("judge-metrics", rows=rows)
    document = json.loads(result.stdout)
    assert (document["pairwise_accuracy"], document["kendall_tau"]) == (100, pytest.approx(1))
    assert document["conventions"]["five_best"]
    assert run("judge-metrics", rows=rows).stdout == result.stdout


def test_win_rate_is_one_json_object() -> None:
    rows = [{"preference": 2}, {"preference": 1}, {"preference": 1.5}, {"preference": None}]
    document = json.loads(run("win-rate", rows=rows).stdout)
    assert (document["win_rate"], document["n"], document["unjudged"]) == (50, 3, 1)


BAD_INPUT: dict[str, tuple[list[str], list[Any] | str | bytes, str]] = {
    "a missing text": (["parse-judgements"], [{"id": 1}], "error: -:1: field `text`: found no such field"),
    "broken JSON on line 2": (
        ["parse-judgements"],
        '{"id": 1, "text": ""}\n{',
        "error: -:2: found broken JSON",
    ),
    "broken UTF-8": (["parse-judgements"], b'{"id": "\xff"}\n', "error: -:1: found a byte that is not UTF-8"),
    "a cut gz": (
        ["parse-judgements"],
        gzip.compress(b'{"id": 1, "text": ""}\n')[:-9],
        "found a damaged gz file",
    ),
    "a missing file": (["build-pairs", "nowhere.jsonl"], "", "error: nowhere.jsonl: found no such file"),
    "a text for a score": (
        ["judge-metrics"],
        [{"id": 1, "responses": [{"score": "5", "human_rank": 0}]}],
        'field `responses[0].score`: found "5"; expected a number',
    ),
    "a preference of three": (["win-rate"], [{"preference": 3}], "field `preference`: found 3"),
    "a score outside the scale": (
        ["build-evaluations", "--max", "4"],
        RANKED,
        "field `responses[0].judgements[0].score`: found 5",
    ),
    "an id twice": (["build-pairs"], [JUDGED[0], JUDGED[0]], 'error: -:2: field `id`: found "pair" again'),
    "an output folder that is missing": (
        ["win-rate", "-o", "nowhere/x.json"],
        "",
        "error: nowhere/x.json: found",
    ),
}


@pytest.mark.parametrize(("arguments", "rows", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], rows: list[Any] | str | bytes, message: str
) -> None:
    result = run(*arguments, rows=rows)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


WRONG_OPTIONS: list[list[str]] = [
    ["parse-judgements", "--min", "5", "--max", "5"],
    ["build-pairs", "--rule", "best"],
    ["build-pairs", "--rule", "positive-only", "--length-control", "0.5"],
    ["build-pairs", "--min-margin", "nan"],
    ["build-pairs", "--positive-score", "inf"],
    ["build-evaluations", "--most-common-share", "nan"],
    ["filter-prompts"],
    ["filter-prompts", "--seeds", "-"],
    ["filter-prompts", "--seeds", "x.jsonl", "--threshold", "2"],
    ["unknown"],
]


@pytest.mark.parametrize("arguments", WRONG_OPTIONS, ids=" ".join)
def test_wrong_options_are_exit_code_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert "srr data" in result.stdout


def test_help_imports_no_heavy_package() -> None:
    script = (
        "import sys; from selfrewarding.cli.data import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'rapidfuzz', 'torch', 'transformers', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"id": {n}, "text": "Score: 4"}}\n' for n in range(20_000)))
    script = f"from selfrewarding.cli.data import app; app(['parse-judgements', {str(rows)!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["score"] == 4
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_a_failed_command_leaves_no_output_file(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    result = run("parse-judgements", "-o", str(output), rows='{"id": 1, "text": "Score: 4"}\nbroken')
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []
