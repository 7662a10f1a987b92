"""Settings, log lines, metrics, and the command's help."""

import io
import json
import logging
from pathlib import Path

import pytest
import structlog
from tests.support.builders import make_run
from typer.testing import CliRunner

from selfrewarding.api import labels
from selfrewarding.api.run import Metrics as ModelMetrics
from selfrewarding.api.run import (
    ModelStatus,
    RawObject,
    SelfRewardingRunStatus,
    StageAttempts,
    StageSummary,
)
from selfrewarding.cli.app import app
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.controller.logs import configure_logs
from selfrewarding.controller.metrics import Metrics
from selfrewarding.controller.settings import InvalidSettings, OperatorSettings, read_settings
from selfrewarding.manifests import Images


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRR_LEASE_NAMESPACE", "ops")


def test_settings_have_defaults_that_fit_a_pod() -> None:
    settings = read_settings()
    assert settings.namespaces == ()
    assert (settings.health_port, settings.metrics_port, settings.pass_concurrency) == (8080, 9090, 8)
    assert (settings.leader_election, settings.lease_namespace, settings.log_format) == (True, "ops", "json")
    assert settings.images == Images()
    assert settings.pod_name


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "NAMESPACES": "a, b,,a", "TRAINER_IMAGE": "t:1", "SAMPLER_IMAGE": "", "VLLM_IMAGE": "v:1", "VLLM_CPU_IMAGE": "c:1",
        "LEADER_ELECTION": "false", "POD_NAME": "me", "LOG_LEVEL": "debug", "LOG_FORMAT": "text",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SRR_{name}", value)
    settings = read_settings()
    assert settings.namespaces == ("a", "b")
    assert settings.images == Images(trainer="t:1", vllm="v:1", vllm_cpu="c:1")
    assert (settings.leader_election, settings.pod_name) == (False, "me")
    assert (settings.log_level, settings.log_format) == ("DEBUG", "text")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SRR_HEALTH_PORT", "none", 'SRR_HEALTH_PORT is "none": input should be a valid integer'),
        ("SRR_HEALTH_PORT", "70000", 'SRR_HEALTH_PORT is "70000": input should be less than or equal to 65535'),
        ("SRR_LOG_FORMAT", "xml", "SRR_LOG_FORMAT is \"xml\": input should be 'json' or 'text'"),
        ("SRR_PASS_CONCURRENCY", "0", 'SRR_PASS_CONCURRENCY is "0"'),
        ("SRR_LEADER_ELECTION", "perhaps", 'SRR_LEADER_ELECTION is "perhaps"'),
        ("SRR_LEASE_NAMESPACE", "", "SRR_LEASE_NAMESPACE is not set, and this is no pod"),
    ],
)  # fmt: skip
def test_bad_settings_are_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setattr("selfrewarding.controller.settings._SERVICE_ACCOUNT_NAMESPACE", Path("/nowhere"))
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as raised:
        read_settings()
    assert message in str(raised.value)
    result = CliRunner().invoke(app, ["operator"])
    assert (result.exit_code, message in result.output) == (2, True)


def test_the_help_names_every_setting() -> None:
    text = CliRunner().invoke(app, ["operator", "--help"]).output
    assert [name for name in OperatorSettings.model_fields if f"SRR_{name.upper()}" not in text] == []


def test_an_operator_without_a_cluster_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("SRR_LEADER_ELECTION", "false")
    monkeypatch.setattr("selfrewarding.controller.app.configure_logs", lambda *_: None)
    from tests.cluster.faults.operator_process import free_port

    monkeypatch.setenv("SRR_METRICS_PORT", str(free_port()))
    result = CliRunner().invoke(app, ["operator"])
    assert result.exit_code == 2
    assert "Set KUBECONFIG to a file that kubectl can use" in result.output


@pytest.fixture
def _same_logs_afterwards():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = before, level
    structlog.contextvars.clear_contextvars()


@pytest.mark.usefixtures("_same_logs_afterwards")
def test_a_log_line_carries_its_run_and_stage() -> None:
    stream = io.StringIO()
    configure_logs("json", "INFO", stream)
    with structlog.contextvars.bound_contextvars(run="lab/demo", stage="Rollout"):
        logging.getLogger("kopf.reactor").warning("a %s", "thing")
    line = json.loads(stream.getvalue())
    assert line["event"] == "a thing"
    assert (line["run"], line["stage"], line["level"], line["logger"]) == (
        "lab/demo",
        "Rollout",
        "warning",
        "kopf.reactor",
    )
    assert line["timestamp"].endswith("Z")


@pytest.mark.usefixtures("_same_logs_afterwards")
def test_a_traceback_is_one_json_line_and_plain_text_without_colours() -> None:
    for form in ("json", "text"):
        stream = io.StringIO()
        configure_logs(form, "INFO", stream)
        try:
            {}["what"]
        except KeyError:
            logging.getLogger("x").exception("broke")
        logging.getLogger("aiohttp.access").info("GET /healthz")
        logging.getLogger("x").debug("hidden")
        text = stream.getvalue()
        assert "KeyError: 'what'" in text
        assert "healthz" not in text
        assert "hidden" not in text
        assert "\x1b[" not in text
        if form == "json":
            assert len(text.splitlines()) == 1


def status(**fields) -> SelfRewardingRunStatus:
    return SelfRewardingRunStatus(**fields)


def child(kind: str, name: str, **marks: str) -> RawObject:
    return {"kind": kind, "metadata": {"name": name, "labels": marks}}


