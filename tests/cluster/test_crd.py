"""The API server and our CRD: which runs it takes, what it says to the others, and what it keeps of a status.

The table is `crd_cases/*.yaml`. Every message is the one that a user reads below `kubectl apply`.
"""

import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from tests.cluster.crd_cases.filled import filled
from tests.cluster.crd_cases.table import SMALLEST, Case, cases, merged
from tests.cluster.faults.api_client import CRDS, MERGE_PATCH, NAMESPACES, RUNS, Api, ApiError
from tests.cluster.testbed import binaries
from tests.cluster.testbed.handle import Cluster

from selfrewarding.api.run import SelfRewardingRunStatus

CRD_NAME = "selfrewardingruns.selfrewarding.dev"
CASES = cases()
Raw = dict[str, Any]


@pytest.fixture(scope="module")
def kubectl(crd_server: Path) -> Any:
    """kubectl as a function: arguments and input to (exit code, standard output, standard error)."""

    def run(*arguments: str, text: str = "") -> tuple[int, str, str]:
        done = subprocess.run(
            [str(binaries.path("kubectl")), "--kubeconfig", str(crd_server), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def crd_server(api_server: Cluster, crd: str) -> Path:
    """The kubeconfig of an API server that serves our CRD."""
    return api_server.kubeconfig


@pytest_asyncio.fixture
async def api(crd_server: Path) -> AsyncIterator[Api]:
    async with Api(crd_server) as found:
        yield found


@pytest_asyncio.fixture
async def namespace(api: Api) -> AsyncIterator[str]:
    name = f"crd-{uuid.uuid4().hex[:8]}"
    await api.create(NAMESPACES, None, {"metadata": {"name": name}})
    yield name
    for run in await api.list(RUNS, name):
        await api.delete(RUNS, name, run["metadata"]["name"])
    await api.delete(NAMESPACES, None, name)


def message(error: ApiError) -> str:
    """The `message` of the Status that the API server answered with."""
    return str(json.loads(str(error).partition(": ")[2])["message"])


async def create(api: Api, namespace: str, manifest: Raw, *, dry: bool = False) -> Raw:
    query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry else {})
    return await api.call("POST", RUNS.path(namespace), manifest, **query)


async def edit(api: Api, namespace: str, manifest: Raw) -> Raw:
    name = manifest["metadata"]["name"]
    return await api.call("PUT", RUNS.path(namespace, name), manifest, fieldValidation="Strict")


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.case) for case in CASES if not case.edits and case.refused]
)
async def test_refused(case: Case, api: Api) -> None:
    with pytest.raises(ApiError) as caught:
        await create(api, "default", case.manifest, dry=True)
    assert case.refused in message(caught.value)
    assert caught.value.code in (400, 422)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.case) for case in CASES if not case.edits and not case.refused]
)
async def test_accepted(case: Case, api: Api) -> None:
    stored = await create(api, "default", case.manifest, dry=True)
    assert stored["spec"] == case.manifest["spec"], "the API server changed the spec"


@pytest.mark.parametrize("case", [pytest.param(case, id=case.case) for case in CASES if case.edits])
async def test_edit(case: Case, api: Api, namespace: str) -> None:
    created = await create(api, namespace, case.original)
    edited = merged(created, case.change)
    if case.refused is None:
        stored = await edit(api, namespace, edited)
        assert stored["spec"] == edited["spec"]
        # What does not change the spec must not look like an edit to the operator.
        assert (stored["metadata"]["generation"] > 1) == (stored["spec"] != created["spec"])
        return
    with pytest.raises(ApiError) as caught:
        await edit(api, namespace, edited)
    assert case.refused in message(caught.value)


def test_the_table_is_large_and_no_sentence_stands_twice() -> None:
    names = [case.case for case in CASES]
    assert len(names) == len(set(names)) >= 60


