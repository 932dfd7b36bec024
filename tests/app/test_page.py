"""The live page in a real browser, with real frames."""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra 'server'")
pytest.importorskip("starlette", reason="needs the extra 'server'")

from edge_tracker.app.config.schema import ServerConfig, ZoneConfig
from edge_tracker.app.counting.zones import ZoneMonitor
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs.live import mjpeg
from edge_tracker.app.outputs.live.server import LiveServer
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import CameraStats, Stats
from edge_tracker.inference.availability import ServerStatus
from tests.app.browser import Browser, find_browser
from tests.app.truth import moments
from tests.waiting import free_port, meanwhile

WHERE = ZoneConfig(polygon=[[100.0, 150.0], [650.0, 150.0], [650.0, 450.0], [100.0, 450.0]])
CARD = "document.querySelectorAll('.camera')[{}]"


@pytest.fixture(scope="module")
def browser():
    program = find_browser()
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with Browser(program) as opened:
        yield opened


@pytest.fixture
def page(browser):
    """The browser, which must not have had to complain in the end: also of what the page's policy forbids."""
    browser.size(1280, 900)
    browser.problems.clear()
    yield browser
    assert browser.problems == []


@contextmanager
def serving(stats, port=0, leaving=None, **config):
    """A server, which the browser `leaving` leaves before it closes: the page would complain that it has gone."""
    server = LiveServer(ServerConfig(port=port, **config), stats, list(stats.cameras))
    server.start()
    try:
        yield server
    finally:
        if leaving is not None:
            leaving.open("about:blank")
            leaving.until("location.href === 'about:blank'")
        server.close()


def url(server) -> str:
    return f"http://127.0.0.1:{server.address[1]}/"


def endless(video, data):
    """Real frames with their real objects, over and over: others each time."""
    for times in itertools.count():
        capture = cv2.VideoCapture(str(video))
        for moment in moments(data):
            image = capture.read()[1]
            if image is not None:
                live = {number + 1000 * times for number in moment.live}
                yield image, replace(moment, ids=moment.ids + 1000 * times, live=live)
        capture.release()


def feeding(server, camera: str, video, data):
    """Frames in a thread, as a run has it, until the end of the block."""
    stats = server._stats.cameras[camera]

    def feed(stop: threading.Event) -> None:
        zones, seen = ZoneMonitor({"path": WHERE}, {}), set()
        for image, moment in endless(video, data):
            if stop.wait(0.05):
                break
            count = len(moment.ids)
            names = ["person"] * count
            zones.update(moment.ids, moment.ltrb, names, moment.live, moment.time, moment.wall)
            seen.update(moment.ids.tolist())
            stats.totals, stats.active, stats.tracks, stats.connected = zones.totals(), count, len(seen), True
            for stage, seconds in (("read", 0.01), ("detect", 0.03), ("track", 0.001)):
                stats.stages[stage].observe(seconds)
            stats.latency.observe(0.05)
            stats.count_frame()
            tracks = FrameTracks(moment.ids, moment.ltrb, np.zeros(count, np.int64), np.full(count, 0.9), ("person",))
            server.show(camera, Frame(moment.frame, moment.time, image), tracks)

    return meanwhile(feed)


