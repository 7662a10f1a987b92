"""Every number of Evaluate's metrics file has its convention beside it, the share of valid judgements too."""

import json
from pathlib import Path

import pytest
from tests.support.sampler_stages import Workplace
from tests.support.scripted_server import Asked, ScriptedServer, default_reply

from selfrewarding.api.algorithm import JudgeSpec
from selfrewarding.api.evaluation import EvaluationSpec
from selfrewarding.contract.config import EvaluateParameters
from selfrewarding.store.results import read_file
from srr_sampler import evaluate

HELD_OUT = [
    {
        "key": f"h{number}",
        "prompt": [{"role": "user", "content": f"Question {number}?"}],
        "responses": [
            {"text": f"{text} {number}", "rank": rank} for rank, text in enumerate(("good", "bad"))
        ],
    }
    for number in range(4)
]


def test_invalid_judgements_count_in_the_rate_as_its_convention_says(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    def judge(asked: Asked, seed: int) -> tuple[str, str]:
        if asked.kind != "judgement":
            return default_reply(asked, seed)
        good = "<answer>\ngood" in asked.prompt
        return ("It answers.\nScore: 4" if good else "I will not say.", "stop")

    server.reply = judge
    config = place.config(
        EvaluateParameters(judge=JudgeSpec(retries=1), evaluation=EvaluationSpec(samples=2, bootstrap=100)),
        prepare=place.prepare(tokenizer=tokenizer_folder, held_out=HELD_OUT),
    )
    result = place.run(evaluate.main, config)
    measured = json.loads(read_file(place.store, result, "metrics.json"))
    # Of each prompt: 2 valid judgements of the good answer, and 2 + 2 invalid ones of the bad one.
    assert result.counts["judgements"] == 4 * 6
    assert measured["valid_rate"] == pytest.approx(100 * 2 / 6)
    assert "though it is asked for again" in measured["conventions"]["valid_rate"]
    numbers = {name for name, value in measured.items() if not isinstance(value, dict)}
    assert numbers <= measured["conventions"].keys()
