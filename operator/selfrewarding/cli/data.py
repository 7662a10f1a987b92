"""`srr data …`: the pure data steps by hand, on JSON lines.

For people who work outside a cluster, or who want to know what the run would do with one row. Each command reads a
file or standard input (`-`) and writes a file or standard output. Exit code 0, or 2 with one line that says where the
input is wrong. The steps themselves are in :mod:`selfrewarding.data`; they are imported inside the commands, so that
`--help` stays quick.
"""

import contextlib
import math
from collections.abc import Iterator
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from selfrewarding.api.data import Language
    from selfrewarding.data.jsonl import Row
    from selfrewarding.data.judge_prompt import JudgePrompt

app = typer.Typer(
    name="data",
    help="The data steps of a run by hand, on JSON lines (`-` is standard input or output).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Input = Annotated[str, typer.Argument(metavar="FILE", help="JSON lines, also as gz; `-` is standard input.")]
Output = Annotated[str, typer.Option("--output", "-o", help="Where to write; `-` is standard output.")]
Minimum = Annotated[int, typer.Option("--min", help="Lowest score of the scale.")]
Maximum = Annotated[int, typer.Option("--max", help="Highest score of the scale.")]
Decimals = Annotated[
    bool, typer.Option("--decimal/--integer", help="Whether 3.5 is a score, or whole numbers only.")
]
Seed = Annotated[int, typer.Option(help="Seed of the choices that are made by a hash.")]
Summary = Annotated[str | None, typer.Option(metavar="FILE", help="Write counts as one JSON object here.")]


class LanguageChoice(StrEnum):
    """Languages that the prompt filters know."""

    EN = "en"
    KO = "ko"
    ANY = "any"


class JudgeLanguage(StrEnum):
    """Languages of the built-in judge prompt."""

    EN = "en"
    KO = "ko"


class RuleChoice(StrEnum):
    """Rules that choose pairs."""

    BEST_WORST = "best-worst"
    ALL_ABOVE_MARGIN = "all-above-margin"
    BEST_RANDOM = "best-random"
    POSITIVE_ONLY = "positive-only"


class TruncatedChoice(StrEnum):
    """What answers cut by length may be."""

    EXCLUDE = "exclude"
    REJECTED_ONLY = "rejected-only"
    ALLOW = "allow"


class AgreementChoice(StrEnum):
    """When the judge agrees with people."""

    NONE_DISCORDANT = "none-discordant"
    ALL_CONCORDANT = "all-concordant"


class TargetChoice(StrEnum):
    """Which judgements are learnt."""

    NEAREST_MEAN = "nearest-mean"
    ALL = "all"


@app.command("parse-judgements")
def parse_judgements(
    source: Input = "-",
    *,
    output: Output = "-",
    minimum: Minimum = 0,
    maximum: Maximum = 5,
    decimals: Decimals = False,
) -> None:
    r"""Read the scores out of generated judgements.

    In: `{"id", "text", "finish_reason"?}` with the generated text only, never the prompt. Out, in the same order:
    `{"id", "score", "reason"}`; where the score is null the reason is `missing`, `malformed`, `out_of_range` or
    `truncated`.

    The last line that holds nothing but a score wins: `Score: 4`, `**Score:** 4`, `Score: 4/5`, `score: 4.` or
    `점수: 4점`. A score within a sentence, `4/10`, `Score: 10` and (for whole numbers) `Score: 3.5` are not taken.

    Example: `echo '{"id": 1, "text": "Clear and short.\nScore: 4"}' | srr data parse-judgements`
    """
    with _user_errors():
        from selfrewarding.data.judgement_rows import parsed_rows

        _check_scale(minimum, maximum)
        _write(output, parsed_rows(_rows(source), minimum=minimum, maximum=maximum, decimals=decimals))


@app.command("build-pairs")
def build_pairs(
    source: Input = "-",
    *,
    output: Output = "-",
    rule: Annotated[RuleChoice, typer.Option(help="How answers become pairs.")] = RuleChoice.BEST_WORST,
    min_margin: Annotated[
        float, typer.Option(min=0, help="Smallest difference of mean scores; 0: any difference.")
    ] = 0,
    min_valid: Annotated[int, typer.Option(min=1, help="Valid judgements that an answer needs.")] = 1,
    truncated: Annotated[
        TruncatedChoice, typer.Option(help="What answers cut by length may be.")
    ] = TruncatedChoice.EXCLUDE,
    length_control: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Rho: shortest of the near-best against longest of the near-worst."),
    ] = None,
    positive_score: Annotated[float, typer.Option(help="positive-only: the mean that an answer needs.")] = 5,
    seed: Seed = 0,
    summary: Summary = None,
) -> None:
    """Choose preference pairs among judged answers.

    In: `{"id", "prompt": [messages], "responses": [{"text", "finish_reason", "scores": [number|null]}]}`, null for an
    invalid judgement. Out: pairs in TRL's conversational format with `prompt`, `chosen`, `rejected`, `chosen_score`,
    `rejected_score` and `provenance`; with `--rule positive-only` rows with `prompt`, `completion` and `score`.

    A score is the exact mean of the valid judgements. Equal means, equal texts and answers cut by length never pair.
    The counts of `--summary` by outcome add up to the prompts read.

    Example: `srr data build-pairs rollout.jsonl -o pairs.jsonl --summary counts.json`
    """
    with _user_errors():
        from selfrewarding.data.judged_prompts import read_judged_prompts
        from selfrewarding.data.pairs import PairSettings, PairSummary
        from selfrewarding.data.pairs import build_pairs as pairs_of

        if length_control is not None and rule is not RuleChoice.BEST_WORST:
            raise typer.BadParameter("works with --rule best-worst only", param_hint="--length-control")
        settings = PairSettings(
            rule=_RULES[rule],
            min_margin=_exact("--min-margin", min_margin),
            min_valid=min_valid,
            truncated=_TRUNCATED[truncated],
            length_control=None if length_control is None else _exact("--length-control", length_control),
            positive_score=_exact("--positive-score", positive_score),
            seed=seed,
        )
        counts = PairSummary()

        def pairs() -> Iterator[dict[str, Any]]:
            for prompt in read_judged_prompts(_rows(source)):
                outcome = pairs_of(prompt, settings)
                counts.add(prompt, outcome, settings)
                yield from outcome.rows()

        _write(output, pairs())
        _write_summary(summary, counts.as_json())


