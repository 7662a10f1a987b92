"""Report: the page of the run so far, its index, the cards of its models, and its numbers to the trackers.

Purpose: write report.html into the stage and, with index.json and cards/, into the run's folder, where the newest lie. One
that was made before (an edit was taken back) is no longer the newest there: the folder is written again, no number is sent.
Must not: measure anything; fail for a result that is gone (the page says so) or for a tracker (the log says so).
Neighbours: `selfrewarding.report` makes page and index, `lineage.cards` the cards, `tracking` knows the trackers.
"""

import logging
import os
import time
from collections.abc import Mapping

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.artifacts import REPORT, attempt_prefix, card_key, run_prefix, stage_prefix
from selfrewarding.contract.config import ReportParameters, StageConfig, Story
from selfrewarding.contract.program import BadConfiguration, Surroundings, report_progress
from selfrewarding.contract.result import FileRef, StageResult, summary_of
from selfrewarding.store import open_store
from selfrewarding.store.digests import digest_bytes
from selfrewarding.store.references import refer
from selfrewarding.store.results import commit_result, find_result

logger = logging.getLogger(__name__)

STEPS = 3
"""Page, cards, trackers."""


def main(config: StageConfig, here: Surroundings) -> StageResult:
    """Make the page and what lies beside it; returns the result that is in the store. Raises StoreError."""
    story = config.story
    if not isinstance(config.parameters, ReportParameters) or story is None:
        raise BadConfiguration(f"a Report got the parameters of {config.parameters.kind}, or no story")
    # The plotting library keeps a cache of fonts: home is read-only in a pod.
    os.environ.setdefault("MPLCONFIGDIR", str(here.scratch / "matplotlib"))
    from selfrewarding.lineage.cards import model_cards
    from selfrewarding.report.collect import collect, load
    from selfrewarding.report.index import write_index
    from selfrewarding.report.page import render
    from selfrewarding.tracking.points import points
    from selfrewarding.tracking.sending import send

    store = open_store(config.store)
    refer(store, config.run, stage_prefix(config.kind, config.key))
    done = find_result(store, config.kind, config.key)
    loaded = load(store, config.parents)
    told = collect(store, config.run, loaded, story)
    page = render(told).encode()
    if done is None:
        store.write(f"{attempt_prefix(config.kind, config.key, here.pod_uid)}/{REPORT}", page)
    folder = run_prefix(config.run.namespace, config.run.name)
    write_index(store, _index(config, story, loaded.results))
    store.write(f"{folder}/{REPORT}", page)
    report_progress(done=1, total=STEPS, unit="steps")
    for name, card in model_cards(store, config.run, loaded.results.values(), story, told.manifest).items():
        store.write(card_key(config.run.namespace, config.run.name, name), card.encode())
    report_progress(done=2, total=STEPS, unit="steps")
    if done is not None:
        return done
    untold = send(store, config.run, story, points(loaded.results, story))
    for line in untold:
        logger.warning("tracking: %s", line)
    report_progress(done=3, total=STEPS, unit="steps")
    digest = digest_bytes(page)
    return commit_result(
        store,
        StageResult(
            contract=CONTRACT_VERSION,
            kind=config.kind,
            iteration=config.iteration,
            key=config.key,
            parents={role: ref.digest for role, ref in config.parents.items()},
            files={
                REPORT: FileRef(
                    path=f"attempts/{here.pod_uid}/{REPORT}", size=digest.size, sha256=digest.sha256
                )
            },
            counts={
                "iterations": len(told.iterations),
                "pairs": sum(len(one.pairs.sample) for one in told.iterations if one.pairs is not None),
                "missing": len(told.problems),
            },
            report={"problems": list(told.problems), "tracking": untold},
            seconds=round(time.monotonic() - here.started, 1),
            pod=here.pod_uid,
        ),
    )


def _index(config: StageConfig, story: Story, results: Mapping[str, StageResult]) -> dict[str, object]:
    from selfrewarding.report.index import IndexedStage, run_index

    keys = {ref.digest: ref.key for ref in config.parents.values()}
    stages: dict[str, IndexedStage] = {}
    for role, ref in config.parents.items():
        result = results.get(role)
        if result is None or ref.key in stages:
            continue
        handover = story.handover_seconds.get(role)
        stages[ref.key] = IndexedStage(
            kind=ref.kind,
            iteration=ref.iteration,
            key=ref.key,
            parents={name: keys[digest] for name, digest in result.parents.items() if digest in keys},
            summary=summary_of(result).model_copy(update={"handover_seconds": handover}),
            gpus=story.gpus.get(role, 0),
        )
    return run_index(
        config.run,
        spec=story.spec,
        stages=list(stages.values()),
        models=story.models,
        alarms=story.alarms,
        uncalibrated=story.uncalibrated,
    )
