"""A loop that chooses among DPO's candidates: the planner's own configurations, the real stage programs, a scripted server.

Models are not trained: how good each candidate is stands in the script, by the name that its server answers to.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.loop_with_programs import Loop, at_policy
from tests.support.scripted_server import Asked, ScriptedServer, default_reply, number_of
from tests.support.tiny_model import make_model
from tests.support.tiny_tokenizer import END, control_id, save_tokenizer

from selfrewarding.contract.artifacts import COMPARISONS
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.models import chosen

QUALITY = {"m2.1": 1, "m2.2": 3, "m2.3": 2, "m2.4": 9, "m2": 3}
"""The fourth would be the best: nobody looks at it, since the third is no better than the second."""
EARLY = {
    "dpo": {"maxLength": 4096, "earlyStopping": {"candidates": 4}},
    "evaluation": {"samples": 1, "bootstrap": 100, "headToHead": {"prompts": 8}},
}


def quality(text: str) -> int:
    return int(text.partition("quality ")[2][:1] or 0)


def reply(asked: Asked, seed: int) -> tuple[str, str]:
    """Answers that say how good they are, to a judge that believes them."""
    if asked.kind == "comparison":
        first, second = (quality(asked.prompt.partition(f"<answer_{label}>\n")[2]) for label in "ab")
        better = "Tie" if first == second else "A" if first > second else "B"
        return f"It says so.\nPreference: {better}", "stop"
    if asked.kind == "judgement":
        answer = asked.prompt.rpartition("<answer>\n")[2].partition("\n</answer>")[0]
        good = 2 if answer.startswith("A good answer") else 0
        return f"Because of {seed}.\nScore: {good + number_of(answer, below=4)}", "stop"
    if asked.kind == "answer":
        name = str(asked.body["model"]).partition("-")[0]
        words = " ".join(f"w{number_of(asked.prompt, seed, n, below=9999)}" for n in range(12))
        return f"quality {QUALITY.get(name, 0)}: {words}", "stop"
    return default_reply(asked, seed)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with ScriptedServer("policy") as scripted:
        at_policy(scripted, monkeypatch)
        scripted.reply = reply
        yield scripted


def test_the_second_of_four_is_chosen_and_is_m2(tmp_path: Path, server: ScriptedServer) -> None:
    model = make_model(tmp_path / "tiny", eos_token_id=control_id(END))
    for file in model.glob("*token*"):
        file.unlink()
    save_tokenizer(model)
    loop = Loop(tmp_path / "run", model, server, **EARLY)
    loop.finish_everything()
    assert loop.condition("Succeeded") == ("True", "AllIterationsDone"), loop.describe()

    select = loop.results[StageKind.SELECT, 2]
    found = chosen(select)
    assert found is not None
    assert found.key == loop.results[StageKind.PREFERENCE_OPTIMIZE, 2].key
    assert found.folder == "candidates/2"
    assert select.metrics == {"selected": 2.0, "winRateOfCandidate2": 1.0, "winRateOfCandidate3": 0.0}
    rows = loop.rows(StageKind.SELECT, 2, COMPARISONS)
    assert {row["opponent"] for row in rows} == {"candidate-1", "candidate-2"}
    assert len(rows) == 2 * 8
    (m2,) = [one for one in loop.status.models if one.name == "M2"]
    assert m2.uri.endswith(f"stages/Select/{select.key}")
    assert (m2.metrics.selected, m2.metrics.win_rate, m2.gate) == (2, 1, "Promoted")
    asked = {str(one.body["model"]).partition("-")[0] for one in server.requests if one.kind == "answer"}
    assert {"m2.1", "m2.2", "m2.3", "m2.4", "m2"} <= asked
    judges = {str(one.body["model"]).partition("-")[0] for one in server.requests if one.kind == "comparison"}
    assert judges == {"m2.4", "m1", "m2"}, "the newest candidate, then the models themselves"
