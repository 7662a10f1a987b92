"""`srr export`: answers and models of a run for standard benchmarks."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfrewarding.cli.find_run import ArtifactsOption, FileOption, RunOption, StoreOption, find_run, refusal

if TYPE_CHECKING:
    from selfrewarding.cli.find_run import FoundRun
    from selfrewarding.exports.answers import ModelAnswers
    from selfrewarding.store.run_results import Stored

app = typer.Typer(
    name="export",
    help="Write a run's answers as standard benchmarks read them, or run a benchmark on a served model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[
    str | None, typer.Option("--model", help="M1, M2, … or Baseline; absent: the newest one.", metavar="NAME")
]
SetOption = Annotated[
    str | None,
    typer.Option("--set", help="Set of evaluation.prompts; absent: the one that there is.", metavar="NAME"),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.", metavar="DIR")]


@app.command("alpaca-eval")
def alpaca_eval_command(
    *,
    output: OutputOption = Path("alpaca-eval"),
    model: ModelOption = None,
    prompts: SetOption = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Write this model's answers as reference_outputs.json too.", metavar="NAME"),
    ] = None,
    file: FileOption = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    run: RunOption = None,
    store: StoreOption = None,
) -> None:
    """Write model_outputs.json and a model's configuration for the package alpaca_eval.

    Example: srr export alpaca-eval --model M3 --reference M1 -o alpaca-eval
    """
    from selfrewarding.exports import alpaca_eval
    from selfrewarding.exports.answers import NothingToExport

    found = find_run(file, artifacts, run, store)
    answers = _answers(found, model, prompts)
    other = _answers(found, reference, answers.set) if reference is not None else None
    try:
        files = alpaca_eval.files(answers, other)
    except NothingToExport as error:
        raise refusal(str(error)) from None
    _write(output, files)
    _tell(answers, output)
    typer.echo(
        f"{output / alpaca_eval.CONFIGS} asks for the model by the name {answers.generator}, as `srr export lm-eval` does: "
        f"vllm serve FOLDER --served-model-name {answers.generator} (`srr models` prints the folder)"
    )
    compared = f" --reference_outputs {output / alpaca_eval.REFERENCE_OUTPUTS}" if other else ""
    typer.echo(f"next: alpaca_eval evaluate --model_outputs {output / alpaca_eval.MODEL_OUTPUTS}{compared}")


@app.command("mt-bench")
def mt_bench_command(
    *,
    output: OutputOption = Path("mt-bench"),
    model: ModelOption = None,
    prompts: SetOption = None,
    file: FileOption = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    run: RunOption = None,
    store: StoreOption = None,
) -> None:
    """Write question.jsonl and model_answer/<model>.jsonl for FastChat's MT-Bench.

    Answers to a set of the format MtBench were sampled as FastChat does, by category: math, coding, reasoning and extraction
    greedily, stem and humanities at 0.1, writing and roleplay at 0.7 (or the question's required_temperature). Top-p and
    the longest answer are those of evaluation.answers.

    Example: srr export mt-bench --model M3 --set mt-bench -o fastchat/llm_judge
    """
    from selfrewarding.exports import mt_bench
    from selfrewarding.exports.answers import NothingToExport

    answers = _answers(find_run(file, artifacts, run, store), model, prompts)
    try:
        files = mt_bench.files(answers)
    except NothingToExport as error:
        raise refusal(str(error)) from None
    _write(output, files)
    _tell(answers, output)
    bench = answers.set.replace("-", "_")
    typer.echo(f"next: python gen_judgment.py --bench-name {bench} --model-list {answers.generator}")


@app.command("lm-eval")
def lm_eval_command(
    *,
    url: Annotated[str, typer.Option(help="Address of the model's server, e.g. http://localhost:8000.")],
    tasks: Annotated[str, typer.Option(help="Tasks with commas between.")],
    output: OutputOption = Path("lm-eval"),
    model: ModelOption = None,
    served: Annotated[
        str | None, typer.Option(help="The name that the server gives the model; absent: <run>-<model>.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the tokenizer; absent: the model's own, from the store.")
    ] = None,
    max_length: Annotated[int, typer.Option(min=1, help="Longest sequence of the server in tokens.")] = 2048,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 8,
    include: Annotated[Path | None, typer.Option(help="Folder with task files of your own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of each task; absent: all.")] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="Examples in each prompt.")] = None,
    program: Annotated[str, typer.Option(help="lm_eval, or a path to it.")] = "lm_eval",
    file: FileOption = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    run: RunOption = None,
    store: StoreOption = None,
    start: Annotated[bool, typer.Option("--start", help="Start it instead of printing the command.")] = False,
) -> None:
    """Print (or --start) the lm-evaluation-harness command for a model that is served: tokenizer, address, tasks.

    A server's key is read from OPENAI_API_KEY. Serve a model with `vllm serve FOLDER --served-model-name NAME`: `srr models`
    prints the folder of a local run's model, and copies one of a cluster's run here (--store URI --download FOLDER).

    Example: srr export lm-eval --url http://localhost:8000 --tasks arc_easy,hellaswag
    """
    from selfrewarding.exports.answers import generator_name, trained_models
    from selfrewarding.exports.lm_eval import Harness, command

    found = find_run(file, artifacts, run, store)
    made = trained_models(found.results)
    name = model if model is not None else next(reversed(made), "none")
    if name not in made:
        raise refusal(
            f"the run has no model {name} (it has: {', '.join(made) or 'none'}): name one with --model"
        )
    folder = tokenizer if tokenizer is not None else _tokenizer(found, made[name], output)
    words = command(
        Harness(
            program=program,
            url=url,
            served=served or generator_name(found.results, name),
            tokenizer=folder,
            tasks=tuple(task.strip() for task in tasks.split(",") if task.strip()),
            max_length=max_length,
            concurrency=concurrency,
            include=include,
            output=output / "results",
            limit=limit,
            shots=shots,
            seed=int(found.spec.get("seed", 0)),
        )
    )
    typer.echo(shlex.join(words))
    if not start:
        return
    # The harness refuses to start without a key, also for servers that want none.
    environment = {"OPENAI_API_KEY": "none"} | dict(os.environ)
    try:
        done = subprocess.run(words, env=environment, check=False)
    except OSError as error:
        raise refusal(
            f"{program} cannot be started ({error.strerror}): install the package lm-eval[api] with transformers, and name "
            "its program with --program"
        ) from None
    raise typer.Exit(done.returncode)


def _answers(found: "FoundRun", model: str | None, prompts: str | None) -> "ModelAnswers":
    from selfrewarding.exports.answers import NothingToExport, model_answers
    from selfrewarding.store.errors import StoreError

    try:
        return model_answers(found.store, found.results, model=model, prompts=prompts)
    except (NothingToExport, StoreError) as error:
        raise refusal(str(error)) from None


def _tokenizer(found: "FoundRun", made: "Stored", output: Path) -> Path:
    """The tokenizer's files of a trained model, fetched without its weights."""
    from selfrewarding.contract.program import ParentMissing
    from selfrewarding.store.errors import StoreError
    from selfrewarding.store.models import model_files
    from selfrewarding.store.results import download_folder

    folder = output / "tokenizer"
    try:
        model = model_files(found.store, made.result)
        light = {
            name: model.result.files[name]
            for name in model.files
            if not name.endswith((".safetensors", ".bin"))
        }
        download_folder(found.store, model.result.model_copy(update={"files": light}), model.folder, folder)
    except (ParentMissing, StoreError) as error:
        raise refusal(f"{error}: give the tokenizer's folder with --tokenizer DIR") from None
    if not (folder / "tokenizer_config.json").is_file():
        raise refusal("the model has no tokenizer: give the tokenizer's folder with --tokenizer DIR")
    return folder.resolve()


def _write(output: Path, files: dict[str, str]) -> None:
    try:
        for name, content in files.items():
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise refusal(f"{output}: {error.strerror}: give another folder with --output DIR") from None
    for name in files:
        typer.echo(str(output / name))


def _tell(answers: "ModelAnswers", output: Path) -> None:
    notes = [f"{answers.cut} cut by length"] if answers.cut else []
    notes += [f"{answers.empty} without text"] if answers.empty else []
    noted = f" ({', '.join(notes)})" if notes else ""
    typer.echo(
        f"{len(answers.rows)} prompts of {answers.set}, answered by {answers.generator}{noted}: {output}"
    )
