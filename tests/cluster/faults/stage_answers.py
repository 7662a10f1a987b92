"""What a stage program would tell in its termination message, made from its configuration alone.

Purpose: deterministic results, equal for equal keys, so that two runs can be compared. Must not: talk to a cluster.
Neighbour: `player` puts the text into the container's status.
"""

from pydantic import ValidationError

from selfrewarding.contract.config import PrepareParameters, ResolveParameters, StageConfig
from selfrewarding.contract.keys import digest, short
from selfrewarding.contract.result import StageResult, TerminationMessage, summary_message, summary_of
from selfrewarding.contract.stages import TRAINING, StageKind

COUNTS = {
    StageKind.PREPARE: {"parameters": 135_000_000, "modelBytes": 270_000_000, "instructions": 80},
    StageKind.GENERATE_PROMPTS: {"prompts": 6, "outputTokens": 100},
    StageKind.ROLLOUT: {"prompts": 6, "answers": 24, "judgements": 48, "valid": 40, "outputTokens": 2400},
    StageKind.BUILD_PREFERENCES: {"prompts": 6, "pairs": 4, "ties": 2},
}
SECONDS = 2.0


def parse_config(text: str) -> StageConfig | None:
    """A stage's configuration; None for that of a serving pool."""
    try:
        return StageConfig.model_validate_json(text)
    except ValidationError:
        return None


def answer(config: StageConfig, store: dict[str, str]) -> str:
    """The termination message of a stage that ends well.

    `store` has the summaries that were told so far by `<artifacts uri>/<key>`, and gets this one: what Resolve finds.
    """
    if isinstance(config.parameters, ResolveParameters):
        known = {short(key): store.get(f"{config.store}/{key}") for _, key in config.parameters.stages}
        found = TerminationMessage(missing=[key for key, text in known.items() if text is None])
        for text in list(filter(None, known.values()))[:6]:  # a termination message holds no more
            found.done.update(TerminationMessage.model_validate_json(text).done)
        return found.model_dump_json(by_alias=True, exclude_defaults=True)
    return store.setdefault(
        f"{config.store}/{config.key}", summary_message(config.key, summary_of(_result(config)))
    )


def _result(config: StageConfig) -> StageResult:
    training = config.kind in TRAINING
    data = {}
    if config.kind is StageKind.PREPARE:
        sets = ["instructions", "model", "evaluations"]
        seeds = config.parameters.seed_data if isinstance(config.parameters, PrepareParameters) else None
        sets += ["heldOut"] if seeds is not None and seeds.held_out.source is not None else []
        data = {name: digest(name)[:12] for name in sets}
    return StageResult(
        contract=config.contract,
        kind=config.kind,
        iteration=config.iteration,
        # Prepare and Report have a key of the run's own; without it, equal runs get equal digests.
        key="" if config.kind in (StageKind.PREPARE, StageKind.REPORT) else config.key,
        counts={"rows": 8, "tokens": 800} if training else COUNTS.get(config.kind, {"rows": 4}),
        metrics={"loss": 1.5} if training else {"validRate": 0.9},
        data=data,
        seconds=SECONDS,
        pod="player",
    )
