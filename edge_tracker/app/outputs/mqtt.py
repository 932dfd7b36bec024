"""MQTT: sends events, tracks and counts of all cameras to a broker. docs/mqtt.md has the topics and payloads.

A thread of its own holds the connection and subscribes to nothing. The number of waiting messages is bounded: events
wait in a queue that drops the oldest, and of everything else (tracks, counts, availability) only the newest message of
each topic waits.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from edge_tracker.app.config.schema import MqttConfig
from edge_tracker.app.config.secret import read_secret
from edge_tracker.app.extras import extra
from edge_tracker.app.frame_results import FrameTracks, ObjectEvent
from edge_tracker.app.outputs.frigate import FrigateView
from edge_tracker.app.outputs.payloads import event_payload, totals_payload, tracks_payload
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import Stats
from edge_tracker.backoff import Backoff
from edge_tracker.errors import ConfigError

log = logging.getLogger(__name__)

KEEPALIVE_S = 30  # a broker that does not answer for this long counts as gone; the last will takes half as long again
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0  # between attempts to connect; each wait is up to twice the one before
SCATTER = (0.5, 1.0)  # a wait is multiplied by a random number between these
STEADY_S = 10.0  # after a connection of this length the waits start at the shortest again
UNDER_WAY = 20  # messages sent and not yet acknowledged, in addition to those that wait
TICK_S = 1.0  # for the keepalive
CLOSE_POLL_S = 0.05


class _Message(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool = False
    newest: bool = False  # only the newest message of its topic is of use


def check_mqtt(config: MqttConfig) -> None:
    """Check that everything the section names is there. Connects to nothing.

    Raises:
        ConfigError: something is missing; names the key.
    """
    _client_class()
    _password(config)
    _tls_context(config)


class MqttPublisher:
    """Publishes the results of all cameras; one for a process.

    It keeps trying to connect, also if the broker is not there yet.

    Args:
        config: the section `mqtt`.
        cameras: their names.
        stats: gets `mqtt_connected`, `mqtt_lost` and `mqtt_queue`; the cameras' `totals` are published from it.

    Raises:
        ConfigError: paho-mqtt, the password or a certificate is missing or unusable; names the key.
    """

    def __init__(self, config: MqttConfig, cameras: list[str], stats: Stats) -> None:
        self._config, self._stats = config, stats
        self._lock = threading.Lock()
        self._events: deque[_Message] = deque()
        self._newest: dict[str, _Message] = {}
        self._retained: dict[str, _Message] = {}  # in case the broker has forgotten them
        self._under_way: set[int] = set()
        self._tracks_due = dict.fromkeys(cameras, float("-inf"))
        self._totals: dict[str, dict[str, dict[str, float]]] = {camera: {} for camera in cameras}
        self._frigate = FrigateView() if config.style == "frigate" else None
        self._broken = False
        self._problem = ""
        self._available = f"{config.topic}/available"
        self._client = self._make_client()
        stats.mqtt_connected = False

        self._deadline = float("inf")
        self._closing = threading.Event()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def _make_client(self) -> Any:
        config = self._config
        client = _client_class()(config.client_id or f"edge-tracker-{socket.gethostname()}")
        client.max_inflight_messages_set(UNDER_WAY)
        password = _password(config)
        if config.username is not None:
            client.username_pw_set(config.username, password)
        context = _tls_context(config)
        if context is not None:
            client.tls_set_context(context)
        client.will_set(self._available, b"offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        return client

    # ---- for the cameras' threads ------------------------------------------------------------------------------------

    def publish(self, camera: str, frame: Frame, tracks: FrameTracks) -> None:
        """Publish one frame's results. Returns at once, whatever the broker does."""
        if self._closing.is_set():
            return
        with self._lock:
            try:
                for message in self._messages(camera, frame, tracks):
                    self._put(message)
            except Exception as error:  # the cameras continue, whatever is wrong with a message
                self._stats.mqtt_lost += 1
                if not self._broken:
                    log.error(
                        "MQTT: a message of %s could not be created: %r; further ones are only counted", camera, error
                    )
                self._broken = True
            self._count()
            waits = bool(self._events or self._newest)
        if waits:
            self._wake()

    def _messages(self, camera: str, frame: Frame, tracks: FrameTracks) -> Iterator[_Message]:
        config, place = self._config, f"{self._config.topic}/{camera}"
        for event in tracks.events:
            if self._frigate is not None and isinstance(event, ObjectEvent):
                yield _message(f"{config.topic}/events", self._frigate.event(camera, event), config.qos)
            else:
                yield _message(f"{place}/events", event_payload(camera, event), config.qos)
        if self._frigate is not None and tracks.events:
            for name, count in self._frigate.changed_counts():
                yield _message(f"{config.topic}/{name}", count, 1, retain=True, newest=True)
        totals = self._stats.cameras[camera].totals
        if totals != self._totals[camera]:
            self._totals[camera] = {name: dict(counts) for name, counts in totals.items()}
            yield _message(f"{place}/zones", totals_payload(camera, frame.wall, totals), 1, retain=True, newest=True)
        if config.tracks_per_second and frame.time >= self._tracks_due[camera]:
            period = 1 / config.tracks_per_second
            # On a fixed beat, so that small delays do not add up; but without a burst after a gap.
            due = self._tracks_due[camera] + period
            self._tracks_due[camera] = due if due > frame.time else frame.time + period
            yield _message(f"{place}/tracks", tracks_payload(camera, frame, tracks), 0, newest=True)

    def _put(self, message: _Message) -> None:
        if message.retain:
            self._retained[message.topic] = message
        if message.newest:
            self._newest[message.topic] = message
            return
        if len(self._events) >= self._config.queue:
            self._events.popleft()
            self._stats.mqtt_lost += 1
        self._events.append(message)

    def _count(self) -> None:
        self._stats.mqtt_queue = len(self._events) + len(self._newest) + len(self._under_way)

    def _wake(self) -> None:
        with suppress(OSError):  # full of wake-ups already, or closed
            self._waker.send(b"\0")

    def close(self, timeout: float) -> None:
        """Send waiting messages, publish `offline`, and disconnect, in at most `timeout` seconds. The rest is lost."""
        if not self._closing.is_set():
            self._deadline = time.monotonic() + timeout
            self._closing.set()
            self._wake()
        self._thread.join(max(0.0, self._deadline - time.monotonic()) + CLOSE_POLL_S)
        with self._lock:
            waiting = len(self._events) + len(self._under_way)
            self._events.clear()
            self._newest.clear()
            self._under_way.clear()
            self._stats.mqtt_lost += waiting
            self._stats.mqtt_connected = False
            self._count()
        if waiting:
            log.warning("MQTT: %d messages were not delivered to %s", waiting, self._broker)
        if not self._thread.is_alive():
            self._waker.close()
            self._woken.close()

    # ---- the connection's thread -------------------------------------------------------------------------------------

    @property
    def _broker(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    def _run(self) -> None:
        pauses = waits()
        while True:
            last = self._closing.is_set()
            if last and (not self._stats.mqtt_queue or time.monotonic() >= self._deadline):
                return
            began = time.monotonic()
            try:
                self._client.connect(self._config.host, self._config.port, KEEPALIVE_S)
                # A connection that does not last, as with two clients of the same name, does not count.
                if self._serve() and time.monotonic() - began >= STEADY_S:
                    pauses.reset()
            except Exception as error:  # no network, no such name, no MQTT: any of these may be temporary
                self._say(getattr(error, "strerror", None) or str(error) or repr(error))
            self._stats.mqtt_connected = False
            if last:
                return
            self._closing.wait(pauses.next())

    def _serve(self) -> bool:
        """Talk to the broker until the connection ends. True if the broker accepted it."""
        client, accepted, said_offline = self._client, False, False
        sock = client.socket()
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(sock, selectors.EVENT_READ)
            while sock is not None and client.socket() is sock:
                accepted = accepted or bool(self._stats.mqtt_connected)
                if self._stats.mqtt_connected:
                    self._send()
                    if self._closing.is_set() and not self._stats.mqtt_queue:
                        if said_offline:
                            client.disconnect()
                            break
                        said_offline = True
                        self._hand_over(_Message(self._available, b"offline", 1, retain=True))
                if self._closing.is_set() and time.monotonic() >= self._deadline:
                    client.disconnect()
                    break
                if client.socket() is not sock:
                    break
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.want_write() else 0)
                selector.modify(sock, wanted)
                pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
                tick = 0 if pending else CLOSE_POLL_S if self._closing.is_set() else TICK_S
                ready = {key.fileobj: events for key, events in selector.select(tick)}
                if self._woken in ready:
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
                if pending or ready.get(sock, 0) & selectors.EVENT_READ:
                    client.loop_read()
                if ready.get(sock, 0) & selectors.EVENT_WRITE:
                    client.loop_write()
                client.loop_misc()
        if accepted and not self._closing.is_set():
            self._say("the connection was lost")
        return accepted

    def _send(self) -> None:
        """Hand over waiting messages as fast as the broker takes them, since paho's own queues are unbounded."""
        while len(self._under_way) < UNDER_WAY and not self._client.want_write():
            with self._lock:
                if self._newest:
                    message = self._newest.pop(next(iter(self._newest)))
                elif self._events:
                    message = self._events.popleft()
                else:
                    break
            self._hand_over(message)

    def _hand_over(self, message: _Message) -> None:
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        with self._lock:
            if message.qos:
                self._under_way.add(info.mid)  # paho sends it again after a reconnect, until it is acknowledged
            elif info.rc and not message.newest:
                self._stats.mqtt_lost += 1
            self._count()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._say(f"{reason}".lower())
            return
        log.info("MQTT: connected to %s", self._broker)
        self._problem = ""
        with self._lock:
            online = _Message(self._available, b"online", 1, retain=True, newest=True)
            self._newest = {self._available: online, **self._retained, **self._newest}
            self._count()
            self._stats.mqtt_connected = True

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        with self._lock:
            self._under_way.discard(mid)
            self._count()

    def _say(self, problem: str) -> None:
        """Log a problem once, not at every attempt."""
        if problem != self._problem:
            log.warning("MQTT: no connection to %s: %s; trying again", self._broker, problem)
        self._problem = problem


