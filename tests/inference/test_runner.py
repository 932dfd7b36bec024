"""A model and its fallback, on a server that comes and goes as it is told to."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from edge_tracker.errors import ConfigError, ModelError, ServerError
from edge_tracker.inference.availability import Availability
from edge_tracker.inference.model import InProcess
from edge_tracker.inference.runner import Runner
from tests.waiting import wait_for

ENOUGH_S = 60.0


class Link:
    """A connection that only remembers whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Server:
    """Gives connections while it is up."""

    name = "there/colour"

    def __init__(self, up: bool) -> None:
        self.up, self.links, self.forgotten = up, [], 0

    def connect(self, timeout: float, trial: float) -> Link:
        if not self.up:
            raise ServerError(f"{self.name}: switched off")
        self.links.append(Link())
        return self.links[-1]

    def forget(self) -> None:
        self.forgotten += 1


class Doubling(InProcess):
    """A model that doubles what it is given; on a server if it has one."""

    name = "doubling"

    def __init__(self, server: Server | None = None, deadline: float = ENOUGH_S) -> None:
        self.closed = False
        if server is not None:
            self.availability = Availability(server, deadline)
            self.availability.start(required=False)

    def run(self, feeds):
        return [2 * feeds["x"]]

    def close(self) -> None:
        self.closed = True
        if self.availability is not None:
            self.availability.close()


class StandIn:
    """A fallback that remembers what it was given."""

    def __init__(self) -> None:
        self.model, self.seen, self.closed = Doubling(), [], False

    def close(self) -> None:
        self.closed = True


def see(runner: Runner, rows: list[int], missed: list[int] | None = None, seconds: float = 0.0) -> list[int] | None:
    """Run it; returns what the model was asked for, None if it was not asked."""
    asked = None

    def ask() -> list[int]:
        nonlocal asked
        asked = rows
        time.sleep(seconds)
        return missed or []

    runner.run(rows, ask, lambda fallback, rest: fallback.seen.append(list(rest)))
    return asked


def started(model: Doubling, fallback: StandIn | None = None) -> Runner:
    runner = Runner(model, fallback, owned=True)
    runner.start(lambda: None, does="doubles", otherwise="nothing is doubled")
    return runner


def test_a_model_in_this_process_is_always_there():
    runner = started(Doubling())
    assert runner.ready
    assert runner.status is None
    assert see(runner, [0, 1]) == [0, 1]
    assert not runner.refuse("no reason")
    outputs = list(runner.stream({"x": np.array([x])} for x in range(3)))
    assert [int(output[0][0]) for output in outputs] == [0, 2, 4]
    runner.close()
    assert runner.model.closed


def test_it_has_no_use_for_a_fallback_and_both_are_closed_then():
    model, fallback = Doubling(), StandIn()
    with pytest.raises(ConfigError, match="doubling: not on a server"):
        started(model, fallback)
    assert model.closed
    assert fallback.closed


def test_a_model_that_is_the_callers_stays_open():
    model = Doubling()
    runner = Runner(model, None, owned=False)
    runner.start(lambda: None, does="doubles", otherwise="nothing is doubled")
    runner.close()
    assert not model.closed


def test_the_fallback_sees_what_the_model_misses():
    fallback = StandIn()
    runner = started(Doubling(Server(up=True)), fallback)
    assert see(runner, [4, 5, 6]) == [4, 5, 6]
    assert fallback.seen == []
    assert see(runner, [4, 5, 6], missed=[5]) == [4, 5, 6]
    assert fallback.seen == [[5]]
    assert (runner.status.fallback, runner.status.lost) == (1, 0)
    runner.close()
    assert fallback.closed


def test_what_is_missed_without_a_fallback_or_too_late_is_lost():
    alone = started(Doubling(Server(up=True)))
    see(alone, [4, 5, 6], missed=[5, 6])
    assert (alone.status.fallback, alone.status.lost) == (0, 2)
    alone.close()
    fallback = StandIn()
    late = started(Doubling(Server(up=True), deadline=0.01), fallback)
    see(late, [4, 5, 6], missed=[4], seconds=0.05)
    assert fallback.seen == []
    assert (late.status.fallback, late.status.lost) == (0, 1)
    late.close()


def test_a_server_that_is_away_at_the_start_is_asked_once_it_is_up(caplog):
    server, fallback, prepared = Server(up=False), StandIn(), []
    runner = Runner(Doubling(server), fallback, owned=True)
    runner.start(lambda: prepared.append(runner.ready), does="doubles", otherwise="nothing is doubled")
    assert not runner.ready
    assert see(runner, [0, 1]) is None
    assert fallback.seen == [[0, 1]]
    assert "there/colour: away (switched off); doubling doubles" in caplog.text
    server.up = True
    wait_for(lambda: runner.ready)
    assert prepared == [False]
    assert see(runner, [0, 1]) == [0, 1]
    assert (runner.status.outages, runner.status.fallback, runner.status.problem) == (1, 2, None)
    runner.close()
    assert all(link.closed for link in server.links)


def test_one_that_is_refused_is_asked_again_over_another_connection(caplog):
    server = Server(up=True)
    runner = started(Doubling(server))
    (first,) = server.links
    server.up = False
    assert runner.refuse("gave nonsense")
    assert not runner.ready
    assert see(runner, [0, 1]) is None
    assert runner.status.lost == 2
    server.up = True
    wait_for(lambda: runner.ready)
    assert first.closed
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told[0] == "there/colour: away (gave nonsense); nothing is doubled"
    assert "back after" in told[1]
    assert "2 lost so far" in told[1]
    runner.close()


def test_a_model_that_cannot_be_prepared_is_forgotten_and_tried_again(caplog):
    server, attempts = Server(up=False), []

    def prepare() -> None:
        attempts.append(None)
        if len(attempts) < 3:
            raise ModelError("there/colour: another network")

    runner = Runner(Doubling(server), StandIn(), owned=True)
    runner.start(prepare, does="doubles", otherwise="nothing is doubled")
    server.up = True
    wait_for(lambda: runner.ready)
    assert server.forgotten == 2
    refused = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert refused == ["there/colour: answers, but is not used: another network"], "said once"
    runner.close()
