"""A run in a world where anything may happen: hypothesis chooses what ends, fails, vanishes, is edited or lost.

`FakeCluster` refuses what must never happen at the moment it happens; the invariants here hold after every step, and when
failures stop, every run ends. `SRR_HYPOTHESIS=thorough` looks longer.
"""

import os
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster

from selfrewarding.api.presets import effective
from selfrewarding.api.run import SelfRewardingRunStatus
from selfrewarding.contract.keys import artifact_label
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.plan.facts import gather_facts
from selfrewarding.plan.observed import Rival

CRD = Path(__file__).resolve().parents[3] / "crds" / "selfrewardingruns.yaml"
MAX_STATUS_BYTES = 8192

SHAPES: list[dict[str, Any]] = [
    {},
    {"judge": {"modelUri": "s3://models/judge"}, "training": {"nodes": 2, "gpusPerNode": 2}},
    {"promptGeneration": {"writer": {"modelUri": "s3://models/writer"}}, "sampler": {"parallelism": 3}},
    {"promptGeneration": {"writer": {"endpoint": {"url": "https://llm.example.com/v1", "model": "large"}}}},
    {"seedData": {"evaluations": {"uri": "s3://data/eft.jsonl", "format": "Evaluations"}}, "iterations": 2},
    {"gate": {"approval": "Manual"}, "iterations": 2, "serving": {"replicas": 2, "device": "Cpu"}},
    {
        "gate": {
            "rules": [{"metric": "pairwiseAccuracy", "maxDrop": 0.1, "action": "RollBack"}],
            "maxRollBacks": 1,
        }
    },
    {
        "iterations": 2,
        "dpo": {"earlyStopping": {"candidates": 2}},
        "evaluation": {"headToHead": {"prompts": 64}},
    },
    {
        "iterations": 2,
        "dpo": {"earlyStopping": {"candidates": 3}},
        "evaluation": {
            "headToHead": {"against": ["Baseline", "M1"], "judge": {"modelUri": "s3://models/referee"}}
        },
        "gate": {
            "rules": [{"metric": "pairwiseAccuracy", "maxDrop": 0.1, "action": "RollBack"}],
            "maxRollBacks": 1,
        },
    },
]
EDITS: list[dict[str, Any]] = [
    {"sft": {"epochs": 3}},
    {"sft": {"epochs": 2}},
    {"dpo": {"beta": 0.2}},
    {"dpo": {"earlyStopping": None}},
    {"evaluation": {"bootstrap": 500}},
    {"judge": {"samples": 2}},
    {"evaluation": {"samples": 2}},
    {"iterations": 1},
    {"iterations": 3},
    {"serving": {"replicas": 3}},
    {"limits": {"retries": 5}},
    {"seedData": {"instructions": {"uri": "s3://data/other.jsonl"}}},
    {"seed": 7},
]
FAILURES: list[dict[str, Any]] = [
    {"exit_code": 1},
    {"exit_code": 137},
    {"exit_code": 75},
    {"exit_code": 4},
    {"reason": "Evicted", "exit_code": None},
    {"reason": "OOMKilled", "exit_code": 137},
    {"termination": TerminationMessage(failure="Retry", message="The store does not answer.")},
    {"termination": TerminationMessage(failure="StoreUnavailable", message="The bucket refuses the key.")},
    {"termination": TerminationMessage(failure="ServerKeyRefused", message="The servers refuse the key.")},
    {"termination": TerminationMessage(failure="PeerLost", message="rank 1 lost the other ranks")},
    {"termination": TerminationMessage(failure="Unknown", message="ValueError: odd")},
    {"termination": TerminationMessage(failure="BadData", message="Row 3 has no answer.")},
    {"termination": TerminationMessage(failure="BadConfiguration", message="Too long.")},
]


def _status_schema() -> dict[str, Any] | None:
    if not CRD.exists():
        return None
    document = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    schema: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][
        "status"
    ]
    return _closed(schema)


def _closed(schema: Any) -> Any:
    """The schema as the API server reads it: what it does not name is dropped, so here it is an error."""
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items() if name != "properties"}
    if "properties" in schema:
        closed["properties"] = {name: _closed(value) for name, value in schema["properties"].items()}
        closed.setdefault("additionalProperties", False)
    return closed


SCHEMA = _status_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA) if SCHEMA else None


