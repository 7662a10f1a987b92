"""What people get wrong, what the run must say about it, and how they mend it: one row each.

Every row mends the cause and nothing else: the run must go on by itself. Where the cause is the spec, it is edited;
where it lies outside (a Secret, a bucket, a quota, a node), the run is not touched. Must not: wait or judge.
Neighbours: `place` has what rows do, `playing` what is done with a row.
"""

from collections.abc import Mapping
from typing import Any

from tests.cluster.bad_input import fronts, limited_store
from tests.cluster.bad_input.place import MODEL, S3_PORT, Place, seed_rows
from tests.cluster.bad_input.playing import Case, is_at, is_prepared
from tests.cluster.end_to_end.run_spec import DATA, MODELS, NODE_GPUS, SECRET
from tests.cluster.end_to_end.watching import condition

Changes = Mapping[str, Any]
STORE = "StoreUnavailable"
TRIED_AGAIN = "It is tried again by itself"


def _no_secret(place: Place) -> Changes:
    return {}


def _keys(**keys: str) -> Any:
    """A Secret with other keys than the store's."""

    def spoil(place: Place) -> Changes:
        place.secret(**keys)
        return {}

    return spoil


def _with_secret(changes: Any) -> Any:
    """A good Secret, and changes to the spec: a mapping, or made of the place."""

    def spoil(place: Place) -> Changes:
        place.secret()
        found: Changes = changes(place) if callable(changes) else changes
        return found

    return spoil


def _edit(changes: Any) -> Any:
    """Mend the spec."""
    return lambda place: place.edit(changes(place) if callable(changes) else changes)


def _trainer(gpus: int) -> Changes:
    """One training pod that asks for so many GPUs."""
    devices = {"nvidia.com/gpu": str(gpus)}
    container = {"name": "pytorch", "resources": {"requests": devices, "limits": devices}}
    return {"training": {"nodes": 1, "podTemplate": {"spec": {"containers": [container]}}}}


def _too_many_gpus(place: Place) -> Changes:
    place.offer_gpus(NODE_GPUS)
    return _trainer(2 * NODE_GPUS)


def _gpu_quota(place: Place) -> Changes:
    place.quota({"requests.nvidia.com/gpu": "6"})
    return _trainer(8)


# ---------------------------------------------------------------------- the store


def _service_to_nobody(place: Place) -> Changes:
    return {"artifacts": {"endpoint": place.service()}}


def _no_service(place: Place) -> Changes:
    return {"artifacts": {"endpoint": f"http://s3.{place.name}.svc.cluster.local:7070"}}


_silent: dict[str, fronts.Silent] = {}
"""By the place's name."""


def _silent_server(place: Place) -> Changes:
    cluster = place.installed.cluster
    front = _silent[place.name] = fronts.Silent(cluster.host_address, (cluster.address, S3_PORT))
    return {"artifacts": {"endpoint": front.url}}


def _another_region(place: Place) -> Changes:
    """The store is in us-east-1, and minds it."""
    cluster = place.installed.cluster
    front = fronts.Regional(cluster.host_address, "us-east-1", (cluster.address, S3_PORT))
    return {"artifacts": {"endpoint": front.url, "region": "eu-west-1"}}


def _own_bucket_without_making_it(place: Place) -> Changes:
    return {"artifacts": {"uri": f"s3://{place.own_bucket()}/run"}}


def _read_only_bucket(place: Place) -> Changes:
    place.make_bucket()
    limited_store.allow(place, writing=False)
    place.secret(**limited_store.USER)
    for name in ("instructions.jsonl", "ranked.jsonl"):
        place.s3.copy_object(
            Bucket=place.own_bucket(), Key=name, CopySource={"Bucket": DATA, "Key": f"quickstart/{name}"}
        )
    place.copy_model(place.own_bucket(), MODEL)
    bucket = f"s3://{place.own_bucket()}"
    return {
        "artifacts": {"uri": f"{bucket}/run", "endpoint": limited_store.endpoint(place.installed.cluster)},
        "model": {"uri": f"{bucket}/{MODEL}"},
        "seedData": {name: {"uri": f"{bucket}/{name}.jsonl"} for name in ("instructions", "ranked")},
    }


# ---------------------------------------------------------------------- the data


def _no_seed_file(place: Place) -> Changes:
    return {"seedData": {"instructions": {"uri": f"s3://{DATA}/{place.corner}/instructions.jsonl"}}}


def _upload_instructions(place: Place) -> None:
    place.upload("instructions.jsonl", "\n".join(seed_rows("instructions.jsonl")))


