"""How a failed training ends: the reason is told once, by the rank that has it."""

from pathlib import Path

import pytest
from tests.support.training_stage import Inputs, surroundings

from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.program import (
    BadConfiguration,
    BadData,
    PeerLost,
    Retry,
    StoreUnavailable,
    Surroundings,
)
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.data.chat import ChatTemplateError
from selfrewarding.store import Denied, Unavailable
from srr_trainer.failures import quiet_after_others, translate
from srr_trainer.signals import StopRequest


class OutOfMemoryError(RuntimeError):
    """As torch.cuda names it."""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ChatTemplateError("no end"), BadData),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), BadConfiguration),
        (Unavailable("503"), StoreUnavailable),
        (Denied("403"), StoreUnavailable),
    ],
)
def test_an_error_that_a_person_can_mend_says_so(error: Exception, failure: type[Exception]) -> None:
    assert type(translate(error)) is failure


def test_an_error_that_nobody_foresaw_stays_unknown() -> None:
    assert translate(RuntimeError("?")) is None


def test_too_little_gpu_memory_names_the_remedies() -> None:
    assert "training.microBatchSize" in str(translate(OutOfMemoryError("CUDA out of memory")))


def failing(error: Exception) -> object:
    def main(_: StageConfig, __: Surroundings) -> None:
        raise error

    return quiet_after_others(main)


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    termination = tmp_path / "termination"
    termination.write_text("", encoding="utf-8")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("SRR_TERMINATION_LOG", str(termination))
    return termination


GLOO = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]"
)


GLOO_LATE = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation"
)
NCCL_LATE = RuntimeError(
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE, Timeout(ms)=600000)"
)


@pytest.mark.parametrize("error", [GLOO, GLOO_LATE, NCCL_LATE])
def test_a_rank_that_lost_its_peers_says_only_that(
    two_ranks: Path, inputs: Inputs, tmp_path: Path, error: RuntimeError
) -> None:
    with pytest.raises(PeerLost, match="lost the other ranks"):
        failing(error)(inputs.sft_config(), surroundings(tmp_path))  # type: ignore[operator]


@pytest.mark.parametrize("error", [GLOO, Retry("stopped by SIGTERM")])
def test_it_is_silent_where_another_rank_has_told(
    two_ranks: Path, inputs: Inputs, tmp_path: Path, error: Exception
) -> None:
    for said in ("BadData", "PeerLost"):
        two_ranks.write_text(
            TerminationMessage(failure=said, message="why").model_dump_json(), encoding="utf-8"
        )
        with pytest.raises(SystemExit) as ended:
            failing(error)(inputs.sft_config(), surroundings(tmp_path))  # type: ignore[operator]
        assert ended.value.code == 1


def test_a_rank_with_a_reason_of_its_own_goes_before_one_that_lost_it(
    two_ranks: Path, inputs: Inputs, tmp_path: Path
) -> None:
    lost = TerminationMessage(failure="PeerLost", message="rank 1 lost the other ranks")
    two_ranks.write_text(lost.model_dump_json(), encoding="utf-8")
    with pytest.raises(BadData, match="row 7"):
        failing(BadData("row 7"))(inputs.sft_config(), surroundings(tmp_path))  # type: ignore[operator]


def test_a_rank_that_is_stopped_after_another_failed_does_not_write_over_its_reason(
    two_ranks: Path, inputs: Inputs, tmp_path: Path
) -> None:
    two_ranks.write_text(
        TerminationMessage(failure="BadData", message="row 7").model_dump_json(), encoding="utf-8"
    )
    with pytest.raises(SystemExit):
        failing(Retry("stopped by SIGTERM"))(inputs.sft_config(), surroundings(tmp_path))  # type: ignore[operator]


def test_the_rank_that_failed_first_tells_its_reason(two_ranks: Path, inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="row 7"):
        failing(BadData("row 7"))(inputs.sft_config(), surroundings(tmp_path))  # type: ignore[operator]


def test_one_rank_alone_always_tells(monkeypatch: pytest.MonkeyPatch, inputs: Inputs, tmp_path: Path) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RuntimeError, match="gloo"):
        failing(GLOO)(inputs.sft_config(), surroundings(tmp_path))  # type: ignore[operator]


def test_sigterm_outside_training_ends_the_program_at_once() -> None:
    import os
    import signal

    stop = StopRequest()
    stop.install()
    with pytest.raises(Retry, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
    while_training = StopRequest()
    while_training.install()
    while_training.steps_follow = True
    os.kill(os.getpid(), signal.SIGTERM)
    assert while_training.asked
