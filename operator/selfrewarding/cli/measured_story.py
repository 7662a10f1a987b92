"""A row that measured models, on a terminal: its texts once, then what each round's judge made of them.

Neighbours: `explain` calls this; `lineage.measured` makes the story.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from selfrewarding.cli.story_text import heading, print_judgement, print_said, quoted, settled

if TYPE_CHECKING:
    from rich.console import Console

    from selfrewarding.lineage.facts import ModelFacts, StageFacts
    from selfrewarding.lineage.measured import MeasuredRound, MeasuredStory

_PREFERRED = {2.0: "the newest model's answer", 1.0: "the other one", 1.5: "tie"}


def print_measured(console: "Console", story: "MeasuredStory", *, full: bool) -> None:
    """Print the story; long texts to their end with `full`."""
    console.print(heading(f"measured row {story.key[:48]}"))
    console.print(quoted(f"key {story.key}\n"))
    if story.judged:
        row = story.judged[0].row
        _print_messages(console, row["prompt"], full=full)
        for index, answer in enumerate(row["responses"]):
            console.print(heading(f"Held-out answer {index}, people's rank {answer['rank']}"))
            console.print(quoted(answer["text"], full=full))
            for one in story.judged:
                console.print(quoted(f"\n{_judge(one)} ({_stage(one.stage)}):", style="bold"))
                for judgement in one.row["responses"][index]["judgements"]:
                    print_judgement(console, judgement, full=full)
            console.print()
    for one in story.compared:
        _print_comparison(console, one, full=full)
    for one in (*story.judged, *story.compared):
        console.print(
            quoted(f"{_stage(one.stage)}: {_named(one.model)}, judged by: {settled(one.judge)}", style="dim")
        )


def _print_comparison(console: "Console", one: "MeasuredRound", *, full: bool) -> None:
    row = one.row
    other = _named(one.against) if one.against else row["opponent"]
    preferred = _PREFERRED.get(row["preference"], "no verdict in one of the orders")
    console.print(heading(f"{_named(one.model)} against {other} ({_stage(one.stage)}): {preferred}"))
    for turn, text in enumerate(row["prompt"]):
        _print_messages(console, [{"role": "user", "content": text}], full=full)
        for name, answers in ((_named(one.model), row["answer"]), (other, row["other"])):
            console.print(quoted(f"{name}: ", style="bold"), end="")
            console.print(quoted(answers[turn], full=full))
    for place, order in zip(("first (A)", "second (B)"), row["verdicts"], strict=True):
        for tried in order["tries"]:
            said = f"verdict {tried['verdict']}" if tried["verdict"] else f"invalid: {tried['reason']}"
            what = f"{_named(one.model)}'s answer shown {place}, seed {tried['seed']}: {said}"
            print_said(console, what, tried["text"], full=full)
    console.print()


def _print_messages(console: "Console", messages: Sequence[Mapping[str, str]], *, full: bool) -> None:
    for message in messages:
        console.print(quoted(f"{message['role']}: ", style="bold"), end="")
        console.print(quoted(message["content"], full=full))


def _named(model: "ModelFacts | None") -> str:
    return model.name if model else "a model that is gone"


def _judge(one: "MeasuredRound") -> str:
    """Who judged: the model that was measured, unless the run has a judge of its own (`judge.modelUri`)."""
    uri = one.judge.get("modelUri")
    return f"{_named(one.model)} as judge" if uri is None else f"the dedicated judge {uri}"


def _stage(stage: "StageFacts") -> str:
    return f"{stage.kind} {stage.iteration}"
