"""Clients of trackers start processes: none of them outlives the report that it was started for."""

import os
import sys
import time
from pathlib import Path

import pytest
from tests.support.builders import make_spec
from tests.support.lineage_run import RUN

from selfrewarding.api.tracking import TrackingSpec
from selfrewarding.contract.config import Story
from selfrewarding.store.folder import FolderStore
from selfrewarding.tracking.points import Point
from selfrewarding.tracking.sending import send


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("then", ["wait", "exit 0"], ids=["and does not answer", "and ends"])
def test_a_process_in_a_session_of_its_own_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    left = tmp_path / "left"
    client = tmp_path / "client"
    client.write_text(
        f"#!/bin/sh\nsetsid sh -c 'echo $$ > {left}.new; mv {left}.new {left}; exec sleep 60' >/dev/null 2>&1 &\n"
        f"while ! test -e {left}; do sleep 0.05; done\n{then}\n",
        encoding="utf-8",
    )
    client.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(client))
    tracking = TrackingSpec.model_validate({"wandb": {"project": "loops", "secretName": "wandb"}})
    story = Story(spec=make_spec(), tracking=tracking)
    points = [Point("evaluate/spearman", 1, 0.5, 0.0)]
    problems = send(FolderStore(tmp_path / "store"), RUN, story, points, deadline=2, environment=os.environ)
    assert bool(problems) == (then == "wait")
    pid = int(left.read_text(encoding="utf-8"))
    for _ in range(40):
        if not is_alive(pid):
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("it goes on")