def test_an_attempt_counts_for_its_own_stage_whatever_else_is_under_way() -> None:
    """The report's Job starts beside the next iteration, of which status tells."""
    metrics, rollout, report = Metrics(), "a" * 16, "b" * 16
    marks = {labels.STAGE: "Rollout", labels.KEY: rollout}
    begun = {
        rollout: StageAttempts(attempt=1),
        report: StageAttempts(attempt=1),
        f"{rollout}-policy": StageAttempts(attempt=2, failure="Unknown"),
    }
    run = make_run(status=status(stage="Rollout", attempts=begun))
    for _ in range(2):  # a pass that is repeated
        metrics.created(run, child("ConfigMap", "rollout-a1", **marks))
        metrics.created(run, child("Job", "rollout-a1", **marks))
        metrics.created(run, child("Job", "report-a1", **{labels.STAGE: "Report", labels.KEY: report}))
        pool = {labels.HOLDER: f"{rollout}-policy", labels.KEY: rollout}
        metrics.created(run, child("Deployment", "policy-a2", **pool))
    for number, failure in ((2, "Infrastructure"), (3, "OutOfMemory")):
        again = status(stage="Rollout", attempts={rollout: StageAttempts(attempt=number, failure=failure)})
        metrics.created(make_run(status=again), child("Job", f"rollout-a{number}", **marks))
    counted = {
        tuple(one.labels.values()): one.value
        for family in metrics.registry.collect()
        for one in family.samples
        if one.name == "srr_stage_attempts_total"
    }
    assert counted == {
        ("Rollout", "First"): 1.0,
        ("Report", "First"): 1.0,
        ("Serving", "Unknown"): 1.0,
        ("Rollout", "Infrastructure"): 1.0,
        ("Rollout", "OutOfMemory"): 1.0,
    }


def test_status_writes_are_counted_without_the_runs_names() -> None:
    metrics, key = Metrics(), "a" * 16
    sample = metrics.registry.get_sample_value
    summary = StageSummary(stage="Rollout", iteration=1, digest="d", seconds=90.0)
    begun = status(stage="Rollout", attempts={key: StageAttempts(attempt=1)}, gpu_seconds=10.0)
    again = status(
        stage="Rollout", attempts={key: StageAttempts(attempt=2, failure="Infrastructure")}, gpu_seconds=40.0
    )
    done = status(results={key: summary}, gpu_seconds=40.0, handover_since="2026-01-31T12:00:00Z")
    over = status(results={key: summary}, gpu_seconds=40.0, handover_seconds=12.0)
    metrics.written(make_run(), begun)
    assert sample("srr_runs", {"phase": "Running"}) == 1.0
    metrics.written(make_run(status=begun), again)
    metrics.written(make_run(status=again), done)
    metrics.written(make_run(status=done), over)
    metrics.written(make_run(status=over), over)
    assert sample("srr_stage_duration_seconds_sum", {"stage": "Rollout", "outcome": "Succeeded"}) == 90.0
    assert sample("srr_gpu_seconds_total") == 40.0
    assert sample("srr_handover_seconds_sum") == 12.0
    assert sample("srr_handover_seconds_count") == 1.0
    metrics.forget(RunKey("lab", "demo"))
    assert sample("srr_runs", {"phase": "Running"}) == 0.0
    labels = {
        label for family in metrics.registry.collect() for one in family.samples for label in one.labels
    }
    assert not labels & {"run", "name", "namespace"}


def test_a_handover_as_long_as_the_last_counts_too_and_one_that_nothing_follows_does_not() -> None:
    metrics, since = Metrics(), "2026-01-31T12:00:00Z"
    first, second = "a" * 16, "b" * 16
    begun = status(handover_seconds=31.0, handover_since=since, attempts={second: StageAttempts(attempt=1)})
    over = status(handover_seconds=31.0, attempts={second: StageAttempts(attempt=1, handover_seconds=31.0)})
    metrics.written(make_run(status=begun), over)
    assert metrics.registry.get_sample_value("srr_handover_seconds_count") == 1.0
    last = status(
        handover_seconds=31.0,
        handover_since=since,
        attempts={first: StageAttempts(attempt=1, handover_seconds=31.0)},
    )
    metrics.written(make_run(status=last), last.model_copy(update={"handover_since": None}))
    assert metrics.registry.get_sample_value("srr_handover_seconds_count") == 1.0


def test_the_newest_models_numbers_are_gauges_until_the_run_is_gone() -> None:
    metrics = Metrics()

    def shown() -> dict[tuple[str, ...], float]:
        return {
            tuple(one.labels.values()): one.value
            for family in metrics.registry.collect()
            if family.name == "srr_model_metric"
            for one in family.samples
        }

    first = ModelStatus(
        name="M1", iteration=1, uri="s3://b/m1", digest="d", metrics=ModelMetrics(spearman=0.4, loss=1.5)
    )
    second = ModelStatus(
        name="M2", iteration=2, uri="s3://b/m2", digest="d", metrics=ModelMetrics(win_rate=0.6)
    )
    metrics.seen(make_run())
    assert shown() == {}
    metrics.seen(make_run(status=status(models=[first])))
    assert shown() == {("lab", "demo", "M1", "spearman"): 0.4, ("lab", "demo", "M1", "loss"): 1.5}
    metrics.written(make_run(status=status(models=[first])), status(models=[first, second]))
    assert shown() == {("lab", "demo", "M2", "winRate"): 0.6}
    metrics.written(make_run(status=status(models=[second])), status())
    assert shown() == {}, "an edit took them all"
    metrics.seen(make_run(status=status(models=[second])))
    metrics.forget(RunKey("lab", "demo"))
    assert shown() == {}