@app.command("filter-prompts")
def filter_prompts(
    *,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Texts that new prompts must differ from: rows with `text`, `instruction` or `prompt`.",
        ),
    ],
    source: Input = "-",
    output: Output = "-",
    language: Annotated[LanguageChoice, typer.Option(help="Rules to apply.")] = LanguageChoice.EN,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Highest ROUGE-L F1 that is accepted.")
    ] = 0.7,
    accepted: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Prompts accepted earlier (`id`, `text`), to go on from there."),
    ] = None,
    workers: Annotated[int, typer.Option(min=-1, help="Threads; -1: one per processor.")] = 1,
) -> None:
    """Filter newly written prompts as Self-Instruct does.

    In: `{"id", "text"}`. Out, in the same order: `{"id", "accepted", "reason", "max_rouge_l"}`. A prompt is dropped if
    it is too short or too long, asks for what a text model cannot do, begins oddly, or is `similar`: its ROUGE-L F1 to
    a seed or to a prompt accepted before it is above the threshold. `max_rouge_l` is null where an earlier rule
    dropped the prompt.

    Example: `srr data filter-prompts new.jsonl --seeds seeds.jsonl --language ko`
    """
    with _user_errors():
        from selfrewarding.data.prompt_filter import PromptFilter
        from selfrewarding.data.prompt_rows import read_candidates, read_texts

        if [source, seeds, accepted].count("-") > 1:
            raise typer.BadParameter("standard input can be read once only", param_hint="FILE")
        highest = float(_exact("--threshold", threshold))
        seed_texts = list(read_texts(_rows(seeds)))
        prompt_filter = PromptFilter(seed_texts, _LANGUAGES[language], threshold=highest, workers=workers)
        if accepted is not None:
            prompt_filter.restore(read_candidates(_rows(accepted)))
        verdicts = prompt_filter.offer_all(read_candidates(_rows(source)))
        _write(output, (verdict.as_row() for verdict in verdicts))


@app.command("build-evaluations")
def build_evaluations(
    source: Input = "-",
    *,
    output: Output = "-",
    minimum: Minimum = 0,
    maximum: Maximum = 5,
    decimals: Decimals = False,
    agreement: Annotated[
        AgreementChoice, typer.Option(help="Whether equal mean scores are no contradiction, or one.")
    ] = AgreementChoice.NONE_DISCORDANT,
    target: Annotated[
        TargetChoice, typer.Option(help="Learn one judgement per answer, or all valid ones.")
    ] = TargetChoice.NEAREST_MEAN,
    most_common_share: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="The most common score keeps at most this share of the rows."),
    ] = 0.4,
    judge_template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Own judge prompt with {instruction} and {response}.")
    ] = None,
    language: Annotated[
        JudgeLanguage, typer.Option(help="Language of the built-in judge prompt.")
    ] = JudgeLanguage.EN,
    seed: Seed = 0,
    summary: Summary = None,
) -> None:
    """Make evaluation (EFT) rows from judged answers that people ranked.

    In: `{"id", "prompt", "responses": [{"text", "human_rank", "judgements": [{"text", "score"}]}]}`, rank 0 is best.
    Out: `{"id", "key", "messages", "score", "provenance"}`; the messages are the judge's turn and the judgement to
    learn.

    A prompt is kept if no pair of its answers is ordered against the human ranks and at least one is ordered alike;
    pairs that people ranked equal say nothing. Then the most common score is thinned out.

    Example: `srr data build-evaluations judged.jsonl -o eft.jsonl --summary agreement.json`
    """
    with _user_errors():
        from selfrewarding.data.evaluations import EvaluationSettings, read_ranked_judged_prompts
        from selfrewarding.data.evaluations import build_evaluations as evaluations_of

        _check_scale(minimum, maximum)
        settings = EvaluationSettings(
            agreement=_AGREEMENTS[agreement],
            target=_TARGETS[target],
            most_common_share=_exact("--most-common-share", most_common_share),
            minimum=minimum,
            maximum=maximum,
            decimals=decimals,
            seed=seed,
        )
        judge = _judge(judge_template, language)
        prompts = read_ranked_judged_prompts(_rows(source), settings)
        examples, report = evaluations_of(prompts, judge, settings)
        _write(output, (example.as_row() for example in examples))
        _write_summary(summary, report.as_json())


