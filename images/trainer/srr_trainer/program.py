"""The training stages, from their configuration to their result: TrainBaseline, SupervisedFineTune, PreferenceOptimize.

    torchrun -m srr_trainer        (as many processes as training.nodes x training.gpusPerNode)
    python -m srr_trainer          (one process)

Way of a stage: join the ranks → fetch tokenizer, base and rows → tokenise → train, from the newest checkpoint → save
and check → upload → barrier → rank 0 commits. Neighbours: `contract.program` is the frame around it.
"""

import json
import shutil
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers.utils.logging import disable_progress_bar

from selfrewarding.api.algorithm import DpoSpec, SftSpec
from selfrewarding.api.execution import TrainingSpec
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.artifacts import MODEL, TRAINING_LOG, attempt_prefix, stage_prefix
from selfrewarding.contract.config import PreferenceOptimizeParameters, SftParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, Surroundings
from selfrewarding.contract.result import StageResult
from selfrewarding.data.chat import ChatEncoder
from selfrewarding.store import ArtifactStore, open_store
from selfrewarding.store.references import refer
from selfrewarding.store.results import commit_result, find_result, require_result, upload_files
from srr_trainer import models, saving
from srr_trainer.candidates import CandidateCallback, CandidateStore, candidate_steps
from srr_trainer.card import candidate_card, model_card
from srr_trainer.checkpoints import Checkpoint, CheckpointStore
from srr_trainer.inputs import (
    Folders,
    check_vocabulary,
    fetch_inputs,
    has_own_reference,
    load_tokenizer,
    rows_to_train_on,
    trains_on_pairs,
)
from srr_trainer.order import padding_share, training_order, training_steps
from srr_trainer.ranks import Ranks, start_ranks
from srr_trainer.reference import ReferenceStore
from srr_trainer.report import peak_memory_bytes, settings_as_used, versions
from srr_trainer.rows import Exclusions, tokenise_examples, tokenise_pairs
from srr_trainer.settings import check_optimizer, make_plan
from srr_trainer.signals import StopRequest
from srr_trainer.training import Built, mean_of_last_tenth, run, tokens_after_steps

Rows = list[Any]
"""TokenisedExample for SFT, TokenisedPair for DPO."""


@dataclass(frozen=True)
class Stage:
    """One stage on its way: what is fixed before the model is loaded."""

    config: StageConfig
    spec: SftSpec | DpoSpec
    training: TrainingSpec
    store: ArtifactStore
    ranks: Ranks
    folders: Folders
    checkpoints: CheckpointStore
    newest: Checkpoint | None
    candidates: CandidateStore
    stop: StopRequest


def main(config: StageConfig, here: Surroundings) -> StageResult | None:
    """Run the stage. The first rank returns the result that is in the store; the others return None."""
    stop = StopRequest()
    stop.install()
    disable_progress_bar()
    spec, training = _settings(config)
    check_optimizer(spec, training)
    store = open_store(config.store)
    ranks = start_ranks(training)
    if ranks.first:
        refer(store, config.run, stage_prefix(config.kind, config.key))
    done = ranks.broadcast(find_result(store, config.kind, config.key) if ranks.first else None)
    if done is not None:
        return done if ranks.first else None

    attempt = attempt_prefix(config.kind, config.key, here.pod_uid)
    checkpoints = CheckpointStore(
        store,
        config.kind,
        config.key,
        attempt,
        ranks,
        zero_stage=training.deepspeed.zero_stage,
        keep=config.execution.keep_checkpoints,
    )
    newest = checkpoints.newest()
    candidates = CandidateStore(store, config.kind, config.key, attempt, ranks)
    folders = Folders(here.scratch)
    if ranks.first_of_node:
        shutil.rmtree(folders.root, ignore_errors=True)
        folders.checkpoints.mkdir(parents=True)
        fetch_inputs(store, config, folders)
    ranks.barrier()

    stage = Stage(config, spec, training, store, ranks, folders, checkpoints, newest, candidates, stop)
    result = _train(stage, here)
    ranks.barrier()  # nobody still writes to the store
    committed = None
    if result is not None:
        files = upload_files(store, folders.result, attempt, stage_prefix(config.kind, config.key))
        files |= candidates.files()
        seconds = time.monotonic() - here.started
        committed = commit_result(store, result.model_copy(update={"files": files, "seconds": seconds}))
        checkpoints.delete_all()
    if ranks.first_of_node:
        shutil.rmtree(folders.root, ignore_errors=True)
    return committed


def _settings(config: StageConfig) -> tuple[SftSpec | DpoSpec, TrainingSpec]:
    training = config.execution.training
    if training is None:
        raise BadConfiguration(
            "the configuration has no execution.training: plan the run again with this release"
        )
    match config.parameters:
        case SftParameters(sft=sft):
            return sft, training
        case PreferenceOptimizeParameters(positive_only=True, sft=None):
            raise BadConfiguration("positive-only training needs the settings of `sft`: plan the run again")
        case PreferenceOptimizeParameters(positive_only=True, sft=SftSpec() as sft):
            return sft, training
        case PreferenceOptimizeParameters(dpo=dpo):
            return dpo, training
        case _:
            raise BadConfiguration(
                f"the trainer has no stage {config.kind}: use the image of the operator's release"
            )


