"""Every kind of source of frames, and the ways each can fail."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_tracker.app.config.uri import is_path, redact, resolve_source, scheme_of
from edge_tracker.app.sources import capture
from edge_tracker.app.sources.opening import open_source
from edge_tracker.app.sources.stored import NoImages
from edge_tracker.errors import SourceError
from tests.waiting import free_port, wait_for


def picture(i: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A flat picture that says which one it is."""
    return np.full((height, width, 3), 20 * i % 256, np.uint8)


@pytest.fixture
def images(tmp_path):
    """A folder of ten pictures 1.png ... 10.png."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(1, 11):
        cv2.imwrite(str(folder / f"{i}.png"), picture(i))
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def video(tmp_path):
    """A video of twelve frames, 5 frames per second."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for i in range(12):
        writer.write(picture(i))
    writer.release()
    return path


def read(uri, fps=None):
    source = open_source(uri, fps)
    try:
        return source, list(source)
    finally:
        source.close()


def test_video_file(video):
    source, frames = read(str(video))
    assert (source.frame_count, source.fps, source.live) == (12, 5.0, False)
    assert [frame.index for frame in frames] == list(range(1, 13))
    assert [frame.time for frame in frames] == pytest.approx([i / 5 for i in range(12)], abs=1e-6)
    assert [int(frame.image.mean()) for frame in frames] == pytest.approx([20 * i for i in range(12)], abs=3)


def test_the_demo_video(demo_video):
    source, frames = read(str(demo_video))
    assert len(frames) == source.frame_count == 795
    assert frames[-1].time == pytest.approx(79.4)
    assert frames[0].image.shape == (576, 768, 3)


def test_a_frame_rate_given_overrides_the_videos(video):
    source, frames = read(str(video), fps=20)
    assert source.fps == 20
    assert frames[-1].time == pytest.approx(11 / 20)


def test_file_uri_and_path_relative_to_the_current_folder(video, monkeypatch):
    assert len(read(f"file://{video}")[1]) == 12
    monkeypatch.chdir(video.parent)
    assert len(read("video.avi")[1]) == 12


def test_image_folder_in_natural_order(images):
    source, frames = read(str(images))
    assert source.frame_count == 10
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [20 * i for i in range(1, 11)]
    assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(10)])


def test_image_pattern_glob_and_single_image(images):
    assert len(read(str(images / "%d.png"))[1]) == 10
    assert len(read(str(images / "[1-3].png"), fps=2)[1]) == 3
    assert len(read(str(images / "7.png"))[1]) == 1
    for i in range(3, 6):
        cv2.imwrite(str(images / f"{i:06d}.jpg"), picture(i))
    assert [int(f.image.mean()) for f in read(str(images / "%06d.jpg"))[1]] == pytest.approx([60, 80, 100], abs=2)


def test_a_broken_image_is_left_out_and_keeps_its_number(images, caplog):
    (images / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (images / "4.png").write_bytes(b"")
    _, frames = read(str(images))
    assert [frame.index for frame in frames] == [2, 3, 5, 6, 7, 8, 9, 10]
    assert "1.png" in caplog.text
    assert "4.png" in caplog.text


def test_images_of_all_kinds(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8), 7, np.uint8))  # grey
    cv2.imwrite(str(tmp_path / "b.png"), np.full((8, 8, 4), 7, np.uint8))  # with transparency
    cv2.imwrite(str(tmp_path / "c.png"), np.full((8, 9, 3), 7 * 256, np.uint16))  # 16 bit
    shapes = [(frame.image.shape, frame.image.dtype) for frame in read(str(tmp_path))[1]]
    assert shapes == [((8, 8, 3), np.uint8), ((8, 8, 3), np.uint8), ((8, 9, 3), np.uint8)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "no.avi", "no such file or folder"),
        (lambda folder: folder / "no/%06d.jpg", "cannot be read"),
        (lambda folder: folder / "%06d.jpg", "no file of that pattern"),
        (lambda folder: folder / "*.jpg", "no file of that pattern"),
        (lambda folder: folder, "no images in it"),
        (lambda folder: _file(folder / "a.avi", b""), "the file is empty"),
        (lambda folder: _file(folder / "a.avi", os.urandom(5000)), "cannot be opened as a video"),
        (lambda folder: _file(folder / "a.mp4", b"RIFF\0\0\0\0AVI LIST"), "cannot be opened as a video"),
        (lambda folder: _file(folder / "a.yaml", b"hello\n" * 99), "cannot be opened as a video"),
        (lambda folder: _file(folder / "a.png", b"hello"), "none of its 1 images can be read"),
    ],
)
def test_what_cannot_be_read(tmp_path, make, said, capfd):
    uri = make(tmp_path)
    with pytest.raises(SourceError) as caught:
        open_source(str(uri))
    assert str(caught.value).startswith(str(uri))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "OpenCV and FFmpeg keep quiet"


