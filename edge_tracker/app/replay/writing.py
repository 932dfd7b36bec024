"""Results of a replay, written like those of a run."""

from __future__ import annotations

from collections.abc import Sequence

from edge_tracker.app.frame_results import reported
from edge_tracker.app.outputs.sinks import Sink
from edge_tracker.app.replay.replaying import RecordedFrame
from edge_tracker.app.sources.frames import Frame
from edge_tracker.track_arrays import TrackArrays


def write_tracks(sinks: Sequence[Sink], frame: RecordedFrame, tracks: TrackArrays) -> None:
    """Give a replayed frame's confirmed tracks with a detection to sinks."""
    if not sinks:
        return
    found = reported(tracks, frame.names)
    for sink in sinks:
        sink.write(Frame(frame.index, frame.time, None), found)
