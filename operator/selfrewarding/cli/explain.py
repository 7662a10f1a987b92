"""`srr explain`: the story of one preference pair."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfrewarding.cli.find_run import ArtifactsOption, FileOption, RunOption, StoreOption, find_run, refusal
from selfrewarding.cli.story_text import printable, quoted

if TYPE_CHECKING:
    from rich.console import Console

    from selfrewarding.lineage.explain import PairStory

Row = dict[str, Any]


def explain_command(
    pair: Annotated[
        str, typer.Argument(help="Key of a pair (or of a prompt), or the beginning of it.", metavar="PAIR")
    ],
    file: FileOption = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    run: RunOption = None,
    store: StoreOption = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Print long texts to their end.")] = False,
) -> None:
    """Tell how a preference pair came about: prompt, its few-shot examples, all answers, every judgement, models.

    Keys stand in the field `key` of pairs.jsonl, in the report, and in alarms.

    Example: srr explain 3f9c2a71
    """
    from selfrewarding.lineage.explain import UnknownPair, explain_pair
    from selfrewarding.store.errors import StoreError

    found = find_run(file, artifacts, run, store)
    try:
        story = explain_pair(found.store, found.results, pair)
    except (UnknownPair, StoreError) as error:
        raise refusal(str(error)) from None
    if as_json:
        typer.echo(json.dumps(story.as_json(), indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    _print(Console(highlight=False), story, full=full)


def _print(console: "Console", story: "PairStory", *, full: bool) -> None:
    from rich.rule import Rule

    console.print(Rule(f"{story.kind} {story.key[:16]}, iteration {story.iteration}", align="left"))
    console.print(quoted(f"key {story.key}\n{_outcome(story)}\n"))
    _print_prompt(console, story, full=full)
    for index, answer in enumerate(story.answers):
        _print_answer(console, story, index, answer, full=full)
    _print_origins(console, story)


def _outcome(story: "PairStory") -> str:
    row = story.row
    if row is None:
        return f"pairs: {', '.join(story.pairs)}" if story.pairs else "no pair came of this prompt"
    scores = (
        f"chosen {row['chosen_score']:g}, rejected {row['rejected_score']:g}"
        if story.kind == "pair"
        else f"score {row['score']:g}"
    )
    return f"rule {row['provenance']['rule']}: {scores}"


def _messages(story: "PairStory") -> list[dict[str, str]]:
    """The prompt; a positive example has it before its target."""
    if story.row is not None:
        return list(story.row.get("prompt") or story.row["messages"][:-1])
    return list(story.prompt["prompt"]) if story.prompt else []


def _print_prompt(console: "Console", story: "PairStory", *, full: bool) -> None:
    from rich.rule import Rule

    prompt = story.prompt
    console.print(Rule("Prompt", align="left"))
    for message in _messages(story):
        console.print(quoted(f"{message['role']}: ", style="bold"), end="")
        console.print(quoted(message["content"], full=full))
    if prompt is not None:
        console.print(quoted(f"\n{_written(story, prompt)}", style="dim"))
        for shot in story.shots:
            text = " ".join((shot.text or "not in the store any more").split())
            named = f" {shot.id}" if shot.id else ""
            console.print(quoted(f"  {shot.origin}{named} [{shot.key[:16]}] {text[:160]}", style="dim"))
    console.print()


def _written(story: "PairStory", prompt: Row) -> str:
    how = _settings(story.sampling.get("writes", {}))
    return (
        f"written in request {prompt.get('request')} with seed {prompt.get('seed')}, item {prompt.get('id')} ({how}); "
        "the examples that the writer was shown:"
    )


def _print_answer(console: "Console", story: "PairStory", index: int, answer: Row, *, full: bool) -> None:
    from rich.rule import Rule

    provenance = story.row["provenance"] if story.row else {}
    roles = {
        provenance.get("chosen_index", provenance.get("index")): ("chosen", "green"),
        provenance.get("rejected_index"): ("rejected", "red"),
    }
    role, style = roles.get(index, ("", "default"))
    means = provenance.get("means")
    scored = f": mean {means[index] or 'undefined'}" if means else ""
    title = f"Answer {index}{f', {role}' if role else ''}{scored}"
    console.print(Rule(title, align="left", style=style))
    console.print(quoted(answer["text"], full=full))
    tokens = answer.get("tokens", {}).get("output")
    console.print(
        quoted(f"seed {answer['seed']}, ended by {answer['finishReason']}, {tokens} tokens", style="dim")
    )
    for judgement in answer["judgements"]:
        score = judgement["score"]
        verdict = f"score {score:g}" if score is not None else f"invalid: {judgement['reason']}"
        where = f"judgement {judgement['sample']} (round {judgement['round']}, seed {judgement['seed']})"
        console.print(quoted(f"\n  {where}: {verdict}", style="bold"))
        text = printable(judgement["text"], full=full).replace("\n", "\n  ")
        console.print(quoted(f"  {text}", full=True))
    console.print()


def _print_origins(console: "Console", story: "PairStory") -> None:
    from rich.rule import Rule
    from rich.table import Table

    console.print(Rule("Where it comes from", align="left"))
    for doing in ("writes", "answers", "judges"):
        settings = story.sampling.get(doing)
        if settings:
            model = story.models.get("answers" if doing == "judges" else doing)
            named = f"{model.name}, weights {model.weights}: " if model else ""
            console.print(quoted(f"{doing}: {named}{_settings(settings)}"))
    trained = story.models.get("trained")
    if trained:
        console.print(quoted(f"trained: {trained.name}, weights {trained.weights}"))
    if story.m0:
        console.print(quoted(f"M0: {story.m0.get('origin') or story.m0.get('uri')}"))
    if story.data:
        console.print(quoted("data: " + ", ".join(f"{name} {value}" for name, value in story.data.items())))
    table = Table(pad_edge=False)
    for name in ("Stage", "Iteration", "Key", "Result", "Code", "Finished"):
        table.add_column(name, overflow="fold")
    for stage in story.stages:
        table.add_row(
            stage.kind,
            str(stage.iteration),
            stage.key[:16],
            stage.digest,
            stage.code or "–",
            stage.finished or "–",
        )
    console.print(table)
    for missing in story.missing:
        console.print(quoted(f"missing: {missing}", style="yellow"))


def _settings(settings: Row) -> str:
    plain = {name: value for name, value in settings.items() if not isinstance(value, dict | list)}
    return ", ".join(f"{name} {value}" for name, value in plain.items())