def _bad_row(place: Place) -> Changes:
    rows = seed_rows("instructions.jsonl")
    rows[2] = '{"id": "i003", "prompt": "Name three ways to save electricity.", "response": 3}'
    return {"seedData": {"instructions": {"uri": place.upload("instructions.jsonl", "\n".join(rows))}}}


def _no_model(place: Place) -> Changes:
    return {"model": {"uri": f"s3://{DATA}/{place.corner}/model"}}


CASES = (
    Case(
        name="secret-missing",
        spoil=_no_secret,
        reason="PodCannotStart",
        says=(f'secret "{SECRET}" not found', "Create the Secret"),
        waits_for=f'^Secret "{SECRET}" in namespace "secret-missing-',
        mend=lambda place: place.secret(),
    ),
    Case(
        name="secret-lacks-a-key",
        spoil=_keys(AWS_SECRET_ACCESS_KEY=""),
        reason="PodCannotStart",
        says=("AWS_SECRET_ACCESS_KEY", "Add the key to the Secret"),
        waits_for=f'^key AWS_SECRET_ACCESS_KEY in Secret "{SECRET}" in namespace',
        mend=lambda place: place.secret(),
    ),
    Case(
        name="access-key-unknown",
        spoil=_keys(AWS_ACCESS_KEY_ID="nobody"),
        reason=STORE,
        by_program=True,
        says=(
            "InvalidAccessKeyId|XAdminUserNotFound",
            "the Secret named in spec.artifacts.credentials",
            TRIED_AGAIN,
        ),
        mend=lambda place: place.secret(),
    ),
    Case(
        name="secret-key-wrong",
        spoil=_keys(AWS_SECRET_ACCESS_KEY="wrong"),
        reason=STORE,
        by_program=True,
        says=("SignatureDoesNotMatch", "the Secret named in spec.artifacts.credentials", TRIED_AGAIN),
        mend=lambda place: place.secret(),
    ),
    Case(
        name="bucket-missing",
        spoil=_with_secret(_own_bucket_without_making_it),
        reason=STORE,
        by_program=True,
        says=('bucket "bad-input-bucket-missing-', "NoSuchBucket", "create it", TRIED_AGAIN),
        mend=lambda place: place.make_bucket(),
    ),
    Case(
        name="bucket-read-only",
        spoil=_read_only_bucket,
        reason=STORE,
        by_program=True,
        says=("AccessDenied", "s3:PutObject", TRIED_AGAIN),
        mend=lambda place: limited_store.allow(place, writing=True),
    ),
    Case(
        name="endpoint-unknown",
        spoil=_with_secret(_no_service),
        reason=STORE,
        by_program=True,
        says=("no answer", "DNS", TRIED_AGAIN),
        mend=lambda place: place.good_service(),
    ),
    Case(
        name="endpoint-refuses",
        spoil=_with_secret(_service_to_nobody),
        reason=STORE,
        by_program=True,
        says=("no answer", "NetworkPolicy", TRIED_AGAIN),
        mend=lambda place: place.good_service(),
    ),
    Case(
        name="endpoint-silent",
        spoil=_with_secret(_silent_server),
        reason=STORE,
        by_program=True,
        says=(r"no answer \(ReadTimeoutError\)", "NetworkPolicy", TRIED_AGAIN),
        mend=lambda place: _silent[place.name].speak(),
    ),
    Case(
        name="region-wrong",
        spoil=_with_secret(_another_region),
        reason=STORE,
        by_program=True,
        says=("AuthorizationHeaderMalformed", "region eu-west-1", "spec.artifacts.region", TRIED_AGAIN),
        mend=_edit({"artifacts": {"region": "us-east-1"}}),
    ),
    Case(
        name="account-missing",
        spoil=_with_secret(
            {"artifacts": {"credentials": {"secretName": None, "serviceAccountName": "trainer"}}}
        ),
        reason="PodsNotCreated",
        says=('serviceaccount "trainer" not found', "Create it"),
        waits_for='^ServiceAccount "trainer"',
        mend=_edit({"artifacts": {"credentials": {"secretName": SECRET, "serviceAccountName": None}}}),
    ),
    Case(
        name="image-missing",
        spoil=_with_secret({"sampler": {"image": "registry.invalid/none-such:1"}}),
        reason="PodCannotStart",
        says=("registry.invalid/none-such:1", "Check the image's name and tag"),
        waits_for="image registry.invalid/none-such:1",
        mend=_edit({"sampler": {"image": None}}),
    ),
    Case(
        name="out-of-memory",
        spoil=_with_secret({"sampler": {"resources": {"memory": "24Mi"}}}),
        reason="OutOfMemory",
        by_program=True,
        condition="Failed",
        says=("OOMKilled", "raise the memory under .*sampler.resources"),
        mend=_edit({"sampler": {"resources": {"memory": "512Mi"}}}),
    ),
    Case(
        name="memory-for-training",
        spoil=_with_secret({"training": {"resources": {"memory": "256k"}}}),
        reason="MemoryTooSmall",
        says=(r"needs at least \d+ kB of memory", "training.resources.memory is 256 kB: raise it"),
        waits_for="more memory for pods of TrainBaseline",
        knowable=is_prepared,
        mend=_edit({"training": {"resources": {"memory": "1Gi"}}}),
        went_on=lambda run: condition(run, "Stalled").get("status") == "False",
    ),
    Case(
        name="quota-of-pods",
        spoil=_with_secret(lambda place: place.quota({"pods": "0"}) or {}),
        reason="PodsNotCreated",
        says=("exceeded quota: team", "Raise the quota"),
        waits_for='^1 pod: 1 requested, 0 free \\(ResourceQuota "team"\\)',
        mend=lambda place: place.quota({"pods": "10"}),
    ),
    Case(
        name="quota-of-jobs",
        spoil=_with_secret(lambda place: place.quota({"count/jobs.batch": "0"}) or {}),
        reason="QuotaExceeded",
        says=("exceeded quota: team", "Raise the quota"),
        waits_for='^1 job: 1 requested, 0 free \\(ResourceQuota "team"\\)',
        mend=lambda place: place.quota({"count/jobs.batch": "10"}),
    ),
    Case(
        name="quota-of-gpus",
        spoil=_with_secret(_gpu_quota),
        reason="PodsNotCreated",
        says=("exceeded quota: team", "Raise the quota"),
        waits_for='^2 GPUs: 8 requested, 6 free \\(ResourceQuota "team"\\)',
        knowable=is_at("TrainBaseline"),
        mend=lambda place: place.quota({"requests.nvidia.com/gpu": "8"}),
        went_on=lambda run: condition(run, "Ready").get("reason") != "PodsNotCreated",
    ),
    Case(
        name="gpus-never-come",
        spoil=_with_secret(_too_many_gpus),
        # A queue may be long: waiting is no fault of the run's before the first time-out.
        ready="True",
        reason="WaitingForNodes",
        condition="Ready",
        says=("Insufficient nvidia.com/gpu", "lower what serving or training ask for, or add nodes"),
        waits_for='^16 GPUs: 16 requested by pod "run-baseline-.*, no node has them free',
        knowable=is_at("TrainBaseline"),
        mend=lambda place: place.offer_gpus(2 * NODE_GPUS),
        went_on=lambda run: condition(run, "Ready").get("reason") != "WaitingForNodes",
        asks_for_gpus=True,
        tidy=lambda place: place.offer_gpus(NODE_GPUS),
    ),
    Case(
        name="model-missing",
        spoil=_with_secret(_no_model),
        reason="BadData",
        by_program=True,
        says=(
            "spec.model.uri: there are no files at .*/model",
            "Put the model there, or correct the address",
        ),
        waits_for="the data to be mended",
        mend=lambda place: place.copy_model(DATA, f"{place.corner}/model"),
    ),
    Case(
        name="model-of-no-use",
        spoil=_with_secret({"model": {"uri": f"s3://{DATA}/quickstart"}}),
        reason="BadConfiguration",
        by_program=True,
        condition="Failed",
        says=("spec.model.uri: .*quickstart has no config.json", "Check the address", "Change the spec"),
        mend=_edit({"model": {"uri": f"s3://{MODELS}/{MODEL}"}}),
    ),
    Case(
        name="seed-file-missing",
        spoil=_with_secret(_no_seed_file),
        reason="BadData",
        by_program=True,
        says=("instructions.jsonl: found no such file", "seedData.instructions.uri, or put the file there"),
        waits_for="the data to be mended",
        mend=_upload_instructions,
    ),
    Case(
        name="seed-row-malformed",
        spoil=_with_secret(_bad_row),
        reason="BadData",
        by_program=True,
        says=("instructions.jsonl:3: field `response`: found 3", "mend it where it is"),
        waits_for="the data to be mended",
        mend=_upload_instructions,
    ),
    Case(
        name="pod-template-broken",
        spoil=_with_secret({"sampler": {"podTemplate": {"spec": {"containers": "none"}}}}),
        reason="InvalidSpec",
        condition="Failed",
        says=("sampler.podTemplate.spec.containers is the text 'none'", "Edit the spec"),
        mend=_edit({"sampler": {"podTemplate": None}}),
    ),
)
"""The table."""
