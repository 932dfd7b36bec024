"""Cameras that come, go and hang: what a pipeline sees of them, and what the clock says."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest

from edge_tracker.app.sources import live
from edge_tracker.app.sources.live import LiveSource, StreamClock
from edge_tracker.errors import SourceError
from tests.waiting import wait_for

LONG = 300.0  # seconds that no test waits unless something is wrong


class Script:
    """A camera that does what it is told: `give` lets one picture come, `end` ends the stream, `absent` unplugs it."""

    def __init__(self):
        self.absent = False
        self.opened = 0
        self.closed = 0
        self.fps = None
        self._changed = threading.Condition()
        self._pictures = []
        self._ended = False

    def give(self, value, shape=(4, 6, 3)):
        with self._changed:
            self._pictures.append(np.full(shape, value, np.uint8))
            self._changed.notify_all()

    def end(self):
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def drained(self):
        with self._changed:
            return self._changed.wait_for(lambda: not self._pictures, LONG)

    def __call__(self):
        if self.absent:
            raise SourceError("camera: cannot be opened with rtsp://user:hunter2@host/s")
        self.opened += 1
        self._ended = False
        return self

    def read(self):
        with self._changed:
            self._changed.wait_for(lambda: self._pictures or self._ended)
            self._changed.notify_all()
            return self._pictures.pop(0) if self._pictures else None

    def position(self):
        return None

    def close(self):
        self.closed += 1


@pytest.fixture
def script():
    camera = Script()
    yield camera
    camera.end()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(live, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(live, "CLOSE_S", 0.05)  # a script's read does not end by itself


def test_frames_come_in_order_with_number_and_times(script):
    script.give(1)
    before = time.time()
    source = LiveSource(script, "camera")
    first = source.poll(LONG)
    script.give(2)
    second = source.poll(LONG)
    source.close()
    assert (first.index, second.index) == (1, 2)
    assert (int(first.image[0, 0, 0]), int(second.image[0, 0, 0])) == (1, 2)
    assert first.time == 0 < second.time
    assert before <= first.wall <= second.wall <= time.time()
    assert source.live
    assert source.frame_count is None


def test_only_the_newest_frame_is_kept_and_the_others_are_counted(script):
    for value in range(1, 6):
        script.give(value)
    source = LiveSource(script, "camera")
    wait_for(lambda: source.dropped == 4)
    frame = source.poll(0)
    assert int(frame.image[0, 0, 0]) == 5
    assert frame.index == 1
    assert source.poll(0) is None, "each frame is given once"
    source.close()


def test_a_lost_stream_comes_back_and_time_has_gone_on(script, caplog):
    caplog.set_level(logging.INFO)
    script.give(1)
    source = LiveSource(script, "camera")
    before = source.poll(LONG)
    script.absent = True
    script.end()
    wait_for(lambda: "cannot be opened" in (source.problem or ""))
    assert "hunter2" not in source.problem
    assert "stopped giving frames after 1" in caplog.text
    assert source.poll(0.2) is None
    script.absent = False
    script.give(2, shape=(8, 10, 3))
    after = source.poll(LONG)
    assert after.time - before.time == pytest.approx(after.wall - before.wall, abs=0.05)
    assert after.time - before.time > 0.2
    assert after.image.shape == (8, 10, 3), "of another size, as it comes"
    assert (source.reconnects, source.problem) == (1, None)
    assert [record.message.partition(" after")[0] for record in caplog.records] == [
        "camera: stopped giving frames",
        "camera: back",
    ]
    assert "hunter2" not in caplog.text
    source.close()


def test_what_is_not_there_is_an_error_unless_one_waits_for_it(script, caplog):
    script.absent = True
    with pytest.raises(SourceError, match="cannot be opened"):
        LiveSource(script, "camera")
    assert not caplog.records, "nothing says that it is tried again"
    source = LiveSource(script, "camera", wait=True)
    wait_for(lambda: source.problem)
    assert not source.connected
    script.absent = False
    script.give(7)
    assert int(source.poll(LONG).image[0, 0, 0]) == 7
    assert source.connected
    assert source.reconnects == 0, "it came for the first time"
    source.close()


def test_a_stream_that_ends_at_once_is_an_error(script):
    def opener():
        camera = script()
        script.end()
        return camera

    with pytest.raises(SourceError, match="camera: gives no frame"):
        LiveSource(opener, "camera")
    assert script.closed == 1


@pytest.mark.slow
def test_a_camera_that_hangs_is_opened_again_and_its_late_frame_is_not_taken(script, monkeypatch, caplog):
    monkeypatch.setattr(live, "GRACE_S", 0.1)
    hung = Script()
    tries = iter([hung])
    hung.give(1)
    script.give(3)
    source = LiveSource(lambda: next(tries, None) or script(), "camera", stall_s=2.0)
    assert int(source.poll(LONG).image[0, 0, 0]) == 1
    assert int(source.poll(LONG).image[0, 0, 0]) == 3
    assert source.reconnects == 1
    assert "camera: no frame for 2 s; trying again" in caplog.text
    assert not hung.closed
    hung.give(2)
    wait_for(lambda: hung.closed)
    assert source.poll(0) is None
    source.close()


def test_no_more_threads_than_a_few_hang(monkeypatch):
    monkeypatch.setattr(live, "GRACE_S", 0.0)
    monkeypatch.setattr(live, "OPEN_S", 0.0)
    monkeypatch.setattr(live, "LONGEST_DELAY_S", 0.02)
    hanging, opened = threading.Event(), []

    def opener():
        opened.append(1)
        hanging.wait()
        raise SourceError("camera: gone")

    source = LiveSource(opener, "camera", wait=True, stall_s=0.01)
    wait_for(lambda: len(opened) == live.MOST_STUCK)
    time.sleep(0.3)
    assert len(opened) == live.MOST_STUCK
    hanging.set()
    wait_for(lambda: len(opened) > live.MOST_STUCK)
    source.close()


@pytest.mark.parametrize("state", ["reading", "waiting to try again"])
def test_closing_ends_the_threads(script, state, monkeypatch):
    monkeypatch.setattr(live, "FIRST_DELAY_S", 1000.0)
    monkeypatch.setattr(live, "LONGEST_DELAY_S", 1000.0)
    monkeypatch.setattr(live, "CLOSE_S", 60.0)
    others = set(threading.enumerate())
    script.give(1)
    source = LiveSource(script, "camera")
    threads = [thread for thread in threading.enumerate() if thread not in others]
    assert len(threads) == 2
    if state == "reading":
        threading.Timer(0.1, script.end).start()
    else:
        script.end()
        wait_for(lambda: not source.connected)
    source.close()
    source.close()
    assert not any(thread.is_alive() for thread in threads)
    assert source.poll(None) is None
    assert list(source) == []


def test_closing_leaves_a_read_that_hangs_to_itself(script, caplog, monkeypatch):
    monkeypatch.setattr(live, "CLOSE_S", 0.05)
    script.give(1)
    source = LiveSource(script, "camera")
    source.close()
    assert "camera: hangs in a read; abandoned" in caplog.text
    script.end()
    wait_for(lambda: script.closed)


def test_closing_wakes_who_waits_for_a_frame(script):
    script.give(1)
    source = LiveSource(script, "camera")
    frames = iter(source)
    next(frames)
    threading.Timer(0.1, source.close).start()
    threading.Timer(0.1, script.end).start()
    assert list(frames) == []


def test_an_opener_that_breaks_is_a_problem_not_the_end():
    def opener():
        raise ValueError("no such thing as\nrtsp://user:hunter2@host")

    source = LiveSource(opener, "camera", wait=True)
    wait_for(lambda: source.problem)
    assert source.problem == "camera: ValueError: no such thing as rtsp://***@host"
    source.close()


def test_the_frame_rate(script):
    script.give(1)
    source = LiveSource(script, "camera", fps=12)
    assert source.fps == 12
    source.close()

    declared = Script()
    declared.fps = 30.0
    declared.give(1)
    source = LiveSource(declared, "camera")
    assert source.fps == 30
    source.close()
    declared.end()


def test_the_frame_rate_is_measured_where_none_is_declared():
    pictures = Script()
    pictures.give(0)
    begin = time.monotonic()
    source = LiveSource(pictures, "camera")
    assert source.fps is None
    for i in range(20):
        pictures.give(i)
        assert pictures.drained()
        time.sleep(0.01)
    slowest = 20 / (time.monotonic() - begin)
    assert 0.5 * slowest < source.fps < 150
    source.close()
    pictures.end()


def test_delays_double_up_to_a_minute_and_scatter(monkeypatch):
    monkeypatch.setattr(live, "FIRST_DELAY_S", 1.0)
    steady = live.delays(lambda: 0.5)
    assert [steady.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    longest, shortest = live.delays(lambda: 1.0), live.delays(lambda: 0.0)
    assert longest.next() == pytest.approx(1.2 * live.FIRST_DELAY_S)
    assert shortest.next() == pytest.approx(0.8 * live.FIRST_DELAY_S)
    longest.reset()
    assert longest.next() == pytest.approx(1.2 * live.FIRST_DELAY_S)


# ---- the clock -------------------------------------------------------------------------------------------------------


def times_of(arrivals, positions):
    clock = StreamClock()
    return np.array([clock.time_of(a, p) for a, p in zip(arrivals, positions, strict=True)])


@pytest.fixture
def jittered():
    """A minute at 25 frames per second: when the frames were taken, and when they arrived."""
    taken = np.arange(1500) / 25
    late = np.random.default_rng(1).uniform(0, 0.03, len(taken))
    return taken, 1000 + np.maximum.accumulate(taken + late)


def test_a_sane_stream_clock_takes_the_jitter_out(jittered):
    taken, arrived = jittered
    steps = np.diff(times_of(arrived, 77 + taken))
    assert np.ptp(steps[:200]) > 0.02, "not believed yet"
    assert np.ptp(steps[300:]) < 1e-9, "believed"
    assert np.all(steps >= 0)


@pytest.mark.parametrize(
    "position",
    [
        lambda taken: np.full_like(taken, np.nan),
        lambda taken: np.zeros_like(taken),
        lambda taken: taken * 2.5,  # made up: 25 frames per second said of 10
        lambda taken: taken * 0.9,
        lambda taken: -taken,
    ],
)
def test_a_stream_clock_that_is_none_is_not_used(jittered, position):
    taken, arrived = jittered
    assert times_of(arrived, position(taken)) == pytest.approx(arrived - arrived[0], abs=1e-6)


@pytest.mark.parametrize("jump", [-50.0, -0.5, 5.0, 95_443.7, -95_443.7])
def test_a_jump_of_the_stream_clock_is_not_one_of_time(jittered, jump):
    taken, arrived = jittered
    position = 100_000 + taken + np.where(taken > 30, jump, 0)
    steps = np.diff(times_of(arrived, position))
    assert steps.min() >= 0
    assert steps.max() < 0.08


def test_a_stream_clock_that_drifts_for_a_day_is_followed(jittered):
    taken = np.arange(0, 86_400, 0.5)
    steps = np.diff(times_of(taken, taken * 1.0002))
    assert steps == pytest.approx(np.full(len(steps), 0.5), abs=0.001)


def test_frames_held_up_and_then_delivered_at_once_keep_their_times(jittered):
    taken, arrived = jittered
    held = (taken > 40) & (taken < 40.8)
    arrived = np.where(held, np.interp(40.8, taken, arrived), arrived)
    assert np.diff(times_of(arrived, taken))[300:] == pytest.approx(0.04, abs=1e-9)


def test_a_gap_is_seen_on_the_clock():
    clock = StreamClock()
    for i in range(400):
        last = clock.time_of(i / 25, i / 25)
    clock.restart()
    assert clock.time_of(15.96 + 30, 0.0) - last == pytest.approx(30)
