"""Names and label values of objects: readable, at most 52 characters, and different wherever the objects are.

A name ends in a hash of run UID and key, so a run that was deleted and made again, or one whose long name was cut,
never meets the objects of another (survival rule 2). 52: a PyTorchJob's pods add `-worker-<index>` and must stay within
63.
"""

import hashlib
import re

from selfrewarding.contract.stages import SLUGS
from selfrewarding.manifests.context import RunContext
from selfrewarding.plan.stage import Holder, Stage

MAX_NAME = 51
"""Worker 1023 of the largest PyTorchJob (1,024 nodes) adds 12 characters."""
MAX_LABEL = 63


def stage_name(context: RunContext, stage: Stage, attempt: int) -> str:
    """Name of the ConfigMap and of the Job or PyTorchJob of an attempt (a DNS-1035 label)."""
    tail = f"{SLUGS[stage.kind]}-{stage.iteration}-a{attempt}-{_hash(context.uid, stage.key)}"
    return _with_run(context.name, tail)


def holder_name(context: RunContext, holder: Holder, iteration: int, attempt: int) -> str:
    """Name of the ConfigMap and the Deployment of an attempt of a serving pool (a DNS-1035 label)."""
    return _with_run(
        context.name, f"{holder.pool}-{iteration}-a{attempt}-{_hash(context.uid, holder.model.key)}"
    )


def service_name(context: RunContext, holder: Holder) -> str:
    """Name of the Service and the NetworkPolicy of a serving pool (a DNS-1035 label).

    It holds neither iteration nor attempt: stages get it as an address, and a second attempt of the pool answers for
    the same model.
    """
    return _with_run(context.name, f"{holder.pool}-{_hash(context.uid, holder.model.key)}")


def retirement_name(context: RunContext, attempt: int) -> str:
    """Name of the Job that clears a deleted run's artifacts away (a DNS-1035 label)."""
    return _with_run(context.name, f"retire-a{attempt}-{_hash(context.uid)}")


def run_label(name: str) -> str:
    """Value of the label RUN: the run's name, or its start and a hash where it is longer than a label may be."""
    return name if len(name) <= MAX_LABEL else f"{name[:52].rstrip('-.')}-{_hash(name)}"


def _with_run(run: str, tail: str) -> str:
    readable = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    if not readable[:1].isalpha():
        readable = f"r-{readable}"
    return f"{readable[: MAX_NAME - len(tail) - 1].rstrip('-')}-{tail}"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:10]