def waits() -> Backoff:
    """Seconds until each further attempt to connect. A part is random, so that many devices do not all come back at
    once."""
    return Backoff(FIRST_WAIT_S, LONGEST_WAIT_S, SCATTER)


def _message(topic: str, payload: Any, qos: int, *, retain: bool = False, newest: bool = False) -> _Message:
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    return _Message(topic, text.encode(), qos, retain, newest)


def _client_class() -> Any:
    """A paho client of version 2, without the callbacks of version 1."""
    with extra("mqtt", "needs paho-mqtt 2"):
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion
    return partial(Client, CallbackAPIVersion.VERSION2)


def _password(config: MqttConfig) -> str | None:
    password = read_secret(config.password_env, config.password_file, "password_env", "password_file")
    if password is not None and config.username is None:
        raise ConfigError("username: missing; MQTT has no password without one")
    return password


def _tls_context(config: MqttConfig) -> ssl.SSLContext | None:
    if not config.tls:
        return None
    # Not ssl.create_default_context: from Python 3.13 on it refuses the self-made certificates of many brokers.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if config.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(config.ca)
    except OSError as error:
        raise ConfigError(f"ca: {config.ca}: {_tls_problem(error, 'certificates')}") from None
    if config.cert is not None:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(config.cert, config.key, password="")
        except OSError as error:
            what = "a certificate and its unencrypted key"
            raise ConfigError(f"cert: {config.cert}, key: {config.key}: {_tls_problem(error, what)}") from None
    return context


def _tls_problem(error: OSError, expected: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"expected {expected} in PEM format ({error.reason or error.args[-1]})"
    return f"cannot be read: {error.strerror}"
