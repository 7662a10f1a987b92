"""The command that runs lm-evaluation-harness on a served model (github.com/EleutherAI/lm-evaluation-harness, version 0.4).

Purpose: a command line for its `local-completions` model: prompts become token ids here, with the run's own tokenizer, and
the server only completes and scores them.
Must not: import that package or start it (`cli.export` does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COMPLETIONS = "/v1/completions"


@dataclass(frozen=True, kw_only=True)
class Harness:
    """What to measure, and where the model answers.

    Attributes:
        program: `lm_eval`, or a path to it.
        url: of the server, e.g. http://localhost:8000; `/v1/completions` is added where it is missing.
        served: the name that the server gives the model.
        tokenizer: folder of the model's tokenizer.
        tasks: names of the harness's tasks, or of those in `include`.
        max_length: longest sequence of the server in tokens.
        concurrency: requests under way at once.
        include: folder with task files of one's own.
        output: folder for results.
        limit: rows of each task; absent: all.
        shots: examples in each prompt; absent: as the task says.
        seed: of the harness's own choices.
    """

    program: str = "lm_eval"
    url: str
    served: str
    tokenizer: Path
    tasks: Sequence[str]
    max_length: int = 2048
    concurrency: int = 8
    include: Path | None = None
    output: Path | None = None
    limit: int | None = None
    shots: int | None = None
    seed: int = 0


def command(harness: Harness) -> list[str]:
    """The command line. A server's key stands in OPENAI_API_KEY, never here."""
    base = harness.url.rstrip("/")
    url = base if base.endswith(COMPLETIONS) else base.removesuffix("/v1") + COMPLETIONS
    model = {
        "model": harness.served,
        "base_url": url,
        "tokenizer_backend": "huggingface",
        "tokenizer": str(harness.tokenizer),
        "tokenized_requests": "True",
        "max_length": str(harness.max_length),
        "num_concurrent": str(harness.concurrency),
        "max_retries": "5",
    }
    optional = {
        "--include_path": harness.include,
        "--output_path": harness.output,
        "--limit": harness.limit,
        "--num_fewshot": harness.shots,
    }
    return [
        harness.program,
        *("--model", "local-completions"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in model.items())),
        *("--tasks", ",".join(harness.tasks)),
        *("--seed", str(harness.seed)),
        *(part for name, value in optional.items() if value is not None for part in (name, str(value))),
    ]
