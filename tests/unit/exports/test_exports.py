"""Answers as AlpacaEval's and FastChat's files, and the command line of the harness."""

import json
from pathlib import Path

import pytest
import yaml
from tests.support.lineage_run import RUN, FinishedRun, answer_row, with_answers
from typer.testing import CliRunner, Result

from selfrewarding.cli.app import app
from selfrewarding.exports import alpaca_eval, mt_bench
from selfrewarding.exports.answers import ModelAnswers, NothingToExport, model_answers
from selfrewarding.exports.lm_eval import Harness, command
from selfrewarding.store.run_results import RunResults, results_of_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Nobody changes it."""
    made = FinishedRun(tmp_path_factory.mktemp("run"), prompts=2)
    with_answers(made, {"baseline": "Plainly", "m1": "First", "m2": "Second"})
    return made


@pytest.fixture
def results(run: FinishedRun) -> RunResults:
    return results_of_run(run.store, RUN)


def srr(run: FinishedRun, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["export", *arguments, "--store", run.store.uri], env={"COLUMNS": "200"})


def test_outputs_of_alpaca_eval(run: FinishedRun, results: RunResults) -> None:
    answers = model_answers(run.store, results, model="M2", prompts="alpaca")
    found = alpaca_eval.outputs(answers)
    assert len(found) == 6
    for row, output in zip(answers.rows, found, strict=True):
        assert output == {
            "dataset": "helpful_base",
            "instruction": row["turns"][0],
            "output": row["answers"][0]["text"],
            "generator": "demo-M2",
        }
    config = alpaca_eval.model_config(answers)["demo-M2"]
    assert config["completions_kwargs"] == {
        "model_name": "demo-M2",
        "requires_chatml": True,
        "max_tokens": 256,
        "temperature": 0.7,
        "top_p": 0.9,
    }


def test_a_reference_has_the_same_prompts_in_the_same_order(run: FinishedRun, results: RunResults) -> None:
    answers = model_answers(run.store, results, model="M2", prompts="alpaca")
    reference = model_answers(run.store, results, model="Baseline", prompts="alpaca")
    shuffled = ModelAnswers(
        reference.model, reference.generator, reference.set, reference.rows[::-1], reference.sampling, None
    )
    files = alpaca_eval.files(answers, shuffled)
    ours, theirs = json.loads(files["model_outputs.json"]), json.loads(files["reference_outputs.json"])
    assert [row["instruction"] for row in ours] == [row["instruction"] for row in theirs]
    assert {row["generator"] for row in theirs} == {"demo-Baseline"}
    fewer = ModelAnswers("M1", "demo-M1", "alpaca", reference.rows[1:], {}, None)
    with pytest.raises(NothingToExport, match="M1 answered 1 of the prompts of alpaca not"):
        alpaca_eval.files(answers, fewer)


def test_answers_of_mt_bench(run: FinishedRun, results: RunResults) -> None:
    answers = model_answers(run.store, results, model="M1", prompts="mt-bench")
    questions, given = mt_bench.questions(answers), mt_bench.model_answer(answers)
    assert [row["question_id"] for row in questions] == [row["question_id"] for row in given] == [80, 81]
    assert questions[0]["category"] == "writing"
    assert len(questions[0]["turns"]) == len(given[0]["choices"][0]["turns"]) == 2
    assert given[1]["choices"] == [{"index": 0, "turns": ["First 1.0", "First 1.1"]}]
    assert given[0]["model_id"] == "demo-M1"
    assert given[0]["tstamp"] > 1_700_000_000
    assert len(given[0]["answer_id"]) == 22
    assert given == mt_bench.model_answer(answers), "an export may be repeated"
    assert given[0]["answer_id"] != given[1]["answer_id"]


def test_sets_that_a_benchmark_cannot_read_are_refused(run: FinishedRun, results: RunResults) -> None:
    answers = model_answers(run.store, results, model="M1", prompts="mt-bench")
    with pytest.raises(NothingToExport, match=r"conversations of 2 turns.*export this one with mt-bench"):
        alpaca_eval.outputs(answers)
    row = answer_row("own", 1, text="a") | {"id": "prompt-7"}
    with pytest.raises(NothingToExport, match="the id 'prompt-7', MT-Bench's questions have numbers"):
        mt_bench.questions(ModelAnswers("M1", "demo-M1", "own", [row], {}, None))


def test_what_there_is_to_export_is_said(run: FinishedRun, results: RunResults) -> None:
    assert model_answers(run.store, results, prompts="alpaca").model == "M2", "the newest that has answers"
    for model, name, expected in (
        ("M3", None, r"no answers of M3 \(it has those of: Baseline, M1, M2\)"),
        ("M1", None, r"several sets \(alpaca, mt-bench\): say which one with --set"),
        ("M1", "other", r"no set 'other' \(it answered: alpaca, mt-bench\)"),
    ):
        with pytest.raises(NothingToExport, match=expected):
            model_answers(run.store, results, model=model, prompts=name)


def test_the_commands_write_files_and_say_what_is_next(run: FinishedRun, tmp_path: Path) -> None:
    result = srr(run, "alpaca-eval", "--set", "alpaca", "--reference", "M1", "-o", str(tmp_path / "a"))
    assert result.exit_code == 0, result.output
    assert "6 prompts of alpaca, answered by demo-M2" in result.output
    assert f"--reference_outputs {tmp_path}/a/reference_outputs.json" in result.output
    config = yaml.safe_load((tmp_path / "a/models_configs/demo-M2/configs.yaml").read_text())
    assert (tmp_path / "a/models_configs" / config["demo-M2"]["prompt_template"]).is_file()
    assert (
        f"vllm serve FOLDER --served-model-name {config['demo-M2']['completions_kwargs']['model_name']} "
        in result.output
    )
    result = srr(run, "mt-bench", "--set", "mt-bench", "-o", str(tmp_path / "m"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "m/data/mt_bench/question.jsonl").is_file()
    assert (tmp_path / "m/data/mt_bench/model_answer/demo-M2.jsonl").is_file()
    assert "--bench-name mt_bench --model-list demo-M2" in result.output
    for arguments in (("alpaca-eval", "--set", "mt-bench"), ("mt-bench", "--model", "M9")):
        result = srr(run, *arguments, "-o", str(tmp_path / "n"))
        assert result.exit_code == 2
        assert "Traceback" not in result.output
        assert not (tmp_path / "n").exists()


@pytest.mark.parametrize(
    "url", ["http://h:8000", "http://h:8000/", "http://h:8000/v1", "http://h:8000/v1/completions"]
)
def test_the_harness_asks_the_completions_of_the_server(url: str) -> None:
    words = command(
        Harness(url=url, served="m", tokenizer=Path("/t"), tasks=("a", "b"), limit=5, shots=0, seed=3)
    )
    assert words[:3] == ["lm_eval", "--model", "local-completions"]
    settings = dict(part.split("=", 1) for part in words[words.index("--model_args") + 1].split(","))
    assert settings["base_url"] == "http://h:8000/v1/completions"
    assert settings["tokenizer"] == "/t"
    assert words[words.index("--tasks") + 1] == "a,b"
    assert words[words.index("--num_fewshot") + 1] == "0"
    assert words[words.index("--seed") + 1] == "3"
    assert "--output_path" not in words


def test_the_harness_command_is_printed_with_the_models_own_tokenizer(
    run: FinishedRun, tmp_path: Path
) -> None:
    result = srr(run, "lm-eval", "--url", "http://h:8000", "--tasks", "arc_easy", "-o", str(tmp_path))
    assert result.exit_code == 2, "these models have no tokenizer"
    assert "give the tokenizer's folder with --tokenizer DIR" in result.output
    told = (
        "lm-eval",
        "--url",
        "http://h:8000",
        "--tasks",
        "arc_easy",
        "--tokenizer",
        "/t",
        "-o",
        str(tmp_path),
    )
    result = srr(run, *told)
    assert "model=demo-M3,base_url=http://h:8000/v1/completions" in result.output
    result = srr(run, *told, "--start", "--program", "/no/such/lm_eval")
    assert result.exit_code == 2
    assert "install the package lm-eval[api]" in result.output
