"""A Mosquitto broker that tests start, kill and inspect, and a subscriber that keeps every message."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.waiting import free_port, wait_for


class Broker:
    """Keeps its sessions over a restart."""

    def __init__(self, folder: Path, *lines: str) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("needs mosquitto, which is not here")
        self.port, self._folder, self._program = free_port(), folder, program
        config = [
            f"listener {self.port} 127.0.0.1", "user root", "persistence true", f"persistence_location {folder}/",
            "autosave_on_changes true", "autosave_interval 1", "max_queued_messages 0", *lines,
        ]  # fmt: skip
        if not any(line.startswith("allow_anonymous") for line in lines):
            config.append("allow_anonymous true")
        (folder / "mosquitto.conf").write_text("\n".join(config) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        with (self._folder / "mosquitto.log").open("ab") as out:
            self._process = subprocess.Popen(
                [self._program, "-v", "-c", str(self._folder / "mosquitto.conf")], stdout=out, stderr=out
            )
        wait_for(self._answers, "mosquitto")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def log(self) -> str:
        return (self._folder / "mosquitto.log").read_text(errors="replace")


class Got(NamedTuple):
    topic: str
    payload: bytes
    retain: bool


class Subscriber:
    """Receives all messages on all topics, including those sent while the broker was away."""

    def __init__(self, port: int, name: str = "subscriber", username: str | None = None, password: str | None = None):
        self.got: list[Got] = []
        self._subscribed = False
        self._client = Client(CallbackAPIVersion.VERSION2, name, clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        if username is not None:
            self._client.username_pw_set(username, password)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=2)
        self._client.on_message = lambda client, data, m: self.got.append(Got(m.topic, m.payload, m.retain))
        self._client.on_subscribe = self._on_subscribe
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_for(lambda: self._subscribed, "the subscription")

    def _on_subscribe(self, *_: object) -> None:
        self._subscribed = True

    def of(self, topic: str) -> list[bytes]:
        return [got.payload for got in self.got.copy() if got.topic == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