@app.command("judge-metrics")
def judge_metrics(
    source: Input = "-",
    *,
    output: Output = "-",
    maximum: Maximum = 5,
    bootstrap: Annotated[int, typer.Option(min=0, max=100_000, help="Resamples of the intervals.")] = 1000,
    seed: Seed = 0,
) -> None:
    """Measure how well a judge's scores agree with human ranks.

    In: `{"id", "responses": [{"score": number|null, "human_rank": int}], "category"?}`, rank 0 is best. Out: one JSON
    object with pairwise accuracy, 5-best %, exact match %, Spearman, Kendall tau, a 95 % interval for each, counts, and
    under `conventions` how ties and missing scores are treated. What is not defined is null, with its reason in
    `undefined`. Where rows carry a category (or subset), `by_category` has all of it for each.

    Example: `srr data judge-metrics held-out.jsonl`
    """
    with _user_errors():
        from selfrewarding.data.jsonl import write_document
        from selfrewarding.data.metrics import judge_metrics as metrics_of
        from selfrewarding.data.metrics import read_scored_prompts

        prompts = list(read_scored_prompts(_rows(source)))
        write_document(output, metrics_of(prompts, maximum=Fraction(maximum), resamples=bootstrap, seed=seed))


@app.command("win-rate")
def win_rate(source: Input = "-", *, output: Output = "-") -> None:
    """Win rate of a model against a reference.

    In: `{"preference": 1..2}`: 1 the reference wins, 2 the model wins, 1.5 a tie, null no verdict. Out: one JSON object
    with the win rate and its standard error in percent, wins, ties and losses.

    Example: `srr data win-rate verdicts.jsonl`
    """
    with _user_errors():
        from selfrewarding.data.jsonl import write_document
        from selfrewarding.data.win_rate import read_preferences
        from selfrewarding.data.win_rate import win_rate as rate_of

        write_document(output, rate_of(list(read_preferences(_rows(source)))))


_RULES: dict[RuleChoice, Literal["BestWorst", "AllAboveMargin", "BestRandom", "PositiveOnly"]] = {
    RuleChoice.BEST_WORST: "BestWorst",
    RuleChoice.ALL_ABOVE_MARGIN: "AllAboveMargin",
    RuleChoice.BEST_RANDOM: "BestRandom",
    RuleChoice.POSITIVE_ONLY: "PositiveOnly",
}
_TRUNCATED: dict[TruncatedChoice, Literal["Exclude", "RejectedOnly", "Allow"]] = {
    TruncatedChoice.EXCLUDE: "Exclude",
    TruncatedChoice.REJECTED_ONLY: "RejectedOnly",
    TruncatedChoice.ALLOW: "Allow",
}
_LANGUAGES: dict[LanguageChoice, "Language"] = {
    LanguageChoice.EN: "English",
    LanguageChoice.KO: "Korean",
    LanguageChoice.ANY: "Any",
}
_AGREEMENTS: dict[AgreementChoice, Literal["NoneDiscordant", "AllConcordant"]] = {
    AgreementChoice.NONE_DISCORDANT: "NoneDiscordant",
    AgreementChoice.ALL_CONCORDANT: "AllConcordant",
}
_TARGETS: dict[TargetChoice, Literal["NearestMean", "All"]] = {
    TargetChoice.NEAREST_MEAN: "NearestMean",
    TargetChoice.ALL: "All",
}


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """One line and exit code 2 for bad data."""
    from selfrewarding.data.errors import DataError

    try:
        yield
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _rows(source: str) -> "Iterator[Row]":
    from selfrewarding.data.jsonl import read_rows

    return read_rows(source)


def _write(output: str, rows: Iterator[dict[str, Any]]) -> None:
    from selfrewarding.data.jsonl import write_rows

    write_rows(output, rows)


def _write_summary(summary: str | None, document: dict[str, Any]) -> None:
    if summary is not None:
        from selfrewarding.data.jsonl import write_document

        write_document(summary, document)


def _exact(option: str, value: float) -> Fraction:
    from selfrewarding.data.scores import exact

    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number to compare with", param_hint=option)
    return exact(value)


def _check_scale(minimum: int, maximum: int) -> None:
    if maximum <= minimum:
        raise typer.BadParameter(f"must be above --min ({minimum})", param_hint="--max")


def _judge(template: Path | None, language: JudgeLanguage) -> "JudgePrompt":
    from selfrewarding.data.jsonl import read_text
    from selfrewarding.data.judge_prompt import judge_prompt, own_judge_prompt

    if template is None:
        return judge_prompt("ko" if language is JudgeLanguage.KO else "en")
    return own_judge_prompt(read_text(template), source=str(template))
