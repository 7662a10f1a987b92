"""Rollout that is killed, told to go, or shared by several pods: nothing is asked for twice, nothing gets lost."""

import json
import time
from pathlib import Path

from tests.support.sampler_stages import Workplace
from tests.support.scripted_server import ScriptedServer
from tests.unit.sampler.test_rollout import configure, rows_of

from selfrewarding.contract.program import ExitCode
from selfrewarding.store.chunks import read_rows
from srr_sampler import rollout


def test_rows_that_were_finished_are_not_asked_for_again_after_a_kill(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    prompts = [f"What is {number} times 3?" for number in range(40)]
    undisturbed = Workplace(place.folder / "undisturbed")
    whole = undisturbed.run(rollout.main, configure(undisturbed, tokenizer_folder, prompts=prompts))

    server.delay = 0.2
    config = configure(place, tokenizer_folder, prompts=prompts)
    prefix = f"stages/Rollout/{config.key}"
    place.start_and_kill(config, {"policy": server}, lambda: any(place.store.list(f"{prefix}/attempts")))
    before = {row.key: row.data for row in read_rows(place.store, prefix, log="rows")}
    assert 0 < len(before) < 40 * 3 * 4, place.log("killed")

    server.delay = 0
    server.requests.clear()
    resumed = place.run(rollout.main, config, "resumed")
    after = {row.key: row.data for row in read_rows(place.store, prefix, log="rows")}
    assert {key: after[key] for key in before} == before, "finished rows stay byte-identical"
    expected = {row.key: row.data for row in read_rows(undisturbed.store, prefix, log="rows")}
    assert after == expected
    answered = [key for key in expected if key.count("/") == 1]
    assert server.count("answer") == len(answered) - sum(key in before for key in answered)
    assert server.repeated() == []
    assert resumed.counts == whole.counts
    assert rows_of(place, resumed) == rows_of(undisturbed, whole)


def test_sigterm_hands_in_what_is_finished_and_asks_for_another_attempt(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    place.max_num_seqs = 3
    server.delay = 0.05
    config = configure(place, tokenizer_folder)
    program = place.start(config, {"policy": server}, "pod-1")
    deadline = time.monotonic() + 30
    while server.count("judgement") < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    program.terminate()
    assert program.wait(20) == ExitCode.RETRY, place.log("pod-1")
    assert json.loads(place.termination("pod-1"))["failure"] == "Retry"
    assert any(read_rows(place.store, f"stages/Rollout/{config.key}", log="rows"))


def test_shards_share_the_prompts_and_the_last_one_commits(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    place.shards = 3
    config = configure(place, tokenizer_folder)
    results = [rollout.main(config, place.here(f"pod-{shard}", shard=shard)) for shard in (2, 0, 1)]
    assert results[:2] == [None, None]
    assert [row["key"] for row in rows_of(place, results[2])] == [f"p{number:03d}" for number in range(12)]
    assert server.repeated() == []
    assert server.count("answer") == 36
    alone = Workplace(place.folder / "alone")
    single = alone.run(rollout.main, configure(alone, tokenizer_folder))
    assert rows_of(alone, single) == rows_of(place, results[2])
    again = rollout.main(config, place.here("pod-9", shard=1))
    assert again == results[2]


def test_markers_of_another_split_do_not_count(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    place.shards = 2
    assert rollout.main(configure(place, tokenizer_folder), place.here("a", shard=0)) is None
    place.shards = 3
    config = configure(place, tokenizer_folder)
    results = [rollout.main(config, place.here(f"b{shard}", shard=shard)) for shard in (1, 2, 0)]
    assert results[:2] == [None, None]
    assert len(rows_of(place, results[2])) == 12
    assert server.count("answer") == 36


def test_rows_lost_behind_a_marker_are_made_again_by_the_last_pod(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    place.shards = 2
    config = configure(place, tokenizer_folder)
    assert rollout.main(config, place.here("a", shard=0)) is None
    place.store.delete_prefix(f"stages/Rollout/{config.key}/attempts/a")
    result = rollout.main(config, place.here("b", shard=1))
    assert len(rows_of(place, result)) == 12