def _train(stage: Stage, here: Surroundings) -> StageResult | None:
    """Train, save and check; the first rank returns the result that is to be committed."""
    config, spec, ranks, folders = stage.config, stage.spec, stage.ranks, stage.folders
    tokenizer, encoder = load_tokenizer(folders.tokenizer)
    rows, exclusions = _tokenised(stage, encoder)
    check_vocabulary(folders.base, rows)
    lengths = [row.length for row in rows]
    steps = training_steps(len(rows), batch_size=spec.batch_size, epochs=spec.epochs)
    asked = candidate_steps(spec, steps)
    order = training_order(
        lengths, batch_size=spec.batch_size, steps=steps, run_seed=config.seed, stage_key=config.key
    )
    built = _build(stage, tokenizer, rows, order)
    newest = stage.newest
    if newest is not None and stage.candidates.lacks(asked, before=newest.step):
        newest = None  # what that checkpoint's training saved before it is gone: all is made again
    save = partial(
        saving.save_model,
        built.trainer,
        base=folders.base,
        tokenizer=folders.tokenizer,
        own_dropout=built.loaded.own_dropout,
    )
    candidates = CandidateCallback(
        stage.candidates,
        asked,
        save,
        folder=folders.candidate,
        card=lambda step: candidate_card(config, step, steps, pod=here.pod_uid),
    )
    if asked:
        built.trainer.add_callback(candidates)
    tokens_after = tokens_after_steps(rows, order, spec.batch_size)
    trained = run(
        built.trainer,
        stage.training,
        ranks,
        stage.checkpoints,
        stage.stop,
        newest=newest,
        tokens_after=tokens_after,
        rows=len(rows),
        batch_size=spec.batch_size,
        besides=lambda: candidates.seconds,
    )

    memory = peak_memory_bytes(ranks)
    saved = folders.result / MODEL
    save(saved)
    if not ranks.first:
        return None
    counts = {"rows": len(rows), "excluded": exclusions.total, "steps": steps, "tokens": tokens_after[-1]}
    metrics = {
        "loss": mean_of_last_tenth(trained.log, "loss"),
        "weightsChanged": saving.share_changed(folders.base, saved, folders.renamed),
        "tokensPerSecond": trained.tokens_per_second,
    }
    if trains_on_pairs(config):
        counts["pairs"] = len(rows)
        metrics["rewardMargin"] = mean_of_last_tenth(trained.log, "rewards/margins")
    report: dict[str, object] = {
        "data": require_result(stage.store, config.parents["prepare"]).data,
        "versions": versions(),
        "settings": settings_as_used(
            built.arguments, warmup_steps=built.trainer.plan.warmup_steps, floor=spec.min_learning_rate
        ),
        "ranks": ranks.world,
        "deviations": [built.loaded.deviation] if built.loaded.deviation else [],
        "exclusions": exclusions.report(),
        "paddingShare": padding_share(lengths, order, stage.training.micro_batch_size),
        "parameters": models.parameter_count(built.trainer.model),
        "resumedFromStep": trained.resumed_from,
        "checkpointSeconds": trained.checkpoint_seconds,
        "peakMemoryBytes": memory,
        **({"candidateSteps": [*asked, steps], "candidateSeconds": candidates.seconds} if asked else {}),
        **built.report(),
    }
    result = StageResult(
        contract=CONTRACT_VERSION,
        kind=config.kind,
        iteration=config.iteration,
        key=config.key,
        parents={role: ref.digest for role, ref in config.parents.items()},
        counts=counts,
        metrics=metrics,
        report=report,
        seconds=0.0,
        pod=here.pod_uid,
    )
    (saved / "README.md").write_text(model_card(config, result), encoding="utf-8")
    saving.make_readable(saved)
    log = "".join(json.dumps(row) + "\n" for row in trained.log)
    (folders.result / TRAINING_LOG).write_text(log, encoding="utf-8")
    return result


def _tokenised(stage: Stage, encoder: ChatEncoder) -> tuple[Rows, Exclusions]:
    rows, longest = rows_to_train_on(stage.store, stage.config), stage.spec.max_length
    if trains_on_pairs(stage.config):
        return tokenise_pairs(rows, encoder, max_length=longest)
    return tokenise_examples(rows, encoder, max_length=longest, field_name="sft.maxLength")


def _build(stage: Stage, tokenizer: Any, rows: Rows, order: list[int]) -> Built:
    config, spec, training, ranks = stage.config, stage.spec, stage.training, stage.ranks
    plan = make_plan(
        spec,
        training,
        ranks,
        steps=len(order) // spec.batch_size,
        run_seed=config.seed,
        stage_key=config.key,
        output=stage.folders.checkpoints,
    )
    if isinstance(spec, SftSpec):
        from srr_trainer import sft

        return sft.build_trainer(
            spec,
            training,
            plan,
            base=stage.folders.base,
            tokenizer=tokenizer,
            examples=rows,
            order=order,
        )
    from srr_trainer import dpo

    reference_model = stage.folders.reference if has_own_reference(config) else None
    reference = ReferenceStore(
        stage.store,
        rows,
        model_digest=ranks.broadcast(
            models.weights_digest(reference_model or stage.folders.base) if ranks.first else None
        ),
        max_length=spec.max_length,
        ld_alpha=spec.length_desensitization,
        bfloat16=plan.bfloat16,
    )
    if ranks.first:
        refer(stage.store, config.run, reference.folder)
    return dpo.build_trainer(
        spec,
        training,
        ranks,
        plan,
        base=stage.folders.base,
        tokenizer=tokenizer,
        pairs=rows,
        order=order,
        reference=reference,
        reference_model=reference_model,
    )
