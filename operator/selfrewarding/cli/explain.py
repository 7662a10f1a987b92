"""`srr explain`: the story of one preference pair, or of another row that an alarm or the report names."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfrewarding.cli.find_run import ArtifactsOption, FileOption, RunOption, StoreOption, find_run, refusal
from selfrewarding.cli.story_text import heading, print_judgement, quoted, settled

if TYPE_CHECKING:
    from rich.console import Console

    from selfrewarding.lineage.explain import PairStory

Row = dict[str, Any]


def explain_command(
    pair: Annotated[
        str,
        typer.Argument(
            help="Key of a pair, a prompt, a held-out row or a comparison, or the beginning of it.",
            metavar="PAIR",
        ),
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

    Of a held-out row or a comparison: every round that judged it, with the judgements or verdicts.
    Keys stand in the field `key` of pairs.jsonl, in the report, and in evidence.json of the stage that an alarm names.

    Example: srr explain 3f9c2a71
    """
    from selfrewarding.lineage.explain import UnknownPair, explain_row
    from selfrewarding.lineage.measured import MeasuredStory
    from selfrewarding.store.errors import StoreError

    found = find_run(file, artifacts, run, store)
    try:
        story = explain_row(found.store, found.results, pair)
    except (UnknownPair, StoreError) as error:
        raise refusal(str(error)) from None
    if as_json:
        typer.echo(json.dumps(story.as_json(), indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if isinstance(story, MeasuredStory):
        from selfrewarding.cli.measured_story import print_measured

        print_measured(console, story, full=full)
    else:
        _print(console, story, full=full)


def _print(console: "Console", story: "PairStory", *, full: bool) -> None:
    console.print(heading(f"{story.kind} {story.key[:16]}, iteration {story.iteration}"))
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
    prompt = story.prompt
    console.print(heading("Prompt"))
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
    how = settled(story.sampling.get("writes", {}))
    return (
        f"written in request {prompt.get('request')} with seed {prompt.get('seed')}, item {prompt.get('id')} ({how}); "
        "the examples that the writer was shown:"
    )


def _print_answer(console: "Console", story: "PairStory", index: int, answer: Row, *, full: bool) -> None:
    provenance = story.row["provenance"] if story.row else {}
    roles = {
        provenance.get("chosen_index", provenance.get("index")): ("chosen", "green"),
        provenance.get("rejected_index"): ("rejected", "red"),
    }
    role, style = roles.get(index, ("", "default"))
    means = provenance.get("means")
    scored = f": mean {means[index] or 'undefined'}" if means else ""
    title = f"Answer {index}{f', {role}' if role else ''}{scored}"
    console.print(heading(title, style=style))
    console.print(quoted(answer["text"], full=full))
    tokens = answer.get("tokens", {}).get("output")
    console.print(
        quoted(f"seed {answer['seed']}, ended by {answer['finishReason']}, {tokens} tokens", style="dim")
    )
    for judgement in answer["judgements"]:
        print_judgement(console, judgement, full=full)
    console.print()


def _who(story: "PairStory", doing: str, settings: Row) -> str:
    """Whose doing it is: a fixed model by its address, else one that the run has made; an endpoint is in the settings."""
    uri = settings.get("modelUri")
    if uri is not None:
        digest = story.fixed.get({"judges": "judge", "writes": "writer"}[doing], {}).get("digest")
        return f"fixed model {uri}{f', digest {digest}' if digest else ''}: "
    model = None if "endpoint" in settings else story.models.get("answers" if doing == "judges" else doing)
    return f"{model.name}, weights {model.weights}: " if model else ""


def _print_origins(console: "Console", story: "PairStory") -> None:
    from rich.table import Table

    console.print(heading("Where it comes from"))
    for doing in ("writes", "answers", "judges"):
        settings = story.sampling.get(doing)
        if settings:
            console.print(quoted(f"{doing}: {_who(story, doing, settings)}{settled(settings)}"))
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
