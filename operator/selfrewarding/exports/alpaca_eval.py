"""Answers as the package `alpaca_eval` reads them (github.com/tatsu-lab/alpaca_eval, version 0.6).

Purpose: `model_outputs.json` for `alpaca_eval evaluate`, and a model's configuration for `alpaca_eval evaluate_from_model`.
Must not: import that package.
Neighbours: `answers` reads them; tests/local/exports runs the real package on what is written here.
"""

import json
from typing import Any

from selfrewarding.exports.answers import ModelAnswers, NothingToExport

MODEL_OUTPUTS = "model_outputs.json"
REFERENCE_OUTPUTS = "reference_outputs.json"
CONFIGS = "models_configs"
_PROMPT = "<|im_start|>user\n{instruction}\n<|im_end|>\n"
"""What `openai_completions` turns into one chat message of the user; the server's chat template does the rest."""


def outputs(answers: ModelAnswers) -> list[dict[str, Any]]:
    """The content of `model_outputs.json`. Raises NothingToExport for a set of conversations."""
    longest = max((len(row["turns"]) for row in answers.rows), default=0)
    if longest != 1:
        raise NothingToExport(
            f"the set {answers.set} has conversations of {longest} turns, AlpacaEval knows one instruction and one output: "
            "name another set with --set, or export this one with mt-bench"
        )
    return [
        {
            "dataset": row.get("category") or answers.set,
            "instruction": row["turns"][0],
            "output": row["answers"][0]["text"],
            "generator": answers.generator,
        }
        for row in answers.rows
    ]


def model_config(answers: ModelAnswers) -> dict[str, Any]:
    """The content of `models_configs/<generator>/configs.yaml`: the model behind an OpenAI-compatible server, asked as
    Evaluate asked it. The name is the one that `srr export lm-eval` asks for too: that of the run's own server, which
    `sampling` has, went with it."""
    sampling = answers.sampling
    return {
        answers.generator: {
            "prompt_template": f"{answers.generator}/prompt.txt",
            "fn_completions": "openai_completions",
            "completions_kwargs": {
                "model_name": answers.generator,
                "requires_chatml": True,
                "max_tokens": sampling.get("maxTokens", 1024),
                "temperature": sampling.get("temperature", 0.7),
                "top_p": sampling.get("topP", 0.9),
            },
            "pretty_name": answers.generator,
        }
    }


def files(answers: ModelAnswers, reference: ModelAnswers | None = None) -> dict[str, str]:
    """All files of the export by relative path."""
    import yaml

    folder = f"{CONFIGS}/{answers.generator}"
    found = {
        MODEL_OUTPUTS: _json(outputs(answers)),
        f"{folder}/configs.yaml": str(yaml.safe_dump(model_config(answers), sort_keys=False)),
        f"{folder}/prompt.txt": _PROMPT,
    }
    if reference is not None:
        found[REFERENCE_OUTPUTS] = _json(_aligned(outputs(reference), answers, reference))
    return found


def _aligned(
    found: list[dict[str, Any]], answers: ModelAnswers, reference: ModelAnswers
) -> list[dict[str, Any]]:
    """The reference's outputs in the order of the answers: the package joins the two by position or by instruction."""
    by_key = {row["key"]: output for row, output in zip(reference.rows, found, strict=True)}
    missing = [row["key"] for row in answers.rows if row["key"] not in by_key]
    if missing:
        raise NothingToExport(
            f"{reference.model} answered {len(missing)} of the prompts of {answers.set} not, for example {missing[0]}: "
            "compare models that answered the same prompts"
        )
    return [by_key[row["key"]] for row in answers.rows]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
