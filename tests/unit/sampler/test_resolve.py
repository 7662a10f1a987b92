"""Resolve: results and gaps of a plan, within what a termination message may hold."""

import json
import os
from pathlib import Path

import pytest
from tests.support.stages import finished, key_of, stage_config, surroundings

from selfrewarding.contract.config import ResolveParameters, StageConfig
from selfrewarding.contract.keys import short
from selfrewarding.contract.program import ExitCode, run_stage
from selfrewarding.contract.result import parse_termination, summary_of
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.errors import Corrupt
from selfrewarding.store.failures import stage_failure
from srr_sampler import resolve


def config_for(store: str, stages: list[tuple[StageKind, str]]) -> StageConfig:
    return stage_config(StageKind.RESOLVE, ResolveParameters(stages=stages), store)


def test_it_tells_what_is_done_with_its_summary_and_what_is_missing(tmp_path: Path) -> None:
    store = (tmp_path / "store").as_uri()
    done = finished(
        store,
        StageKind.ROLLOUT,
        tmp_path / "rollout",
        key="rollout",
        counts={"prompts": 3},
        metrics={"validRate": 0.5},
    )
    gap = (StageKind.BUILD_PREFERENCES, key_of("pairs"))
    message = resolve.main(
        config_for(store, [(StageKind.ROLLOUT, done.key), gap]), surroundings(tmp_path / "scratch")
    )
    assert message.done == {short(done.key): summary_of(done)}
    assert message.missing == [short(gap[1])]
    assert not list((tmp_path / "store" / "stages").glob("Resolve/*"))


def test_a_key_of_another_kind_of_stage_is_missing(tmp_path: Path) -> None:
    store = (tmp_path / "store").as_uri()
    done = finished(store, StageKind.ROLLOUT, tmp_path / "rollout", key="rollout")
    message = resolve.main(
        config_for(store, [(StageKind.EVALUATE, done.key)]), surroundings(tmp_path / "scratch")
    )
    assert message.done == {}
    assert message.missing == [short(done.key)]


def test_sixty_four_results_stay_within_the_message_and_asking_for_the_rest_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner asks again for the keys that were in neither list, until it knows all."""
    store = (tmp_path / "store").as_uri()
    (tmp_path / "empty").mkdir()
    wanted = [(StageKind.ROLLOUT, key_of(f"stage {number}")) for number in range(64)]
    for number in range(0, 64, 2):
        finished(
            store,
            StageKind.ROLLOUT,
            tmp_path / "empty",
            key=f"stage {number}",
            counts={f"count{index}": 1_000_000 for index in range(10)},
            metrics={f"metric{index}": 0.123456 for index in range(6)},
        )
    document, termination = tmp_path / "config.json", tmp_path / "termination"
    for name, value in (
        ("SRR_STAGE_CONFIG", document),
        ("SRR_TERMINATION_LOG", termination),
        ("SRR_SCRATCH", tmp_path / "scratch"),
        ("SRR_POD_UID", "pod"),
    ):
        monkeypatch.setitem(os.environ, name, str(value))
    done: set[str] = set()
    missing: set[str] = set()
    rounds = 0
    while left := [stage for stage in wanted if short(stage[1]) not in done | missing]:
        document.write_text(config_for(store, left).model_dump_json(by_alias=True, exclude_none=True))
        assert run_stage(resolve.main, translate=stage_failure) == ExitCode.DONE
        assert termination.stat().st_size <= 4096
        told = parse_termination(termination.read_text())
        assert told is not None
        assert told.done or told.missing
        done |= told.done.keys()
        missing |= set(told.missing)
        rounds += 1
    assert done == {short(key) for _, key in wanted[::2]}
    assert missing == {short(key) for _, key in wanted[1::2]}
    assert 2 < rounds < 12


def test_a_damaged_result_is_told_and_not_taken_for_missing(tmp_path: Path) -> None:
    store = (tmp_path / "store").as_uri()
    done = finished(store, StageKind.ROLLOUT, tmp_path / "rollout", key="rollout")
    path = tmp_path / "store" / "stages" / "Rollout" / done.key / "result.json"
    document = json.loads(path.read_text())
    del document["kind"]
    path.write_text(json.dumps(document))
    with pytest.raises(Corrupt, match="Delete it, and it is made again"):
        resolve.main(config_for(store, [(StageKind.ROLLOUT, done.key)]), surroundings(tmp_path / "scratch"))
