"""A real RTSP server for tests: H.264 of a test picture. Run with the system's Python, which has GStreamer's bindings.

    /usr/bin/python3 rtsp_server.py PORT WIDTH HEIGHT FPS [USER PASSWORD]

It prints `ready` once it listens at rtsp://127.0.0.1:PORT/camera, and ends when its standard input does.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main(port, width, height, fps, user=None, password=None):
    """Serve until standard input ends: with the test, then, however that ends."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    factory = GstRtspServer.RTSPMediaFactory(shared=True)
    factory.set_launch(
        f"videotestsrc is-live=true pattern=ball ! video/x-raw, width={width}, height={height}, framerate={fps}/1 "
        f"! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} ! rtph264pay name=pay0 pt=96"
    )
    if user is not None:
        auth = GstRtspServer.RTSPAuth()
        may = GstRtspServer.RTSPToken()
        may.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), may)
        server.set_auth(auth)
        factory.add_role_from_structure(
            Gst.Structure.new_from_string("viewer, media.factory.access=true, media.factory.construct=true")
        )
    server.get_mount_points().add_factory("/camera", factory)
    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin.fileno(), GLib.IO_HUP | GLib.IO_IN, lambda *_: loop.quit())
    if server.attach(None) == 0:
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    loop.run()


main(*sys.argv[1:])
