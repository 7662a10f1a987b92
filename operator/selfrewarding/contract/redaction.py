"""What is told of a run without what only its pods should know: no password in an address, no key among options.

Purpose: index, page, cards and trackers are read by more people than the run itself. Secrets belong into Secrets; this is for
those that were written elsewhere all the same.
Must not: decide to whom it is told. Neighbours: `manifests.config` makes the story, `report.index` the index; `report`,
`lineage` and `tracking` tell them.
"""

import re
from typing import TypeVar

from selfrewarding.api.execution import ServingPoolSpec
from selfrewarding.api.run import SelfRewardingRunSpec

HIDDEN = "…"
_Pool = TypeVar("_Pool", bound=ServingPoolSpec)
_USER_INFO = re.compile(r"//[^/\s\"']*@")
_SECRET_WORDS = frozenset({"token", "key", "apikey", "password", "secret", "credential", "credentials"})


def without_user_info(text: str) -> str:
    """The text without the `user:password@` of its addresses (RFC 3986 section 3.2.1). A password may hold an @ itself:
    all up to the last one before the path goes."""
    return _USER_INFO.sub("//", text)


def names_a_secret(option: str) -> bool:
    """Whether a program's option asks for a secret by its name: `hf-token` and `api_key` do, `max-num-batched-tokens` and
    `tokenizer` do not."""
    return not _SECRET_WORDS.isdisjoint(re.split(r"[-_.\s]+", option.lower()))


def as_told(spec: SelfRewardingRunSpec) -> SelfRewardingRunSpec:
    """The spec without pod templates and secret options: they may hold what only the cluster should know, and make no
    number."""
    bare = {"pod_template": None}
    serving = spec.serving
    pools = {"judge": serving.judge, "prompt_writer": serving.prompt_writer, "referee": serving.referee}
    own = {name: _pool_as_told(pool) if pool else None for name, pool in pools.items()}
    return spec.model_copy(
        update={
            "serving": _pool_as_told(serving).model_copy(update=own),
            "training": spec.training.model_copy(update=bare),
            "sampler": spec.sampler.model_copy(update=bare),
        }
    )


def _pool_as_told(pool: _Pool) -> _Pool:
    arguments = {name: HIDDEN if names_a_secret(name) else value for name, value in pool.extra_args.items()}
    return pool.model_copy(update={"pod_template": None, "extra_args": arguments})
