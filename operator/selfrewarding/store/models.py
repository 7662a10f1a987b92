"""Where the files of a model lie that a run has made.

Purpose: the one place that knows that a model may have been chosen (Select) among those that another stage (a training)
saved: no weights are copied, the choice names the training and the folder among its files.
Must not: fetch anything; know models that a run has not made.
Neighbours: `results` reads and fetches what is found here; servers, trainings and `srr models` look for models through
this.

A choice names its training by key and not by digest, as keys do: a training that was lost and made again has the same
candidates.
"""

from dataclasses import dataclass

from selfrewarding.contract.artifacts import CANDIDATES, MODEL
from selfrewarding.contract.config import ModelRef, StageRef
from selfrewarding.contract.keys import short
from selfrewarding.contract.program import ParentMissing
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import MAKES_MODEL, StageKind
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import find_result, require_result

CHOSEN = "model"
"""In the report of a Select: {"kind", "key", "folder"} of the model that it chose."""


@dataclass(frozen=True, slots=True)
class MadeModel:
    """A model's files.

    Attributes:
        result: of the stage that wrote them.
        folder: in Hugging Face format, among the result's files.
    """

    result: StageResult
    folder: str

    @property
    def files(self) -> tuple[str, ...]:
        """Logical names of its files."""
        return tuple(sorted(name for name in self.result.files if name.startswith(f"{self.folder}/")))


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a Select chose."""

    kind: StageKind
    key: str
    """64 hex digits, of the training."""
    folder: str


def choice(trained: StageRef, folder: str) -> dict[str, str]:
    """What a Select writes into its report under CHOSEN."""
    return {"kind": trained.kind.value, "key": trained.key, "folder": folder}


def chosen(result: StageResult) -> Chosen | None:
    """What a Select chose; None for stages that made their model themselves, and where a Select does not say it."""
    if result.kind is not StageKind.SELECT:
        return None
    match result.report.get(CHOSEN):
        case {"kind": str(kind), "key": str(key), "folder": str(folder)} if kind in set(StageKind):
            return Chosen(StageKind(kind), key, folder)
        case _:
            return None


def makes_model(result: StageResult) -> bool:
    """Whether a stage's result is a model of the run: not where others still choose among what a training saved."""
    if result.kind not in MAKES_MODEL:
        return False
    return not any(name.startswith(f"{CANDIDATES}/") for name in result.files)


def model_files(store: ArtifactStore, result: StageResult, folder: str | None = None) -> MadeModel:
    """The files of the model that a stage made or chose; `folder`: one of its training's candidates instead.

    Raises ParentMissing if the training that a choice names is gone, or has not these files.
    """
    found = chosen(result)
    if result.kind is StageKind.SELECT and found is None:
        raise ParentMissing(
            f"the result of {result.kind} {short(result.key)} does not say which model it chose: delete it, and it is made "
            "again",
            result.key,
        )
    if found is not None:
        trained = find_result(store, found.kind, found.key)
        if trained is None:
            raise ParentMissing(
                f"{store.uri}: the model of {result.kind} {result.iteration} was made by {found.kind} {short(found.key)}, "
                "whose result is missing: it must be computed again",
                found.key,
            )
        result, folder = trained, found.folder
    made = MadeModel(result, folder or MODEL)
    if f"{made.folder}/config.json" not in result.files:
        raise ParentMissing(
            f"the result of {result.kind} {result.iteration} has no {made.folder}/config.json: it is computed again",
            result.key,
        )
    return made


def require_model(store: ArtifactStore, stage: StageRef, ref: ModelRef) -> MadeModel:
    """The files of a model that a stage of the run made. Raises ParentMissing as `require_result` and `model_files`."""
    return model_files(store, require_result(store, stage), ref.folder)
