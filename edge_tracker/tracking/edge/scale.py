"""The scale of appearance distances, from the distances seen so far.

0 is usual between two features of one object, 1 between those of two objects. So one set of limits does for a
classifier that separates people poorly and for a network that was trained to tell them apart.
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import NONE, Floats, Record, ascending
from edge_tracker.tracking.detections import Scene
from edge_tracker.tracking.edge.statistics import observe
from edge_tracker.tracking.edge.tables import EdgeTables
from edge_tracker.tracking.gallery import Gallery, smallest_distance
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED

# Usual cosine distances before any were seen, with the weight of so many observations; old ones fade.
SAME, OTHER, PRIOR, FADE = 0.15, 0.35, 10.0, 0.999
LEAST_SPREAD = 0.03
# Galleries count from so many features on; each feature is compared with the galleries of so many other tracks.
ENOUGH, OTHERS = 3, 2


@jit
def normalised(statistics: Record, distance: float) -> float:
    """A cosine distance on the scale from 0, usual for one object, to 1, usual for two."""
    same = (statistics["same"]["sum"] + PRIOR * SAME) / (statistics["same"]["count"] + PRIOR)
    other = (statistics["other"]["sum"] + PRIOR * OTHER) / (statistics["other"]["count"] + PRIOR)
    return (distance - same) / max(other - same, LEAST_SPREAD)


@jit
def cosine_distance(gallery: Gallery, track: Record, features: Floats, k: int, norm: float) -> float:
    """Smallest cosine distance of a feature from the gallery of a track.

    Args:
        gallery: the pool.
        track: EDGE_TRACK.
        features: (M, D) float32; the feature is the k-th.
        k: its place.
        norm: its length; 0 stands for no appearance, at distance 1 from everything.
    """
    return smallest_distance(gallery, track["gallery"], track["gallery"]["held"], features, k, norm, -np.inf)


@jit
def observe_distances(tables: EdgeTables, scene: Scene) -> None:
    """Gather the distances of features from the gallery of their own track and from those of its neighbours."""
    tracks, gallery, (detections, features) = tables.tracks, tables.gallery, scene
    n = tables.counts[0]["live"]
    x, known = np.empty(n), np.empty(n, dtype=np.int64)
    count = 0
    for row in range(n):
        track = tracks[row]
        if track["state"] == CONFIRMED and track["match"] != NONE and track["gallery"]["held"] >= ENOUGH:
            x[count], known[count] = track["mean"][0], row
            count += 1
    left_to_right = ascending(x[:count])  # for the order in which tracks started means nothing
    same, others = 0.0, 0.0
    of_same, of_others = np.int64(0), np.int64(0)
    for i in range(count):
        track = tracks[known[left_to_right[i]]]
        detection = detections[track["match"]]
        norm = detection["norm"]
        if track["returns"] or not detection["clean"] or not norm > 0.0:
            continue
        origin = detection["origin"]
        same += cosine_distance(gallery, track, features, origin, norm)
        of_same += 1
        for step in range(1, min(count, OTHERS + 1)):
            other = tracks[known[left_to_right[(i + step) % count]]]
            others += cosine_distance(gallery, other, features, origin, norm)
            of_others += 1
    observe(tables.statistics[0]["same"], same, of_same, FADE)
    observe(tables.statistics[0]["other"], others, of_others, FADE)
