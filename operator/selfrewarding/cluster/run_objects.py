"""Runs as the API server has them, as typed objects and back.

The spec is read strictly: what this release does not know must not be ignored. The status is ours and may come from an
older or newer release: fields that cannot be read are dropped, and the planner finds out again what stood there.
Pure. Neighbour: `kubernetes` reads and writes with it.
"""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from selfrewarding.api.base import ApiModel
from selfrewarding.api.data import ArtifactsSpec
from selfrewarding.api.execution import RetentionSpec, SamplerSpec, SchedulingSpec
from selfrewarding.api.run import (
    ObjectMeta,
    RawObject,
    SelfRewardingRun,
    SelfRewardingRunSpec,
    SelfRewardingRunStatus,
)
from selfrewarding.cluster.protocol import InvalidRun

log = logging.getLogger(__name__)

_RETIRING: Mapping[str, type[ApiModel]] = {
    "artifacts": ArtifactsSpec,
    "retention": RetentionSpec,
    "sampler": SamplerSpec,
    "scheduling": SchedulingSpec,
}
"""Blocks of the spec that the Job which clears a deleted run's artifacts away is made from."""


def read_run(raw: RawObject) -> SelfRewardingRun:
    """A run. Raises InvalidRun if this release cannot read its spec; of one that is being deleted, what can be read of
    it says what becomes of its artifacts."""
    metadata = ObjectMeta.model_validate({k: v for k, v in raw["metadata"].items() if k != "managedFields"})
    status = read_status(raw.get("status") or {})
    broken: ValidationError | None = None
    try:
        spec = SelfRewardingRunSpec.model_validate(raw.get("spec") or {})
    except ValidationError as error:
        broken, spec = error, _retiring_spec(raw.get("spec") or {})
    # Its parts are validated; together, a broken spec's would be once more.
    run = SelfRewardingRun.model_construct(
        api_version="selfrewarding.dev/v1alpha1",
        kind="SelfRewardingRun",
        metadata=metadata,
        spec=spec,
        status=status,
    )
    if broken is not None and metadata.deletion_timestamp is None:
        raise InvalidRun(run, broken)
    return run


def _retiring_spec(raw: RawObject) -> SelfRewardingRunSpec:
    """Of a spec that cannot be read as a whole, what clearing its artifacts away needs. Without their place there is
    nothing to clear."""
    kept: dict[str, Any] = {}
    for name, block in _RETIRING.items():
        with contextlib.suppress(ValidationError):
            kept[name] = block.model_validate(raw.get(name) or {})
    if "artifacts" not in kept:
        kept.pop("retention", None)
    return SelfRewardingRunSpec.model_construct(**kept)


def read_status(raw: RawObject) -> SelfRewardingRunStatus:
    """A status; fields that this release cannot read are left out."""
    try:
        return SelfRewardingRunStatus.model_validate(raw)
    except ValidationError:
        pass
    kept: dict[str, Any] = {}
    for name, value in raw.items():
        try:
            SelfRewardingRunStatus.model_validate({name: value})
        except ValidationError as error:
            log.warning(
                "status.%s is of another release and cannot be read: it is found out again (%s)", name, error
            )
        else:
            kept[name] = value
    return SelfRewardingRunStatus.model_validate(kept)


def write_status(status: SelfRewardingRunStatus) -> RawObject:
    """The status as the API server keeps it."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def status_patch(status: SelfRewardingRunStatus, resource_version: str) -> list[dict[str, Any]]:
    """A JSON Patch (RFC 6902) that puts the whole status in place, so that removed keys go; the API server refuses it
    with a conflict if the object has another resourceVersion by then."""
    return [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
        {"op": "add", "path": "/status", "value": write_status(status)},
    ]
