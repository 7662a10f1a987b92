"""What an answer of the API server that is no success means for us, in words that say what to do.

Pure. Neighbours: `calls` asks here whenever a status is 400 or more.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from selfrewarding.cluster.kinds import Resource
from selfrewarding.cluster.protocol import (
    ClusterError,
    Conflict,
    Forbidden,
    KindMissing,
    NotFound,
    Refused,
    Unavailable,
)

_NO_RIGHTS = re.compile(r" cannot \S+ resource ")
"""The API server's words for missing rights: `User "x" cannot create resource "jobs" in API group "batch" …`."""
_USER = re.compile(r'User "([^"]+)" cannot')
_MAX_TEXT = 400
_LONGEST_WAIT = 300.0


def error_of(
    verb: str,
    resource: Resource,
    namespace: str,
    name: str,
    *,
    code: int,
    body: bytes,
    headers: Mapping[str, str],
    subresource: str = "",
    now: datetime | None = None,
) -> ClusterError:
    """The error that an answer stands for. `verb` is Kubernetes' (get, list, create, patch, delete)."""
    status = _status(body)
    said = _text(status, body)
    what = f'{resource.kind} "{name}"' if name else f"{resource.plural}"
    place = f'{what} in namespace "{namespace}"'
    match code:
        case 404:
            return _not_found(resource, status, place)
        case 409:
            return Conflict(f"{place}: {said}")
        case 403:
            if _NO_RIGHTS.search(said):
                return _lacks_right(verb, resource, namespace, said, subresource)
            return _policy(namespace, status, said, place)
        case 400 | 413 | 422:
            reason = "NotAdmitted" if "admission webhook" in said else "NotValid"
            return Refused(
                f"The API server does not take {place}: {said}. Mend what it names (a field of the run's spec, for "
                "one its podTemplate), and the run goes on.",
                reason=reason,
            )
        case 401:
            return Unavailable(
                f"The API server does not accept the operator's credentials: {said}. Renew its token or kubeconfig."
            )
        case 500 if "failed calling webhook" in said:
            return Refused(
                f"{place} cannot be {_done(verb)}: {said}. Mend or remove that webhook; it is tried again until then.",
                reason="WebhookFails",
            )
        case _:
            return Unavailable(
                f"The API server answered {code} to {verb} {place}: {said}",
                retry_after=_retry_after(headers, now or datetime.now(UTC)),
            )


def _not_found(resource: Resource, status: Mapping[str, Any], place: str) -> ClusterError:
    details = status.get("details") or {}
    # A path that nobody serves is answered in plain text; an object that is not there, with its kind and name.
    if not details.get("kind") and not details.get("name"):
        return KindMissing(f"the cluster does not know the kind {resource.kind} ({resource.api_version})")
    if details.get("kind") == "namespaces":
        return NotFound(f'the namespace "{details.get("name")}" does not exist')
    return NotFound(f"{place} does not exist")


def _lacks_right(verb: str, resource: Resource, namespace: str, said: str, subresource: str) -> Forbidden:
    plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
    user = _USER.search(said)
    return Forbidden(
        f'The operator{f" ({user[1]})" if user else ""} may not {verb} {plural} in namespace "{namespace}": grant '
        f'it the verb "{verb}" on "{plural}" of API group "{resource.group}" there (the chart\'s ClusterRole '
        "does), and the run goes on."
    )


def _policy(namespace: str, status: Mapping[str, Any], said: str, place: str) -> Refused:
    """A 403 that is not about rights: the namespace, its quota, or an admission plugin."""
    causes = {one.get("reason") for one in (status.get("details") or {}).get("causes") or ()}
    if "NamespaceTerminating" in causes or "is being terminated" in said:
        return Refused(f'Namespace "{namespace}" is being deleted.', reason="NamespaceTerminating")
    if "exceeded quota" in said or "failed quota" in said:
        return Refused(
            f"A ResourceQuota refuses {place}: {said}. Raise the quota, or wait until others free their share; it is "
            "tried again until then.",
            reason="QuotaExceeded",
        )
    return Refused(
        f"An admission policy refuses {place}: {said}. Change the policy or the run's spec; it is tried again until "
        "then.",
        reason="NotAdmitted",
    )


def _status(body: bytes) -> Mapping[str, Any]:
    """The `Status` object of an answer, or nothing for anything else (a proxy's page, a missing path)."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def _text(status: Mapping[str, Any], body: bytes) -> str:
    text = str(status.get("message") or body.decode(errors="replace")).strip().rstrip(".")
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _retry_after(headers: Mapping[str, str], now: datetime) -> float:
    """Seconds of the header Retry-After (RFC 9110, 10.2.3: seconds or a date)."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return 0.0
    try:
        seconds = float(text) if text.isdigit() else (parsedate_to_datetime(text) - now).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _done(verb: str) -> str:
    return {"create": "created", "patch": "changed", "delete": "deleted"}.get(verb, "read")
