"""The Prepare stage: find out all that can fail before a GPU is spent, and write the seed sets for all other stages.

Way: is the store writable → the model's folder and headers → tokenizer and chat template → seed sets, split by prompt
before any judging, and evaluation prompts that none of them holds → lengths → write and commit. Each step adds its
problems; all of them are told at once.

Must not: import torch, read weights into memory, or leave out a row without counting it.
Neighbours: `model_checks`, `tokenizer_checks`, `seed_sets`, `evaluation_prompts` and `length_checks` check; the planner
takes counts and digests from the result.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.artifacts import (
    EVALUATION_PROMPTS,
    EVALUATIONS,
    HELD_OUT,
    INSTRUCTIONS,
    MODEL,
    RANKED,
    TOKENIZER,
    attempt_prefix,
    stage_prefix,
)
from selfrewarding.contract.config import PrepareParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, BadData, Surroundings, report_progress
from selfrewarding.contract.result import StageResult
from selfrewarding.data.errors import DataError
from selfrewarding.data.jsonl import write_rows
from selfrewarding.data.judge_prompt import JudgePrompt, judge_prompt, judge_prompt_of
from selfrewarding.data.seed_rows import Evaluation, Instruction, RankedPrompt
from selfrewarding.store import ArtifactStore, fetch_model, open_store
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.references import refer
from selfrewarding.store.results import commit_result, find_result, upload_files
from srr_sampler import settings_report
from srr_sampler.encoders import load_encoder
from srr_sampler.evaluation_prompts import PromptSets, check_prompt_sets, check_room, read_prompt_sets
from srr_sampler.length_checks import Fitting, LengthChecks
from srr_sampler.model_checks import ModelFacts, inspect_model
from srr_sampler.problems import Problems
from srr_sampler.seed_sets import SeedSets, read_seed_sets, set_digest
from srr_sampler.tokenizer_checks import (
    RunTokenizer,
    check_scores,
    check_vocabulary,
    fetch_tokenizer,
    load_tokenizer,
    run_tokenizer,
    save_tokenizer,
)

_HUB = "hf://"
_REFEREE = "evaluation.headToHead.judge.modelUri"
_STEPS = 6


@dataclass(frozen=True)
class Model:
    """M0 as Prepare sees it."""

    facts: ModelFacts
    store: ArtifactStore
    origin: str
    """Its address; for a hub with the commit that was fetched."""


def main(config: StageConfig, here: Surroundings) -> StageResult:
    """Run the stage; returns the result that is in the store.

    Raises BadConfiguration or BadData with all that was found, StoreError.
    """
    parameters = config.parameters
    if not isinstance(parameters, PrepareParameters):
        raise BadConfiguration(f"the stage {config.kind} came with parameters of {parameters.kind}")
    store = open_store(config.store)
    store.check_writable()
    refer(store, config.run, stage_prefix(config.kind, config.key))
    done = find_result(store, config.kind, config.key)
    if done is not None:
        return done
    work = here.scratch / "prepare"
    shutil.rmtree(work, ignore_errors=True)
    output = work / "output"
    output.mkdir(parents=True)
    prepared = _prepare(parameters, config.seed, work, output)
    files = upload_files(
        store,
        output,
        attempt_prefix(config.kind, config.key, here.pod_uid),
        stage_prefix(config.kind, config.key),
    )
    result = StageResult(
        contract=CONTRACT_VERSION,
        kind=config.kind,
        iteration=config.iteration,
        key=config.key,
        files=files,
        counts=prepared.counts,
        data=prepared.digests,
        report=prepared.report,
        seconds=time.monotonic() - here.started,
        pod=here.pod_uid,
    )
    committed = commit_result(store, result)
    shutil.rmtree(work, ignore_errors=True)
    _step(_STEPS)
    return committed


@dataclass(frozen=True)
class _Prepared:
    counts: dict[str, int]
    digests: dict[str, str]
    report: dict[str, Any]


def _prepare(parameters: PrepareParameters, seed: int, work: Path, output: Path) -> _Prepared:
    """All checks; writes what the result holds to `output`."""
    problems = Problems()
    _step(1)
    model: Model | None = None
    prompt: JudgePrompt | None = None
    with problems.collecting():
        model = _model(parameters, output)
    _step(2)
    tokenizer = _tokenizer(parameters, model, work, problems) if model else None
    with problems.collecting():
        try:
            prompt = judge_prompt_of(parameters.judge)
        except DataError as error:
            raise BadConfiguration(str(error)) from None
    _step(3)
    # A wrong judge template hides no fault of the data: own evaluations are then rendered with the built-in one.
    sets = read_seed_sets(
        parameters.seed_data, parameters.judge, prompt or judge_prompt(), seed=seed, problems=problems
    )
    evaluated = _evaluation_prompts(parameters, sets, problems)
    fixed = _fixed_models(parameters)
    judge = _judge_tokenizer(parameters, work, problems, fixed)
    _check_referee(parameters, work, problems, fixed)
    _step(4)
    fitting: Fitting | None = None
    if model and tokenizer and prompt and sets:
        with problems.collecting():
            fitting = LengthChecks(
                tokenizer.encoder,
                prompt,
                parameters,
                model.facts.max_positions,
                problems,
                judge_encoder=judge.encoder if judge else None,
            ).check(sets)
    if model and tokenizer and evaluated:
        with problems.collecting():
            limits = (
                (model.facts.max_positions, "the model's longest sequence"),
                (parameters.max_model_len, "serving.maxModelLen"),
                (
                    parameters.planned_len,
                    "the length that the run's servers are planned with (serving.maxModelLen)",
                ),
            )
            check_room(evaluated, tokenizer.encoder, limits, answer_tokens=parameters.answer_tokens)
    if sets is not None:
        _refuse_empty(sets, fitting, problems)
        _refuse_uncompared(parameters, fitting, problems)
    problems.stop_if_any()
    if not (model and tokenizer and prompt and sets and fitting and evaluated):
        raise AssertionError("a check that found nothing has a result")
    _step(5)
    save_tokenizer(tokenizer.tokenizer, output / TOKENIZER)
    return _written(parameters, _Checked(model, tokenizer, prompt, sets, fitting, evaluated, fixed), output)


def _model(parameters: PrepareParameters, output: Path) -> Model:
    uri = parameters.model.uri
    if not uri.startswith(_HUB):
        store = open_store(uri)
        return Model(inspect_model(store, field="spec.model.uri"), store, uri)
    folder = output / MODEL
    origin = fetch_model(uri, folder, writable=True)
    local = FolderStore(folder, uri=origin)
    return Model(inspect_model(local, field="spec.model.uri"), local, origin)


def _tokenizer(
    parameters: PrepareParameters, model: Model, work: Path, problems: Problems
) -> RunTokenizer | None:
    with problems.collecting():
        folder = fetch_tokenizer(model.store, work / "tokenizer")
        loaded = load_tokenizer(folder, field="spec.model.uri", uri=model.origin)
        tokenizer = run_tokenizer(loaded, parameters.model.chat_template)
        check_vocabulary(tokenizer.tokenizer, tokenizer.encoder, model.facts.vocabulary, model.origin)
        if parameters.judge.model_uri is None:
            check_scores(tokenizer.tokenizer, parameters.judge)
        return tokenizer
    return None


def _evaluation_prompts(
    parameters: PrepareParameters, sets: SeedSets | None, problems: Problems
) -> PromptSets | None:
    """The evaluation prompts; none where the spec has none, None where there is a problem with them or the seed sets."""
    specs = parameters.prompt_sets or []
    prompts = read_prompt_sets(specs, problems)
    if prompts is not None and sets is not None:
        with problems.collecting():
            return check_prompt_sets(specs, prompts, sets)
    return None


_Fixed = dict[str, dict[str, str]]
"""Fixed models by role: their addresses, and digests of those that do not lie on a hub."""


def _fixed_models(parameters: PrepareParameters) -> _Fixed:
    addresses = {
        "judge": parameters.judge.model_uri,
        "writer": parameters.prompt_generation.writer.model_uri,
        "referee": parameters.referee_uri,
    }
    return {role: {"uri": uri} for role, uri in addresses.items() if uri}


def _judge_tokenizer(
    parameters: PrepareParameters, work: Path, problems: Problems, fixed: _Fixed
) -> RunTokenizer | None:
    """The dedicated judge's tokenizer, and fixed models' folders checked; what lies on a hub is seen when served."""
    writer = parameters.prompt_generation.writer.model_uri
    if writer and not writer.startswith(_HUB):
        with problems.collecting():
            facts = inspect_model(
                open_store(writer), field="promptGeneration.writer.modelUri", trainable=False
            )
            fixed["writer"]["digest"] = facts.digest
    uri = parameters.judge.model_uri
    if uri and not uri.startswith(_HUB):
        with problems.collecting():
            store = open_store(uri)
            facts = inspect_model(store, field="judge.modelUri", trainable=False)
            fixed["judge"]["digest"] = facts.digest
            folder = fetch_tokenizer(store, work / "judge-tokenizer")
            judge = run_tokenizer(load_tokenizer(folder, field="judge.modelUri", uri=facts.uri), None)
            check_scores(judge.tokenizer, parameters.judge)
            return judge
    return None


def _check_referee(parameters: PrepareParameters, work: Path, problems: Problems, fixed: _Fixed) -> None:
    """The fixed judge of comparisons, folder and tokenizer; the dedicated judge, where it is the same, is looked at once."""
    uri = parameters.referee_uri
    if uri and uri == parameters.judge.model_uri:
        fixed["referee"] = fixed["judge"]
    elif uri and not uri.startswith(_HUB):
        with problems.collecting():
            store = open_store(uri)
            facts = inspect_model(store, field=_REFEREE, trainable=False)
            fixed["referee"]["digest"] = facts.digest
            load_encoder(fetch_tokenizer(store, work / "referee-tokenizer"), field=_REFEREE, uri=facts.uri)


def _refuse_uncompared(parameters: PrepareParameters, fitting: Fitting | None, problems: Problems) -> None:
    """Candidates of a training that there is nothing to compare on."""
    asked = parameters.dpo.early_stopping is not None and not parameters.prompt_sets
    if asked and fitting is not None and not fitting.held_out:
        problems.add(
            BadData(
                "dpo.earlyStopping compares answers to held-out prompts, and none is held out: give more ranked prompts, "
                "seedData.heldOut.source or a set of evaluation.prompts, or remove dpo.earlyStopping."
            )
        )


def _refuse_empty(sets: SeedSets, fitting: Fitting | None, problems: Problems) -> None:
    if not sets.instructions:
        problems.add(
            BadData(
                f"{sets.places['instructions'].source.uri}: no instruction is left, all of their prompts are held "
                "out or ranked too. Give instructions of their own, or lower seedData.rankedShare."
            )
        )
    if fitting is not None and not fitting.ranked and not sets.evaluations:
        problems.add(
            BadData(
                f"{sets.places['ranked'].source.uri}: no ranked prompt is left to teach the judge "
                f"({len(sets.ranked)} read, {len(fitting.held_out)} held out). Give "
                "more ranked prompts, seedData.evaluations, or a smaller seedData.heldOut.share."
            )
        )


@dataclass(frozen=True)
class _Checked:
    """What all checks let through."""

    model: Model
    tokenizer: RunTokenizer
    prompt: JudgePrompt
    sets: SeedSets
    fitting: Fitting
    evaluated: PromptSets
    fixed: _Fixed


def _written(parameters: PrepareParameters, checked: _Checked, output: Path) -> _Prepared:
    """Write the sets and say what the result says about them. Sets without rows have a file and no digest."""
    model, sets, fitting = checked.model, checked.sets, checked.fitting
    files: Sequence[
        tuple[str, str, Sequence[Instruction] | Sequence[RankedPrompt] | Sequence[Evaluation]]
    ] = (
        ("instructions", INSTRUCTIONS, sets.instructions),
        ("ranked", RANKED, fitting.ranked),
        ("heldOut", HELD_OUT, fitting.held_out),
        ("evaluations", EVALUATIONS, sets.evaluations),
    )
    digests = {"model": model.facts.digest}
    counts: dict[str, int] = {}
    for name, file, rows in files:
        write_rows(output / file, (row.as_row() for row in rows))
        counts[name] = len(rows)
        if rows:
            digests[name] = set_digest([row.key for row in rows])
    if fitting.held_out:
        # Metrics are told by category: other categories of the same rows give other metrics.
        digests["heldOut"] = set_digest([row.measured_key for row in fitting.held_out])
    if checked.evaluated.prompts:
        write_rows(output / EVALUATION_PROMPTS, (row.as_row() for row in checked.evaluated.prompts))
        counts["evaluationPrompts"] = len(checked.evaluated.prompts)
        counts["evaluationTurns"] = sum(len(prompt.turns) for prompt in checked.evaluated.prompts)
        digests["evaluationPrompts"] = checked.evaluated.digest
    facts = model.facts
    counts |= {"modelBytes": facts.weights_bytes, "parameters": facts.parameters}
    if facts.max_positions is not None:
        counts["maxPositions"] = facts.max_positions
    report: dict[str, Any] = {
        "model": {
            "uri": parameters.model.uri,
            "origin": model.origin,
            "architecture": facts.architecture,
            "dtypes": facts.dtypes,
            "vocabulary": facts.vocabulary,
        },
        **({"fixedModels": checked.fixed} if checked.fixed else {}),
        "tokenizer": _tokenizer_report(checked.tokenizer, facts),
        "judgePrompt": {"sha256": checked.prompt.digest, "own": parameters.judge.template is not None},
        "seedData": sets.report,
        **({"evaluationPrompts": checked.evaluated.report} if checked.evaluated.prompts else {}),
        "lengths": fitting.report,
        "unstatedByThePaper": settings_report.unstated(parameters),
        "deviations": settings_report.deviations(parameters, facts),
        "versions": settings_report.versions(),
    }
    return _Prepared(counts, digests, report)


def _tokenizer_report(tokenizer: RunTokenizer, facts: ModelFacts) -> dict[str, Any]:
    """Number rule 11: requests name the stop tokens, so an answer ends whatever the model's own configuration says."""
    stops = tokenizer.encoder.stop_token_ids
    return {
        "chatTemplateFrom": tokenizer.template_from,
        "takesSystemMessages": tokenizer.takes_system,
        "addsBeginningOfSequence": tokenizer.adds_beginning,
        "stopTokenIds": stops,
        "stopTokensSentWithEveryRequest": True,
        "endOfTurnIsInGenerationConfig": stops[0] in facts.end_tokens,
        "size": len(tokenizer.tokenizer),
    }


def _step(number: int) -> None:
    report_progress(done=number - 1 if number < _STEPS else _STEPS, total=_STEPS, unit="steps")
