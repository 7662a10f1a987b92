"""Slow reads: side by side, once in a while, and never in a pass's way."""

import asyncio

import pytest
from tests.support.set_clock import SetClock

from selfrewarding.cluster.protocol import RunKey, Unavailable
from selfrewarding.cluster.readings import EVERY, Readings, Wanted

KEY = RunKey("lab", "demo")


class Source:
    """Things to read: counts reads, and answers, hangs or fails as it is told."""

    def __init__(self):
        self.reads = 0
        self.answer = "a"
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error = None

    async def __call__(self):
        self.reads += 1
        await self.go_on.wait()
        if self.error:
            raise self.error
        return self.answer


@pytest.fixture
def clock():
    return SetClock(0.0)


@pytest.fixture
async def readings(clock):
    made = Readings(clock, patience=0.05)
    yield made
    await made.aclose()


async def test_a_thing_is_read_once_in_25_seconds(readings, clock):
    source = Source()
    wanted = {"u": Wanted(read=source)}
    assert await readings.look(KEY, wanted) == {"u": "a"}
    source.answer = "b"
    clock.now = EVERY - 1
    assert await readings.look(KEY, wanted) == {"u": "a"}
    clock.now = EVERY
    assert await readings.look(KEY, wanted) == {"u": "b"}
    assert source.reads == 2


async def test_what_hangs_holds_up_nobody_and_comes_later(readings, clock):
    slow, quick = Source(), Source()
    slow.go_on.clear()
    wanted = {"slow": Wanted(read=slow), "quick": Wanted(read=quick)}
    started = asyncio.get_running_loop().time()
    assert await readings.look(KEY, wanted) == {"quick": "a"}
    assert asyncio.get_running_loop().time() - started < 0.5
    clock.now = 2 * EVERY
    await readings.look(KEY, wanted)
    assert slow.reads == 1, "no second read beside one that hangs"
    slow.go_on.set()
    assert await readings.look(KEY, wanted) == {"slow": "a", "quick": "a"}


async def test_what_a_pass_need_not_wait_for_comes_with_the_next(readings):
    source = Source()
    wanted = {"u": Wanted(read=source, waited_for=False)}
    assert await readings.look(KEY, wanted) == {}
    await asyncio.sleep(0)
    assert await readings.look(KEY, wanted) == {"u": "a"}


async def test_a_failed_read_leaves_what_was_known(readings, clock):
    source = Source()
    wanted = {"u": Wanted(read=source)}
    await readings.look(KEY, wanted)
    clock.now, source.error = EVERY, Unavailable("kubelet")
    assert await readings.look(KEY, wanted) == {"u": "a"}
    clock.now, source.error, source.answer = 2 * EVERY, None, None
    assert await readings.look(KEY, wanted) == {"u": "a"}, "nothing new to say"


async def test_what_has_ended_is_read_once_more_at_once_and_never_again(readings, clock):
    source = Source()
    await readings.look(KEY, {"u": Wanted(read=source)})
    source.answer = "the end"
    for _ in range(3):
        assert await readings.look(KEY, {"u": Wanted(read=source, last=True)}) == {"u": "the end"}
        clock.now += 2 * EVERY
    assert source.reads == 2


async def test_what_is_no_longer_wanted_is_forgotten(readings):
    source = Source()
    await readings.look(KEY, {"u": Wanted(read=source)})
    assert await readings.look(KEY, {}) == {}
    await readings.look(KEY, {"u": Wanted(read=source)})
    readings.forget(KEY)
    await readings.look(KEY, {"u": Wanted(read=source)})
    assert source.reads == 3


async def test_reads_end_with_the_adapter(clock):
    source = Source()
    source.go_on.clear()
    readings = Readings(clock, patience=0.0)
    await readings.look(KEY, {"u": Wanted(read=source)})
    await readings.aclose()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("read about")]
