"""The real packages alpaca_eval and lm_eval on what `srr export` writes, against endpoints on loopback."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from tests.support.benchmark_tools import Endpoint, benchmark_tools, run_tool, srr
from tests.support.lineage_run import FinishedRun, with_answers
from tests.support.tiny_tokenizer import save_tokenizer
from transformers import AutoTokenizer

PROMPTS = 12
JUDGE_PROMPT = """<|im_start|>user
Instruction: {instruction}
Output (a): {output_1}
Output (b): {output_2}
Which is better?
<|im_end|>
"""


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of the real programs."""
    return benchmark_tools()


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    made = FinishedRun(tmp_path / "store", prompts=2)
    with_answers(made, {"m1": "Weak", "m2": "Strong"}, prompts=PROMPTS)
    return made


def judge(messages: list[dict[str, str]]) -> str:
    """Prefers the strong answer, but for questions 0 and 1 the weak one: 10 of 12 are won."""
    text = messages[-1]["content"]
    strong = "(a)" if "Output (a): Strong" in text else "(b)"
    other = "(b)" if strong == "(a)" else "(a)"
    return other if any(f"Question {number}.0:" in text for number in (0, 1)) else strong


def test_alpaca_eval_judges_an_export(run: FinishedRun, tools: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    run_tool(
        [srr(), "export", "alpaca-eval", "--set", "alpaca", "--reference", "M1", "-o", exported,
         "--store", run.store.uri],
        cwd=tmp_path,
    )  # fmt: skip
    evaluators = tmp_path / "evaluators"
    evaluators.mkdir()
    (evaluators / "prompt.txt").write_text(JUDGE_PROMPT)
    parser = {"outputs_to_match": {1: r"\(a\)", 2: r"\(b\)"}}
    settings = {
        "prompt_template": str(evaluators / "prompt.txt"),
        "fn_completions": "openai_completions",
        "completions_kwargs": {"model_name": "local-judge", "max_tokens": 8, "temperature": 0},
        "fn_completion_parser": "regex_parser",
        "completion_parser_kwargs": parser,
        "batch_size": 1,
    }
    (evaluators / "configs.yaml").write_text(yaml.safe_dump({"local_judge": settings}))
    with Endpoint(chat=judge) as endpoint:
        run_tool(
            [tools / "alpaca_eval", "evaluate",
             "--model_outputs", exported / "model_outputs.json",
             "--reference_outputs", exported / "reference_outputs.json",
             "--annotators_config", evaluators / "configs.yaml",
             "--output_path", tmp_path / "leaderboard", "--caching_path", tmp_path / "annotations.json",
             "--precomputed_leaderboard", "None", "--fn_metric", "get_winrate", "--sort_by", "win_rate"],
            cwd=tmp_path, OPENAI_API_KEY="none", OPENAI_API_BASE=f"{endpoint.url}/v1", IS_ALPACA_EVAL_2="False",
        )  # fmt: skip
        assert len(endpoint.asked) == PROMPTS
        assert {asked["model"] for asked in endpoint.asked} == {"local-judge"}
    with (tmp_path / "leaderboard/leaderboard.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line[""] == "demo-M2"
    assert int(line["n_total"]) == PROMPTS
    assert float(line["win_rate"]) == pytest.approx(100 * 10 / 12)
    annotations = json.loads((tmp_path / "leaderboard/annotations.json").read_text())
    assert {row["generator_1"] for row in annotations} == {"demo-M1"}
    assert all(row["output_2"].startswith("Strong") for row in annotations)


def test_alpaca_eval_asks_a_model_by_its_exported_configuration(
    run: FinishedRun, tools: Path, tmp_path: Path
) -> None:
    exported = tmp_path / "exported"
    run_tool(
        [srr(), "export", "alpaca-eval", "--set", "alpaca", "-o", exported, "--store", run.store.uri],
        cwd=tmp_path,
    )
    (tmp_path / "questions.json").write_bytes((exported / "model_outputs.json").read_bytes())
    script = (
        "from alpaca_eval import utils, decoders; import pandas, sys\n"
        f"base = {str(exported / 'models_configs')!r}\n"
        "config = utils.load_configs('demo-M2', relative_to=__import__('pathlib').Path(base))['demo-M2']\n"
        "frame = pandas.read_json(sys.argv[1])\n"
        "template = utils.read_or_return(config['prompt_template'], relative_to=__import__('pathlib').Path(base))\n"
        "prompts, _ = utils.make_prompts(frame, template=template)\n"
        "answer = decoders.get_fn_completions(config['fn_completions'])\n"
        "print(answer(prompts=prompts, **config['completions_kwargs'])['completions'])\n"
    )
    with Endpoint(chat=lambda messages: f"heard: {messages[-1]['content'].strip()}") as endpoint:
        printed = run_tool(
            [tools / "python", "-c", script, tmp_path / "questions.json"],
            cwd=tmp_path, OPENAI_API_KEY="none", OPENAI_API_BASE=f"{endpoint.url}/v1",
        )  # fmt: skip
        asked = endpoint.asked
    assert len(asked) == PROMPTS
    assert "heard: Question 3.0: what is 3 plus 0?" in printed
    for body in asked:
        assert (body["model"], body["max_tokens"]) == ("demo-M2", 256)
        assert (body["temperature"], body["top_p"]) == (0.7, 0.9)
        assert [message["role"] for message in body["messages"]] == ["user"]


def test_lm_eval_scores_a_served_model(run: FinishedRun, tools: Path, tmp_path: Path) -> None:
    """A task of the test's own, multiple choice by log probability; what is right is computed here too."""
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    questions = [
        {
            "question": f"Which word goes with {word}?",
            "choices": ["red", "blue", "green stone"],
            "answer": number % 3,
        }
        for number, word in enumerate(["sky", "grass", "rose", "sea", "leaf", "fire", "ice"])
    ]
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    task = {
        "task": "own_words",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tasks / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tasks / "own_words.yaml").write_text(yaml.safe_dump(task))

    def logprob(token: int) -> float:
        return -0.1 - (token * 7919 % 101) / 50

    with Endpoint(logprob=logprob) as endpoint:
        printed = run_tool(
            [srr(), "export", "lm-eval", "--start", "--program", tools / "lm_eval", "--url", endpoint.url,
             "--tasks", "own_words", "--include", tasks, "--tokenizer", tokenizer, "--model", "M2",
             "--max-length", "256", "-o", tmp_path / "out", "--store", run.store.uri],
            cwd=tmp_path,
        )  # fmt: skip
        assert len(endpoint.asked) >= 1
        assert {body["model"] for body in endpoint.asked} == {"demo-M2"}
        assert all(isinstance(token, int) for body in endpoint.asked for token in _first(body["prompt"]))
    (written,) = (tmp_path / "out/results").rglob("results_*.json")
    found = json.loads(written.read_text())["results"]["own_words"]

    words = AutoTokenizer.from_pretrained(str(tokenizer))
    right = 0
    for row in questions:
        context = len(words(str(row["question"]), add_special_tokens=False)["input_ids"])
        scores = []
        for choice in ("red", "blue", "green stone"):
            ids = words(f"{row['question']} {choice}", add_special_tokens=False)["input_ids"]
            scores.append(sum(logprob(token) for token in ids[context:]))
        right += scores.index(max(scores)) == row["answer"]
    assert 0 < right < len(questions)
    assert found["acc,none"] == pytest.approx(right / len(questions)), printed


def _first(prompt: list[object]) -> list[object]:
    return prompt[0] if isinstance(prompt[0], list) else prompt
