"""Where things lie below `artifacts.uri`, and the names of the files of each stage.

stages/<kind>/<key>/result.json                 written last, once, by If-None-Match; names the files below
stages/<kind>/<key>/attempts/<pod uid>/…        everything a pod writes: row chunks, models, checkpoints
stages/<kind>/<key>/shards/<index>.json         a finished shard of an Indexed Job
stages/<kind>/<key>/candidates/<n>.json         a model that a training under way has saved
stages/<kind>/<key>/runs/<run uid>              this run uses the stage: whoever deletes another run keeps it
stages/<kind>/<digest>/…                        rows that stages share: judgements, answers, verdicts by what was asked
runs/<namespace>/<name>/…                       index, report and lineage of a run
runs/<namespace>/<name>/<run uid>/stages/…      the same marks by run: the stages that it uses
"""

from selfrewarding.contract.stages import StageKind

RESULT = "result.json"
USERS = "runs"
"""Folder of a stage's marks of the runs that use it."""

INSTRUCTIONS = "instructions.jsonl"
"""Prepare: IFT rows {"key", "messages"}; the last message is the target."""
RANKED = "ranked.jsonl"
"""Prepare: rows {"key", "prompt": [messages], "responses": [{"text", "rank"}]}, for EFT."""
HELD_OUT = "held-out.jsonl"
"""Prepare: rows as RANKED, never trained on, filtered or thinned."""
EVALUATIONS = "evaluations.jsonl"
"""Prepare (own rows) or BuildEvaluations: EFT rows {"key", "messages"}: judge prompt and judgement."""
JUDGEMENTS = "judgements.jsonl"
"""BuildEvaluations, Evaluate: rows {"key", "prompt", "responses": [{"text", "rank", "judgements": […]}]}."""
PROMPTS = "prompts.jsonl"
"""GeneratePrompts: accepted prompts {"key", "prompt": [messages], "shots": [keys], …}."""
DROPPED = "dropped.jsonl"
"""GeneratePrompts: dropped prompts with their reasons."""
ROLLOUT = "rollout.jsonl"
"""Rollout: rows {"key", "prompt", "responses": [{"text", "finishReason", "seed", "judgements": […]}]}."""
PAIRS = "pairs.jsonl"
"""BuildPreferences: TRL conversational preference rows {"key", "prompt", "chosen", "rejected", "provenance", …}."""
POSITIVES = "positives.jsonl"
"""BuildPreferences with PositiveOnly: rows {"key", "messages"}."""
PAIRS_INDEX = "pairs.index"
"""BuildPreferences: where each pair stands in PAIRS (`store.row_index`)."""
ROLLOUT_INDEX = "rollout.index"
"""Rollout: where each prompt's row stands in ROLLOUT."""
PROMPTS_INDEX = "prompts.index"
"""GeneratePrompts: where each prompt stands in PROMPTS."""
EVIDENCE = "evidence.json"
"""GeneratePrompts, Rollout, BuildPreferences, Evaluate, Compare: by metric, the rows that show it best
({metric: [{"key", "value"}, at most five]})."""
EVALUATION_PROMPTS = "evaluation-prompts.jsonl"
"""Prepare: rows {"key", "set", "id", "turns": [text], "category"?, "temperature"?} of `evaluation.prompts`; the temperature is
that of a benchmark which answers each category with its own."""
ANSWERS = "answers.jsonl"
"""Evaluate, Answer: rows {"key", "set", "id", "category"?, "temperature"?, "turns": [text], "answers": [{"text",
"finishReason", "seed", "tokens"}]}, one answer for each turn; sorted by set and key."""
COMPARISONS = "comparisons.jsonl"
"""Compare, Select: rows {"key": opponent/prompt key, "opponent", "set", "id", "category"?, "prompt": [text], "answer": [text],
"other": [text], "verdicts": [shown first, shown second: {"verdict", "tries": [{"verdict", "reason", "text", …}]}],
"preference"}: texts by turn; what was asked lies in the judge's log, `stages/Compare/<judge>`, which stages share."""
METRICS = "metrics.json"
"""Evaluate, Compare, Select: all metrics with intervals and conventions."""
REPORT = "report.html"
"""Report: the page; also under `run_prefix`, where the newest one lies."""
TRAINING_LOG = "training.jsonl"
"""Training stages: one row per logged step."""
MODEL = "model"
"""Folder in Hugging Face format: Prepare (a model from a hub; otherwise only tokenizer/), training stages."""
CANDIDATES = "candidates"
"""PreferenceOptimize with `dpo.earlyStopping`: the models saved on the way, `candidates/1`, …, each as MODEL, which is the
last one."""
TOKENIZER = "tokenizer"
"""Prepare: the tokenizer with the chat template that all stages use."""


def stage_prefix(kind: StageKind, key: str) -> str:
    """Folder of a stage's results; `key` has 64 hex digits."""
    return f"stages/{kind}/{key}"


def attempt_prefix(kind: StageKind, key: str, pod_uid: str) -> str:
    """Folder that one pod writes under."""
    return f"{stage_prefix(kind, key)}/attempts/{pod_uid}"


def shard_key(kind: StageKind, key: str, index: int) -> str:
    """Marker of a finished shard of an Indexed Job."""
    return f"{stage_prefix(kind, key)}/shards/{index}.json"


def user_key(stage: str, run_uid: str) -> str:
    """Mark in a stage's folder (`stage_prefix`) that a run uses it."""
    return f"{stage}/{USERS}/{run_uid}"


def used_key(namespace: str, name: str, run_uid: str, stage: str) -> str:
    """Mark in a run's folder that it uses a stage (`stage_prefix`)."""
    return f"{run_prefix(namespace, name)}/{run_uid}/{stage}"


def candidate_folder(number: int, count: int) -> str:
    """Folder of a candidate among its training's files, `number` from 1; the last one is the training's own model."""
    return MODEL if number == count else f"{CANDIDATES}/{number}"


def candidate_key(kind: StageKind, key: str, number: int) -> str:
    """Marker of a candidate that is in the store, while its training goes on."""
    return f"{stage_prefix(kind, key)}/{CANDIDATES}/{number}.json"


def run_prefix(namespace: str, name: str) -> str:
    """Folder of a run's index, report and lineage."""
    return f"runs/{namespace}/{name}"


def card_key(namespace: str, name: str, model: str) -> str:
    """A run's card of a model, which Report writes anew as more is measured."""
    return f"{run_prefix(namespace, name)}/cards/{model}.md"