def test_every_rule_of_the_crd_refuses_something_in_the_table(repository: Path) -> None:
    crd = yaml.safe_load((repository / "crds/selfrewardingruns.yaml").read_text(encoding="utf-8"))
    messages = set(_rule_messages(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    assert len(messages) >= 14
    unseen = {text for text in messages if not any(case.refused and case.refused in text for case in CASES)}
    assert unseen == set()


def _rule_messages(schema: Raw) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        yield rule["message"]
    for inner in (
        *schema.get("properties", {}).values(),
        schema.get("items"),
        schema.get("additionalProperties"),
    ):
        if isinstance(inner, dict):
            yield from _rule_messages(inner)


EXAMPLES = {
    file.stem: yaml.safe_load(file.read_text(encoding="utf-8"))
    for file in sorted((Path(__file__).parents[2] / "crds/examples").glob("*.yaml"))
}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_is_taken_as_it_is(name: str, api: Api) -> None:
    stored = await create(api, "default", EXAMPLES[name], dry=True)
    assert stored["spec"] == EXAMPLES[name]["spec"]


async def test_the_charts_example_is_taken(repository: Path, api: Api) -> None:
    chart = yaml.safe_load(
        (repository / "charts/selfrewarding-operator/Chart.yaml").read_text(encoding="utf-8")
    )
    for example in yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"]):
        await create(api, "default", example, dry=True)


async def test_the_api_server_has_nothing_against_the_crd(api: Api) -> None:
    found = await api.get(CRDS, None, CRD_NAME)
    assert found is not None
    conditions = {one["type"]: one["status"] for one in found["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}


def test_a_plain_apply_of_the_crd_fits_its_annotation(kubectl: Any, repository: Path) -> None:
    """Without --server-side kubectl keeps the whole object in an annotation of at most 256 KiB."""
    file = repository / "crds/selfrewardingruns.yaml"
    code, said, error = kubectl("create", "--dry-run=server", "--save-config", "-o", "name", "-f", str(file))
    assert code == 0 or "already exists" in error, error + said
    assert "Too long" not in error


async def test_a_full_status_comes_back_as_it_was_written(api: Api, namespace: str) -> None:
    """Every field that the types have: none is pruned, none is refused, none is rounded."""
    await create(api, namespace, SMALLEST)
    status = filled(SelfRewardingRunStatus)
    written = status.model_dump(mode="json", by_alias=True)
    path = RUNS.path(namespace, "smallest", "status")
    answer = await api.call("PATCH", path, {"status": written}, content=MERGE_PATCH, fieldValidation="Strict")
    assert answer["status"] == written
    stored = await api.get(RUNS, namespace, "smallest")
    assert stored is not None
    assert stored["status"] == written
    assert SelfRewardingRunStatus.model_validate(stored["status"]) == status


async def test_a_status_sent_with_the_run_is_dropped(api: Api, namespace: str) -> None:
    """A manifest with a status (a copy of another run) starts anew."""
    manifest = {**SMALLEST, "status": filled(SelfRewardingRunStatus).model_dump(mode="json", by_alias=True)}
    assert "status" not in await create(api, namespace, manifest)


async def test_writing_a_status_is_no_new_generation(api: Api, namespace: str) -> None:
    await create(api, namespace, SMALLEST)
    path = RUNS.path(namespace, "smallest", "status")
    answer = await api.call("PATCH", path, {"status": {"stage": "Rollout"}}, content=MERGE_PATCH)
    assert (answer["metadata"]["generation"], answer["status"]) == (1, {"stage": "Rollout"})


async def test_a_condition_stands_once(api: Api, namespace: str) -> None:
    await create(api, namespace, SMALLEST)
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "R",
        "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    path = RUNS.path(namespace, "smallest", "status")
    with pytest.raises(ApiError) as caught:
        await api.call("PATCH", path, {"status": {"conditions": [ready, ready]}}, content=MERGE_PATCH)
    assert 'status.conditions[1]: Duplicate value: {"type":"Ready"}' in message(caught.value)


async def test_get_shows_where_a_run_stands(api: Api, namespace: str, kubectl: Any) -> None:
    await create(api, namespace, SMALLEST)
    status = {
        "stage": "Rollout",
        "iteration": 2,
        "progress": {"done": 1200, "total": 4000},
        "gpus": 8,
        "waitingFor": "pods of rollout-2 to end",
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "Running", "message": "Rollout of iteration 2",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}
        ],
    }  # fmt: skip
    await api.call(
        "PATCH", RUNS.path(namespace, "smallest", "status"), {"status": status}, content=MERGE_PATCH
    )
    _, shown, _ = kubectl("-n", namespace, "get", "srr")
    head, row = shown.splitlines()
    assert head.split() == ["NAME", "STAGE", "ITERATION", "DONE", "OF", "GPUS", "READY", "AGE"]
    assert row.split()[:-1] == ["smallest", "Rollout", "2", "1200", "4000", "8", "False"]
    _, wide, _ = kubectl("-n", namespace, "get", "srr", "-o", "wide")
    head, row = wide.splitlines()
    assert head.endswith("WAITING FOR                MESSAGE")
    assert "pods of rollout-2 to end   Rollout of iteration 2" in row
    _, everything, _ = kubectl("-n", namespace, "get", "all")
    assert "selfrewardingrun.selfrewarding.dev/smallest" in everything


async def test_explain_has_a_text_for_every_field(api: Api) -> None:
    document = await api.call("GET", "/openapi/v3/apis/selfrewarding.dev/v1alpha1")
    kind = document["components"]["schemas"]["dev.selfrewarding.v1alpha1.SelfRewardingRun"]
    texts = dict(_texts(kind["properties"]["spec"], "spec")) | dict(
        _texts(kind["properties"]["status"], "status")
    )
    assert len(texts) > 200
    assert [path for path, text in texts.items() if len(text) < 5] == []


def _texts(schema: Raw, path: str) -> Iterator[tuple[str, str]]:
    if "[]" not in path.rpartition(".")[2]:  # the items of a list are explained by the list
        yield path, schema.get("description", "")
    for name, inner in schema.get("properties", {}).items():
        yield from _texts(inner, f"{path}.{name}")
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict) and "properties" in inner:
            yield from _texts(inner, f"{path}[]")


def test_explain_reads_as_a_manual(kubectl: Any) -> None:
    _, said, _ = kubectl("explain", "srr.spec.judge.scoring")
    assert "FIELD: scoring <string>" in said
    assert "Sampled: the score that was written." in said
    assert "ENUM:" in said


def test_kubectl_apply_names_the_misspelt_field(kubectl: Any) -> None:
    manifest = merged(SMALLEST, {"spec": {"iteratons": 2}})
    code, _, error = kubectl("apply", "-f", "-", text=yaml.safe_dump(manifest))
    assert code == 1
    assert 'unknown field "spec.iteratons"' in error


def test_kubectl_apply_says_all_that_is_wrong_at_once(kubectl: Any) -> None:
    manifest = merged(
        SMALLEST,
        {
            "spec": {
                "iterations": 30,
                "artifacts": {"credentials": {"secretName": "a", "serviceAccountName": "b"}},
            }
        },
    )
    code, _, error = kubectl("apply", "-f", "-", text=yaml.safe_dump(manifest))
    assert code == 1
    assert "give secretName or serviceAccountName, not both" in error
    assert "spec.iterations in body should be less than or equal to 20" in error