def _file(path, content):
    path.write_bytes(content)
    return path


def test_a_truncated_video_gives_what_it_has_and_a_warning(demo_video, tmp_path, caplog):
    path = _file(tmp_path / "cut.avi", demo_video.read_bytes()[:1_000_000])
    _, frames = read(str(path))
    assert 20 < len(frames) < 200
    assert f"ended after {len(frames)} of 795 frames" in caplog.text


def test_a_whole_video_gives_no_warning(video, caplog):
    read(str(video))
    assert not caplog.records


def test_no_camera():
    with pytest.raises(SourceError, match="camera 87: cannot be opened"):
        open_source(87)
    with pytest.raises(SourceError, match="camera 87: cannot be opened"):
        open_source("87")
    with pytest.raises(SourceError, match="/dev/video87: cannot be opened"):
        open_source("/dev/video87")
    with pytest.raises(SourceError, match="/dev/v4l/by-id/usb-none: cannot be opened"):
        open_source("/dev/v4l/by-id/usb-none")


def test_no_stream():
    with pytest.raises(
        SourceError, match=r"tcp://127.0.0.1:\d+: cannot be opened; .* whether this OpenCV's FFmpeg has tcp"
    ):
        open_source(f"tcp://127.0.0.1:{free_port()}")


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def web(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://user:hunter2@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_video_over_http(video, web):
    source, frames = read(f"{web}/video.avi")
    assert len(frames) == 12
    assert not source.live, "a file, wherever it lies, has an end"
    assert "hunter2" not in source.name


@pytest.mark.slow
def test_a_file_over_http_that_comes_late_is_not_taken_for_a_camera(video, web):
    late = video.rename(video.with_name("late"))
    source = open_source(f"{web}/video.avi", wait=True)
    assert source.live
    wait_for(lambda: source.problem)
    late.rename(video)
    wait_for(lambda: "is a file" in source.problem)
    assert not source.connected
    assert source.poll(0) is None
    source.close()


def test_a_pipe_is_read_to_its_end_without_loss(video, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(video.read_bytes()), daemon=True)
    writer.start()
    source, frames = read(str(pipe))
    writer.join(20)
    assert not source.live
    assert [int(frame.image.mean()) for frame in frames] == pytest.approx([20 * i for i in range(12)], abs=3)


def test_network_errors_hide_the_credentials(web, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_MS", 2000)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"rtsp://user:hunter2@127.0.0.1:{unused.getsockname()[1]}/stream"
        for uri in (f"{web}/no.avi", closed, "rtsp://user:hunter2@"):
            with pytest.raises(SourceError) as caught:
                open_source(uri)
            assert "hunter2" not in str(caught.value)
            assert "cannot be opened" in str(caught.value)
    assert "hunter2" not in caplog.text
    assert "hunter2" not in "".join(capfd.readouterr())


def test_no_images():
    frames = list(NoImages("det.txt", 3, None))
    assert [(frame.index, frame.time, frame.image) for frame in frames] == [
        (1, 0.0, None),
        (2, 0.1, None),
        (3, 0.2, None),
    ]


@pytest.mark.parametrize(
    ("uri", "scheme", "path"),
    [
        ("gst:videotestsrc ! appsink", "gst", False),
        ("csi://0", "csi", False),
        ("RTSP://h/s", "rtsp", False),
        ("file:///a.avi", "file", True),
        ("/dev/video0", None, True),
        ("a:b.avi", None, True),
        ("0", None, False),
    ],
)
def test_schemes(uri, scheme, path, tmp_path):
    assert (scheme_of(uri), is_path(uri)) == (scheme, path)
    assert path or resolve_source(uri, tmp_path) == uri


def test_a_path_that_goes_up_is_said_shortly_unless_it_goes_up_from_a_link(tmp_path):
    (tmp_path / "elsewhere/configs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere/configs")
    assert resolve_source("../data/a.avi", tmp_path / "configs") == str(tmp_path / "data/a.avi")
    assert resolve_source("./a//%06d.jpg", tmp_path) == str(tmp_path / "a/%06d.jpg")
    up = resolve_source("../data/a.avi", tmp_path / "link")
    assert Path(up).resolve() == tmp_path / "elsewhere/data/a.avi"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://user:pw@host:554/s", "rtsp://***@host:554/s"),
        ("rtsp://user:p@w/d@host/s", "rtsp://***@host/s"),
        ("rtsp://user:p w'd@host/s", "rtsp://***@host/s"),
        ("rtsp://user@host/s", "rtsp://***@host/s"),
        ("http://host/s?user=me&password=pw&size=3", "http://host/s?user=***&password=***&size=3"),
        ("http://host/s?access_token=abc", "http://host/s?access_token=***"),
        ("http://host/s?size=3", "http://host/s?size=3"),
        ("/a/path@home.avi", "/a/path@home.avi"),
        ("csi://0?width=640&fps=30", "csi://0?width=640&fps=30"),
        (
            "gst:rtspsrc location=rtsp://u:p@h/s user-id=me user-pw=pw latency=9 ! decodebin",
            "gst:rtspsrc location=rtsp://***@h/s user-id=*** user-pw=*** latency=9 ! decodebin",
        ),
        ('gst:rtspsrc location="rtsp://u:p w@h/s" ! x', 'gst:rtspsrc location="rtsp://***@h/s" ! x'),
        ('gst:a user-pw="p \\"w" proxy-pw=\'x y\' ! b', "gst:a user-pw=*** proxy-pw=*** ! b"),
        ("gst:srtsrc uri=srt://h:1 passphrase = geheim ! x", "gst:srtsrc uri=srt://h:1 passphrase = *** ! x"),
        ("gst:a user-pw=(string)pw ! x", "gst:a user-pw=(string)*** ! x"),
        ("gst:a user-pw=p\\ w&x=1 ! b", "gst:a user-pw=*** ! b"),
        ("gst:a access-key=AK secret-key=SK ! b", "gst:a access-key=*** secret-key=*** ! b"),
        ("gst:a location=http://h/s?token=abc&x=1 ! x", "gst:a location=http://h/s?token=***&x=1 ! x"),
        ("tried rtsp://u:p@h/s, then http://u:p@h/t", "tried rtsp://***@h/s, then http://***@h/t"),
        (3, "3"),
    ],
)
def test_redact(uri, shown):
    assert redact(uri) == shown


def test_the_start_of_a_video_can_be_left_out(demo_video):
    whole = {frame.index: frame for frame in itertools.islice(open_source(str(demo_video)), 43)}
    source = open_source(str(demo_video), skip=40)
    for frame in itertools.islice(source, 3):
        assert np.array_equal(frame.image, whole.pop(frame.index).image)
    source.close()
    assert max(whole) == 40
    with pytest.raises(SourceError, match="ended after 795 frames"):
        open_source(str(demo_video), skip=795)
