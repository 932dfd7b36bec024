"""Cameras that send one JPEG after the other over HTTP, ten a second."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2


class MjpegCamera:
    """Serves pictures at any path, to whoever asks.

    Args:
        pictures: called for the next picture as JPEG; None ends what is sent.
        port: 0 for a free one.
    """

    def __init__(self, pictures, port=0):
        unplugged = self._unplugged = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format, *args):
                pass

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                while not unplugged.is_set() and (jpeg := pictures()) is not None:
                    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                    try:
                        self.wfile.write(head + jpeg + b"\r\n")
                    except OSError:
                        return
                    time.sleep(0.1)
                self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}/street.mjpg"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def unplug(self):
        self._unplugged.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class StreetCamera(MjpegCamera):
    """Shows the first 700 frames of a video again and again. Time stands still while nobody looks.

    Args:
        video: the video.
        first: the frame to begin with.
    """

    def __init__(self, video, first=0):
        capture = cv2.VideoCapture(str(video))
        self._frames = []
        while len(self._frames) < 700 and (frame := capture.read())[0]:
            self._frames.append(cv2.imencode(".jpg", frame[1])[1].tobytes())
        self._at = first
        super().__init__(self._next)

    def _next(self):
        jpeg = self._frames[self._at % len(self._frames)]
        self._at += 1
        return jpeg
