"""Where a local run keeps what a cluster would keep: `<artifacts>/.srr-local/<namespace>/<name>/`.

    run.json        the object with its status (see `run_record`)
    objects/        one JSON file per child object
    pods/<uid>/     pod.json, volumes, termination message of a pod, until it is deleted
    logs/           standard output of all containers; kept
    events.jsonl    what the run did, a line each
    usage.json      peak memory by stage
    lock            held by the `srr local` that runs

Neighbours: everything in `local/`. Knows no object's content.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfrewarding.local.errors import LocalError
from selfrewarding.store.atomic import is_locked, make_folders, pending, sweep

FOLDER = ".srr-local"
_PRIVATE = 0o600


class StateFolder:
    """The folder of one run. Making this object touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_file = root / "run.json"
        self.objects = root / "objects"
        self.pods = root / "pods"
        self.logs = root / "logs"
        self.events = root / "events.jsonl"
        self.usage = root / "usage.json"
        self.lock_file = root / "lock"

    @classmethod
    def of(cls, artifacts: Path, namespace: str, name: str) -> "StateFolder":
        """The folder of a run below an artifacts folder."""
        return cls(artifacts.resolve() / FOLDER / namespace / name)

    @property
    def artifacts(self) -> Path:
        """The artifacts folder that this lies in."""
        return self.root.parents[2]

    def make(self) -> None:
        """Create the folders, and remove what a killed writer left. Raises LocalError."""
        try:
            for folder in (self.objects, self.pods, self.logs):
                make_folders(folder)
            for folder in (self.root, self.objects):
                sweep(folder)
        except OSError as error:
            raise LocalError(
                f"{self.artifacts}: {error.strerror}: the folder for artifacts cannot be written; give another one "
                "with --artifacts DIR, or make it writable"
            ) from error

    def is_locked(self) -> bool:
        """Whether a living `srr local` runs here."""
        return is_locked(self.lock_file)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises LocalError if another one has it."""
        self.make()
        with self.lock_file.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise LocalError(
                    f"{self.root}: another `srr local` (process {owner}) runs this run here: wait for it or stop it "
                    "with Ctrl-C, or give this one another metadata.name or --artifacts DIR"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield


def run_folders(artifacts: Path) -> list[StateFolder]:
    """The folders of all runs below an artifacts folder, by namespace and name."""
    found = sorted((artifacts.resolve() / FOLDER).glob("*/*/run.json"))
    return [StateFolder(path.parent) for path in found]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole and durably. Raises OSError."""
    content = json.dumps(value, ensure_ascii=False, indent=1).encode()
    with pending(path) as unfinished:
        unfinished.file.write(content)
        unfinished.replace(_PRIVATE)


def read_json(path: Path) -> Any:
    """The value of a JSON file, None if there is none. Raises LocalError for a file that is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LocalError(
            f"{path} cannot be read ({error}): it is a file of `srr local`; move {path.parent} away to start the run "
            "again (finished stages are kept with the artifacts and are found again)"
        ) from error
