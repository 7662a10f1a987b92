"""`kubectl apply` of a run on a real node: real vLLM, DeepSpeed in two pods, S3; first left alone, then with each death once.

The second run has the same seeds in another prefix, so what must be equal can be compared.
"""

import json
import time
from collections import Counter
from datetime import datetime

import pytest
from tests.cluster.end_to_end.deaths import Deaths
from tests.cluster.end_to_end.finished_run import Done, apply, finish
from tests.cluster.end_to_end.installation import RELEASE, Installed
from tests.cluster.end_to_end.ready_truth import lies
from tests.cluster.end_to_end.watching import condition, wait_for
from tests.support.small_run import chunk_rows, identities, results, rows

from selfrewarding.contract.artifacts import PROMPTS, ROLLOUT

STAGES = (
    "TrainBaseline", "BuildEvaluations", "SupervisedFineTune", "Evaluate", "Compare", "GeneratePrompts", "Rollout",
    "BuildPreferences", "PreferenceOptimize",
)  # fmt: skip
"""The kinds of stages that others build upon, or that measure."""
TIMES = dict.fromkeys(STAGES, 1) | {"Evaluate": 3, "Compare": 2}
"""How many stages of each kind a run has: the baseline is measured too, M1 compared with it, and M2 with both."""
REPORTS = 2


@pytest.fixture(scope="module")
def undisturbed(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run that nothing happens to."""
    began = time.monotonic()
    watch = apply(installed, "undisturbed")
    return finish(installed, "undisturbed", watch, tmp_path_factory.mktemp("undisturbed"), began)


@pytest.fixture(scope="module")
def killed(undisturbed: Done, installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The same run; a trainer, a sampler, a server, the operator and containerd die once each."""
    name, began = "killed", time.monotonic()
    watch = apply(installed, name)
    deaths = Deaths(installed, name)
    deaths.trainer_dies_in_the_middle_of_its_steps()
    deaths.containerd_restarts_while_training()
    deaths.operator_dies()
    deaths.sampler_dies_in_the_middle_of_the_rollout()
    deaths.server_dies()
    done = finish(installed, name, watch, tmp_path_factory.mktemp("killed"), began)
    done.chunks, done.deaths = deaths.chunks, deaths.told
    return done


def test_the_run_ends_with_m1_and_m2_on_s3_that_transformers_loads(undisturbed: Done) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = undisturbed.run["status"]["models"]
    assert [model["name"] for model in models] == ["Baseline", "M1", "M2"]
    for kind in ("SupervisedFineTune", "PreferenceOptimize"):
        ((folder, result),) = results(undisturbed.artifacts, kind)
        config = next(ref.path for name, ref in result.files.items() if name == "model/config.json")
        model = AutoModelForCausalLM.from_pretrained((folder / config).parent, local_files_only=True)
        assert AutoTokenizer.from_pretrained((folder / config).parent, local_files_only=True).chat_template
        assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
        assert result.metrics["weightsChanged"] > 0


def test_every_stage_ran_once_for_its_key(undisturbed: Done) -> None:
    counts = {kind: len(results(undisturbed.artifacts, kind)) for kind in STAGES}
    assert counts == TIMES


def test_each_iteration_is_reported_and_the_newest_page_lies_with_the_run(undisturbed: Done) -> None:
    reports = sorted(results(undisturbed.artifacts, "Report"), key=lambda one: one[1].iteration)
    assert [result.iteration for _, result in reports] == [1, 2]
    folder, last = reports[-1]
    assert len(reports) == REPORTS
    assert last.counts["missing"] == 0
    page = (folder / last.files["report.html"].path).read_bytes()
    run = undisturbed.artifacts / "runs/quickstart/runs"
    (shown,) = run.glob(f"*/{undisturbed.name}/report.html")
    assert shown.read_bytes() == page
    assert {card.stem for card in shown.parent.glob("cards/*.md")} == {"Baseline", "M1", "M2"}


@pytest.mark.usefixtures("possible")
@pytest.mark.parametrize("which", ["undisturbed", "killed"])
def test_ready_told_the_truth_at_every_write(which: str, request: pytest.FixtureRequest) -> None:
    done: Done = request.getfixturevalue(which)
    assert len(done.versions) > len(STAGES)
    assert lies(done.versions) == []


def test_the_operator_wrote_at_most_five_times_a_stage(undisturbed: Done) -> None:
    """Survival rule 11: beside the progress, one write in 30 s."""
    stages = sum(TIMES.values()) + REPORTS + 2  # Prepare and Resolve
    seconds = _seconds(undisturbed)
    assert len(undisturbed.versions) <= 5 * stages + seconds / 30 + 3


def test_nothing_of_the_run_is_left_on_the_node(undisturbed: Done, installed: Installed) -> None:
    label = f"selfrewarding.dev/run={undisturbed.name}"
    for kind in ("pods", "jobs", "deployments", "pytorchjobs", "services", "networkpolicies"):
        wait_for(
            f"{kind} of {undisturbed.name} are still there",
            lambda kind=kind: not installed.team.list(kind, label),
            seconds=60,
        )


def test_hand_over_and_gpu_time_are_in_status(undisturbed: Done) -> None:
    status = undisturbed.run["status"]
    assert status["gpuSeconds"] > 0


def test_no_secret_is_in_status_logs_or_manifests(undisturbed: Done, installed: Installed) -> None:
    secret = installed.cluster.s3_settings()["AWS_SECRET_ACCESS_KEY"]
    told = json.dumps(undisturbed.versions) + installed.system(
        "logs", "-l", f"app.kubernetes.io/name={RELEASE}", "--tail=-1"
    )
    assert secret not in told


def test_each_death_happened(killed: Done) -> None:
    assert len(killed.deaths) == 5
    assert not [line for line in killed.deaths if ": 0 processes" in line]


def test_survival_rule_03_rows_finished_before_a_death_stay_as_they_were(killed: Done) -> None:
    assert killed.chunks
    for key, content in killed.chunks.items():
        path = killed.artifacts / "runs/quickstart" / key.removeprefix(f"{killed.name}/")
        assert path.read_bytes() == content


def test_survival_rule_12_ids_seeds_and_counts_equal_the_undisturbed_runs(
    undisturbed: Done, killed: Done
) -> None:
    for kind in STAGES:
        mine, theirs = (
            sorted(r.key for _, r in results(one.artifacts, kind)) for one in (killed, undisturbed)
        )
        assert mine == theirs, kind
    for kind, name in (("GeneratePrompts", PROMPTS), ("Rollout", ROLLOUT)):
        mine, theirs = (identities(rows(one.artifacts, kind, name)) for one in (killed, undisturbed))
        assert mine == theirs, kind


def test_each_row_was_made_once(killed: Done) -> None:
    folder = killed.artifacts / "runs/quickstart/stages/Rollout"
    made = Counter(
        (row["key"], row["type"])
        for path in folder.glob("*/attempts/*/rows-*.jsonl")
        for row in chunk_rows(path.read_bytes())
    )
    assert made
    assert [key for key, times in made.items() if times > 1] == []


def test_the_operator_counts_what_died_as_infrastructure(killed: Done) -> None:
    reasons = {condition(version, "Failed").get("status") for version in killed.versions}
    assert "True" not in reasons


def _seconds(done: Done) -> float:
    began = datetime.fromisoformat(done.run["metadata"]["creationTimestamp"])
    ended = datetime.fromisoformat(condition(done.run, "Succeeded")["lastTransitionTime"])
    return (ended - began).total_seconds()