@pytest.mark.slow
def test_figures_and_image_move(page, demo_video, shared_data):
    stats = Stats({"yard": CameraStats("yard")}, ready=True)
    figure = f"+{CARD.format(0)}.querySelector('[data-is={{}}]').textContent"
    with serving(stats, leaving=page) as server:
        page.open(url(server))
        assert page.until("document.querySelector('.away')?.textContent") == "No image: waiting for the first frame"
        with feeding(server, "yard", demo_video, shared_data):
            page.until("document.querySelector('.state').textContent === 'live'")
            page.until("document.querySelector('img').naturalWidth === 768")
            assert page.value("document.querySelector('.away').hidden")
            objects = page.until(figure.format("objects"))
            page.until(f"{figure.format('objects')} > {objects}")
            assert page.until(figure.format("active")) > 0
            page.until(f"2 < {figure.format('fps')} && {figure.format('fps')} <= 20")
            page.until("document.querySelector('[data-is=latency]').textContent === '50 ms'")
            page.until(
                "document.querySelector('.limit').textContent === 'Limited by detection: 30 ms of 41 ms per frame'"
            )
            page.until("/^inside [1-9]/.test(document.querySelector('.counts dd').textContent)")
            assert page.value("document.querySelector('.counts dt').textContent") == "path"
            first = page.screenshot()
            page.until(f"{figure.format('objects')} > {objects} + 1")
            one, other = (
                cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR)[110:760, 40:900]
                for shot in (first, page.screenshot())
            )
            assert np.mean(cv2.absdiff(one, other)) > 0.1, "the stream moves"
            assert one.std() > 20, "there is an image"


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844), (844, 390)])
def test_nothing_is_wider_than_the_screen(page, width, height):
    name = "a-camera-with-the-longest-name-that-a-configuration-lets-pass-64"
    camera = CameraStats(name, connected=True, frames=10_000_000, dropped=9_999_999, reconnects=123_456, tracks=99_999)
    camera.failing = {"jsonl": "/a/very/long/path/without/any/place/to/break/it/in/" * 4}
    camera.totals = {name: {"inside": 12, "entries": 1234, "exits": 1222, "dwell": 99999.5}}
    with serving(
        Stats({name: camera, "gate": CameraStats("gate")}, ready=True, mqtt_connected=False), leaving=page
    ) as server:
        server.show(name, Frame(1, 0.0, np.full((576, 768, 3), 90, np.uint8)), _none())
        page.size(width, height)
        page.open(url(server))
        page.until("document.querySelector('img').naturalWidth === 768")
        page.until("document.querySelector('.trouble li') !== null")
        assert page.value("document.documentElement.scrollWidth") <= width
        sticks_out = (
            "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
        )
        assert page.value(f"{sticks_out}.map(e => e.className || e.tagName)") == []
        assert page.value("document.querySelector('img').getBoundingClientRect().height") < height


@pytest.mark.slow
def test_trouble_is_told_and_nothing_in_it_is_taken_for_html(page):
    name = "<img src=x onerror=alert(1)>"
    away = CameraStats(name, problem="rtsp://***@10.0.0.7: <b>refused</b>", reconnects=3)
    away.failing, away.lost = {"<i>jsonl": "disk <u>full</u>"}, {"jsonl": 1234, "mot": 0}
    away.totals = {"<s>zone": {"inside": 1.0, "dwell": 0.0}}
    stats = Stats({"gate": CameraStats("gate", connected=True), name: away}, mqtt_connected=False, mqtt_queue=7)
    server_away = ServerStatus("triton://a:1/b", problem="<q>refused</q>", outages=2, lost=1200, fallback=3)
    stats.servers = {"embedder": server_away, "detector": ServerStatus("triton://a:1/c", up=True)}
    card = CARD.format(1)
    with serving(stats, leaving=page) as server:
        page.open(url(server))
        page.until("document.querySelectorAll('.camera').length === 2")
        assert page.value(f"{card}.querySelector('h2').textContent") == name
        assert page.value(f"{card}.querySelector('.state').textContent") == "away"
        assert page.value(f"{card}.querySelector('.away').textContent") == f"No image: {away.problem}"
        trouble = page.value(f"[...{card}.querySelectorAll('.trouble li')].map(e => e.textContent)")
        assert trouble == ["<i>jsonl: disk <u>full</u>", "jsonl: 1,234 lost"]
        assert page.value(f"{card}.querySelector('.counts dt').textContent") == "<s>zone"
        assert page.value("document.querySelectorAll('b, i, u, s, q').length") == 0
        assert page.value("document.querySelector('#run').textContent") == "2 cameras, 1 away, loading models"
        assert page.value("document.querySelector('#broker').textContent") == "broker away: 7 messages waiting"
        servers = page.value("document.querySelector('#servers').textContent")
        embedder, detector = servers.split(" · ")
        assert embedder == "embedder server away: <q>refused</q>, 1,200 lost, 3 processed by the fallback"
        assert detector == "detector server up"
        away.problem, away.ended = None, True
        page.until(f"{card}.querySelector('.state').textContent === 'ended'")
        assert page.value(f"{card}.querySelector('.away').textContent") == "No image: the file has ended"
        page.until("document.querySelector('#run').textContent === '2 cameras, loading models'")
        # What is wrong goes when it is right again.
        away.ended, away.connected, away.failing, away.lost = False, True, {}, {}
        stats.ready, stats.mqtt_connected, stats.servers = True, True, {}
        page.until("document.querySelector('#run').textContent === '2 cameras'")
        assert page.value("document.querySelector('#broker').textContent") == "broker connected"
        assert page.value("document.querySelector('#servers').hidden")
        assert page.value(f"{card}.querySelectorAll('.trouble li').length") == 0


