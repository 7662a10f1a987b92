"""`run.json`: identity, generation, and what is refused."""

import copy
import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError
from tests.support.local_cluster import RAW

from selfrewarding.api.run import SelfRewardingRunSpec, SelfRewardingRunStatus
from selfrewarding.controller.reconcile import effective_spec
from selfrewarding.local.errors import LocalError
from selfrewarding.local.run_record import load_record, open_record, run_of, save_record, with_status
from selfrewarding.local.state import StateFolder, run_folders

NOW = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.fixture
def state(tmp_path):
    """A state folder."""
    made = StateFolder.of(tmp_path, "default", "demo")
    made.make()
    return made


def changed(**spec):
    raw = copy.deepcopy(RAW)
    raw["spec"] |= spec
    return raw


def test_a_new_run_gets_an_identity_that_it_keeps(state):
    first = run_of(open_record(state, RAW, "default", NOW))
    second = run_of(open_record(state, RAW, "default", NOW))
    assert first.metadata.uid == second.metadata.uid
    assert (first.metadata.generation, second.metadata.generation) == (1, 1)
    assert (first.metadata.namespace, first.metadata.name) == ("default", "demo")


def test_a_uid_in_the_file_is_kept(state):
    raw = copy.deepcopy(RAW)
    raw["metadata"]["uid"] = "from-the-cluster"
    assert run_of(open_record(state, raw, "default", NOW)).metadata.uid == "from-the-cluster"


def test_an_edited_spec_is_another_generation_and_the_status_stays(state):
    record = with_status(open_record(state, RAW, "default", NOW), SelfRewardingRunStatus(iteration=2))
    save_record(state, record)
    run = run_of(open_record(state, changed(dpo={"beta": 0.3}), "default", NOW))
    assert (run.metadata.generation, run.status.iteration, run.spec.dpo.beta) == (2, 2, 0.3)
    assert run_of(open_record(state, changed(dpo={"beta": 0.3}), "default", NOW)).metadata.generation == 2


def test_annotations_are_taken_over_and_are_no_edit(state):
    open_record(state, RAW, "default", NOW)
    raw = copy.deepcopy(RAW)
    raw["metadata"]["annotations"] = {"selfrewarding.dev/approve": "1"}
    run = run_of(open_record(state, raw, "default", NOW))
    assert (run.metadata.generation, run.metadata.annotations) == (1, {"selfrewarding.dev/approve": "1"})
    assert run_of(open_record(state, RAW, "default", NOW)).metadata.annotations == {}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (
            changed(artifacts={"uri": "s3://runs/other"}),
            ["another run (spec.artifacts.uri)", "s3://runs/demo", "s3://runs/other"],
        ),
        (changed(preset="small"), ["spec.preset cannot be changed", "set the fields themselves"]),
        (
            {**RAW, "metadata": {"name": "demo", "uid": "x"}},
            ["another run (metadata.uid)", "--artifacts DIR"],
        ),
        ({**RAW, "metadata": {"name": "other"}}, ["an artifact folder of another run", "default/other"]),
    ],
)
def test_another_run_in_the_folder_is_refused(state, raw, words):
    open_record(state, RAW, "default", NOW)
    before = state.run_file.read_bytes()
    with pytest.raises(LocalError) as caught:
        open_record(state, raw, "default", NOW)
    assert all(word in str(caught.value) for word in words)
    assert state.run_file.read_bytes() == before


def test_an_old_contract_version_is_refused(state):
    open_record(state, RAW, "default", NOW)
    document = json.loads(state.run_file.read_text())
    state.run_file.write_text(json.dumps(document | {"contract": 0}))
    with pytest.raises(LocalError, match=r"old contract version.*contract version 0.*knows 1"):
        open_record(state, RAW, "default", NOW)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"contract": 1}', "\x00", '{"contract": 1, "created": 0, "object": {}}']
)
def test_a_damaged_record_is_told_with_its_remedy(state, content):
    state.run_file.write_text(content)
    with pytest.raises(LocalError, match=r"run\.json"):
        load_record(state)


def test_a_spec_that_only_its_preset_completes_is_taken(state):
    # Above the default learning rate, and below the one of the preset `small`.
    raw = changed(preset="small", sft={"minLearningRate": 7e-6})
    spec = effective_spec(run_of(open_record(state, raw, "default", NOW)))
    assert (spec.sft.learning_rate, spec.sft.min_learning_rate) == (1e-5, 7e-6)
    assert (spec.judge.format, spec.judge.max_tokens) == ("Structured", 192)
    with pytest.raises(ValidationError, match="minLearningRate"):
        SelfRewardingRunSpec.model_validate(raw["spec"])


def test_run_folders_lists_all_runs_of_an_artifacts_folder(tmp_path):
    for namespace, name in (("b", "x"), ("a", "y")):
        state = StateFolder.of(tmp_path, namespace, name)
        state.make()
        open_record(state, {**RAW, "metadata": {"name": name}}, namespace, NOW)
    assert [folder.root.parts[-2:] for folder in run_folders(tmp_path)] == [("a", "y"), ("b", "x")]


def test_only_one_process_holds_a_folder(state):
    with state.locked():
        assert state.is_locked()
        with pytest.raises(LocalError, match=r"another `srr local` \(process \d+\)"), state.locked():
            pass
    assert not state.is_locked()
    with state.locked():
        pass
