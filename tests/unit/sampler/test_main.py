"""`python -m srr_sampler`: which program runs, how it ends, what it imports, and SIGTERM."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.support.stages import key_of, stage_config

from selfrewarding.contract.config import Parameters, ResolveParameters, SftParameters
from selfrewarding.contract.program import ExitCode
from selfrewarding.contract.stages import SERVED, TRAINING, StageKind
from srr_sampler import __main__ as program

HEAVY = {"torch", "transformers", "numpy", "scipy", "openai", "httpx", "tokenizers"}


def environment(tmp_path: Path, kind: StageKind, parameters: Parameters) -> dict[str, str]:
    config = stage_config(kind, parameters, (tmp_path / "store").as_uri())
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json(by_alias=True, exclude_none=True))
    return {
        "SRR_STAGE_CONFIG": str(path),
        "SRR_SCRATCH": str(tmp_path / "scratch"),
        "SRR_POD_UID": "pod",
        "SRR_TERMINATION_LOG": str(tmp_path / "termination"),
    }


def resolve_environment(tmp_path: Path) -> dict[str, str]:
    stages = [(StageKind.ROLLOUT, key_of("gone"))]
    return environment(tmp_path, StageKind.RESOLVE, ResolveParameters(stages=stages))


def test_every_stage_of_the_sampler_has_a_module_with_a_main() -> None:
    ours = set(StageKind) - TRAINING - {StageKind.GATE}
    assert set(program._MODULES) == ours
    assert ours > SERVED
    folder = Path(program.__file__).parent
    for name in program._MODULES.values():
        assert "\ndef main(" in (folder / f"{name}.py").read_text()


def test_resolve_runs_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom srr_sampler.__main__ import main\ncode = main([])\n"
        f"print('HEAVY', sorted({HEAVY!r} & sys.modules.keys()))\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | resolve_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    assert "HEAVY []" in done.stdout
    assert json.loads((tmp_path / "termination").read_text()) == {"missing": [key_of("gone")[:16]]}


def test_build_preferences_and_fetch_model_import_nothing_heavy() -> None:
    code = (
        "import sys\nimport srr_sampler.build_preferences, srr_sampler.fetch_model\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_stage_of_the_trainer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfrewarding.api.algorithm import SftSpec

    parameters = SftParameters(kind="TrainBaseline", sft=SftSpec())
    for name, value in environment(tmp_path, StageKind.TRAIN_BASELINE, parameters).items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert program.main([]) == ExitCode.BAD_CONFIGURATION
    finally:
        signal.signal(signal.SIGTERM, before)
    told = json.loads((tmp_path / "termination").read_text())
    assert told["failure"] == "BadConfiguration"
    assert "the pod has the wrong image" in told["message"]


def test_unknown_arguments_are_bad_configuration() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "srr_sampler", "fetch-modle"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.BAD_CONFIGURATION
    assert done.stderr == "unknown arguments 'fetch-modle': expected none, fetch-model or retire\n"


def test_sigterm_ends_a_stage_at_once_although_a_thread_still_waits(tmp_path: Path) -> None:
    """A thread of the store that hangs in the network must not hold the pod until it is killed."""
    code = textwrap.dedent(
        """
        import sys, threading, time
        import srr_sampler.resolve
        from srr_sampler.__main__ import main

        def hang(config, here):
            threading.Thread(target=time.sleep, args=(60,)).start()
            print("READY", flush=True)
            time.sleep(60)

        srr_sampler.resolve.main = hang
        sys.exit(main([]))
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | resolve_environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        process.terminate()
        assert process.wait(timeout=10) == ExitCode.RETRY
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    told = json.loads((tmp_path / "termination").read_text())
    assert told == {"failure": "Retry", "message": "stopped by SIGTERM; the stage is tried again"}