def test_a_single_image_is_shown_at_once(page, monkeypatch):
    """Chromium shows an image of a stream only once the next has begun; here none comes."""
    monkeypatch.setattr(mjpeg, "REPEAT_S", 1e9)
    stats = Stats({"yard": CameraStats("yard", connected=True)}, ready=True)
    with serving(stats, leaving=page) as server:
        server.show("yard", Frame(1, 0.0, np.full((90, 160, 3), 90, np.uint8)), _none())
        page.open(url(server))
        page.until("document.querySelector('img').naturalWidth === 160")
        assert page.value("document.querySelector('img').src.includes('/stream/')")


def test_each_element_that_tells_something_has_a_name(page):
    with serving(
        Stats({name: CameraStats(name, connected=True) for name in ("yard", "gate")}, ready=True), leaving=page
    ) as server:
        for name in ("yard", "gate"):
            server.show(name, Frame(1, 0.0, np.full((90, 160, 3), 90, np.uint8)), _none())
        page.open(url(server))
        page.until("[...document.querySelectorAll('img')].filter(i => i.naturalWidth === 160).length === 2")
        page.call("Accessibility.enable")
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
        assert ("article", "gate") in named
        assert ("heading", "yard") in named
        assert {"img", "image"} & {role for role, name in named if name.startswith("Live image of yard")}
        assert page.value("document.documentElement.lang") == "en"


@pytest.mark.slow
def test_the_page_comes_back_with_the_server(page):
    stats = Stats({"yard": CameraStats("yard", connected=True)}, ready=True)
    frame = Frame(1, 0.0, np.full((576, 768, 3), 90, np.uint8))
    port = free_port()  # which no connection takes while the server is away
    with serving(stats, port) as server:
        server.show("yard", frame, _none())
        page.open(url(server))
        page.until("document.querySelector('img')?.naturalWidth === 768")
        before = page.value("document.querySelector('img').src")
    page.until("document.querySelector('#run').textContent === 'edge-tracker is not responding; retrying'")
    assert page.problems, "the browser tells that it was refused"
    with serving(stats, port, leaving=page) as server:
        server.show("yard", frame, _none())
        page.until("document.querySelector('#run').textContent === '1 camera'")
        page.until(f"document.querySelector('img').src !== {before!r} && document.querySelector('img').naturalWidth")
        page.problems.clear()


def test_many_cameras_leave_connections_for_the_figures(page):
    """A browser keeps six connections to a server: eight streams would leave none."""
    stats = Stats({f"cam{k}": CameraStats(f"cam{k}", connected=True) for k in range(8)}, ready=True)
    with serving(stats, leaving=page) as server:
        for k, name in enumerate(stats.cameras):
            server.show(name, Frame(1, 0.0, np.full((90, 160, 3), 20 * k, np.uint8)), _none())
        page.open(url(server))
        page.until("[...document.querySelectorAll('img')].filter(i => i.naturalWidth === 160).length === 8")
        stats.cameras["cam7"].active = 5
        page.until(f"{CARD.format(7)}.querySelector('[data-is=active]').textContent === '5'")
        assert server._viewers.count == 0


def test_the_token_is_asked_for_and_then_gone_from_the_address(page, tmp_path):
    token = "correct-horse-battery"
    (tmp_path / "token").write_text(token)
    stats = Stats({"yard": CameraStats("yard", connected=True)}, ready=True)
    with serving(stats, leaving=page, host="0.0.0.0", token_file=str(tmp_path / "token")) as server:
        page.open(url(server))
        page.until("document.querySelector('input[name=token]') !== null")
        page.value(f"document.querySelector('input').value = {token!r}; document.querySelector('button').click()")
        page.until("document.querySelector('#run')?.textContent === '1 camera'")
        assert page.value("location.href") == url(server)
        assert page.value("document.cookie") == "", "scripts do not see it"
        assert token not in page.value("document.documentElement.outerHTML")
        page.problems = [line for line in page.problems if "401" not in line]  # the first request


def _none() -> FrameTracks:
    return FrameTracks(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