class AnyWorld(RuleBasedStateMachine):
    """One run from its creation until something ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = FakeCluster()

    @initialize(shape=st.sampled_from(SHAPES))
    def begin(self, shape: dict[str, Any]) -> None:
        self.cluster.spec = merged(SPEC, shape)

    # ------------------------------------------------------------------ the operator

    @rule()
    def a_pass(self) -> None:
        self.cluster.one_pass()

    @rule()
    def passes_until_rest(self) -> None:
        self.cluster.settle()

    @rule()
    def the_operator_dies_before_it_writes(self) -> None:
        self.cluster.one_pass(lose_status=True)

    # ------------------------------------------------------------------ the cluster

    @rule()
    def pods_start(self) -> None:
        self.cluster.run_pods()

    @rule()
    def all_goes_well_for_a_while(self) -> None:
        for _ in range(3):
            self.cluster.settle()
            self.cluster.run_pods()
            for owned in list(self.cluster.jobs()):
                self.cluster.succeed(owned)
            self.cluster.later(31)

    @precondition(lambda self: self.cluster.jobs())
    @rule(data=st.data(), told=st.booleans())
    def a_job_succeeds(self, data: st.DataObject, told: bool) -> None:
        self.cluster.succeed(data.draw(st.sampled_from(self.cluster.jobs())), message=told)

    @precondition(lambda self: self.cluster.jobs())
    @rule(data=st.data(), how=st.sampled_from(FAILURES))
    def a_job_fails(self, data: st.DataObject, how: dict[str, Any]) -> None:
        self.cluster.fail(data.draw(st.sampled_from(self.cluster.jobs())), **how)

    @precondition(lambda self: self.cluster.jobs() and self.cluster.store)
    @rule(data=st.data())
    def the_store_loses_a_result(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.cluster.store)))
        del self.cluster.store[key]
        gone = TerminationMessage(failure="ParentMissing", message="A result is gone.", parent=key[:16])
        self.cluster.fail(data.draw(st.sampled_from(self.cluster.jobs())), termination=gone)

    @precondition(lambda self: self.cluster.jobs())
    @rule(data=st.data(), done=st.integers(0, 100))
    def a_job_makes_progress(self, data: st.DataObject, done: int) -> None:
        self.cluster.show_progress(data.draw(st.sampled_from(self.cluster.jobs())), done)

    @precondition(lambda self: self.cluster.workloads())
    @rule(data=st.data())
    def a_node_is_lost(self, data: st.DataObject) -> None:
        self.cluster.lose_node(data.draw(st.sampled_from(self.cluster.workloads())))

    @rule()
    def one_pod_finds_a_node(self) -> None:
        self.cluster.schedule_one()

    @rule()
    def servers_crash(self) -> None:
        self.cluster.crash_servers()

    @precondition(lambda self: self.cluster.owned)
    @rule(data=st.data())
    def somebody_deletes_a_child(self, data: st.DataObject) -> None:
        self.cluster.delete(data.draw(st.sampled_from(sorted(self.cluster.owned))))

    @rule(seconds=st.sampled_from([1, 11, 31, 95, 700]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.later(seconds)

    @rule(accuracy=st.sampled_from([0.5, 0.7]))
    def the_next_model_judges_like_this(self, accuracy: float) -> None:
        self.cluster.metrics = {"pairwiseAccuracy": accuracy}

    # ------------------------------------------------------------------ people

    @rule(change=st.sampled_from(EDITS))
    def somebody_edits(self, change: dict[str, Any]) -> None:
        self.cluster.edit(change)

    @rule(suspend=st.booleans())
    def somebody_suspends_or_resumes(self, suspend: bool) -> None:
        self.cluster.edit({"suspend": suspend})

    @rule(iteration=st.integers(1, 3))
    def somebody_approves(self, iteration: int) -> None:
        self.cluster.annotations = {"selfrewarding.dev/approve": str(iteration)}

    @rule(data=st.data())
    def another_run_computes_the_same(self, data: st.DataObject) -> None:
        stages = [owned.stage for owned in self.cluster.owned.values() if owned.stage is not None]
        keys = sorted({stage.key for stage in stages} | set(self.cluster.store)) or ["0" * 64]
        artifact = artifact_label("s3://runs/demo", data.draw(st.sampled_from(keys)))
        self.cluster.rivals = (Rival(run="lab/other", artifact=artifact),)

    @rule()
    def the_other_run_goes(self) -> None:
        self.cluster.rivals = ()

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def status_is_valid_and_small(self) -> None:
        text = self.cluster.status.model_dump_json(by_alias=True, exclude_none=True)
        assert len(text.encode()) < MAX_STATUS_BYTES, f"{len(text.encode())} bytes"
        again = SelfRewardingRunStatus.model_validate_json(text)
        assert again == self.cluster.status
        if VALIDATOR is not None:
            VALIDATOR.validate(self.cluster.status.model_dump(mode="json", by_alias=True, exclude_none=True))

    @invariant()
    def no_two_attempts_of_a_stage_live(self) -> None:
        attempts: dict[str, set[int]] = {}
        for pod in self.cluster.live_pods():
            if pod.holder is None:
                attempts.setdefault(pod.key, set()).add(pod.attempt)
        assert all(len(found) == 1 for found in attempts.values()), attempts

    @invariant()
    def failures_stay_within_the_limit(self) -> None:
        for unit, entry in self.cluster.status.attempts.items():
            limit = max(3, self.cluster.run.spec.limits.retries)
            assert entry.failures <= limit + 1, (unit, entry)

    @invariant()
    def a_suspended_run_has_no_pods(self) -> None:
        said = [c for c in self.cluster.status.conditions if c.type == "Suspended" and c.status == "True"]
        if said and said[0].observed_generation == self.cluster.generation:
            assert not self.cluster.live_pods()

    def teardown(self) -> None:
        """Failures stop and a person mends what only a person can: the run ends well."""
        cluster = self.cluster
        cluster.rivals = ()
        cluster.edit({"suspend": False, "limits": {"retries": 50}, "gate": {"approval": "Automatic"}})
        cluster.later(2000)
        cluster.finish_everything()
        assert cluster.condition("Succeeded")[0] == "True", cluster.status
        assert not cluster.owned, "children are left behind"
        view = gather_facts(cluster.run, effective(cluster.spec), cluster.observed(), cluster.now)
        missing = [stage for stage in view.graph.stages if stage.short not in cluster.status.results]
        assert not missing or cluster.condition("Succeeded")[1] == "StoppedByGate"


THOROUGH = os.environ.get("SRR_HYPOTHESIS") == "thorough"
TestAnyWorld = AnyWorld.TestCase
TestAnyWorld.settings = settings(
    max_examples=1500 if THOROUGH else 40,
    stateful_step_count=60 if THOROUGH else 30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
