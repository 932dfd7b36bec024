"""Motion in `method="edge"`: a Kalman filter in centre x, y, width, height, and the camera's own movement.

The four coordinates are independent, each a block (p, c, v) of position variance, covariance and velocity variance as
in `tracking.kalman`. The process noise is that of a white-noise acceleration, integrated over the step (Bar-Shalom, Li
and Kirubarajan, "Estimation with Applications to Tracking and Navigation", 2001, 6.2.2), so that one step of two frames
is as good as two of one.
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.assignment import NONE
from edge_tracker.tracking.deepsort.kalman import correct_coordinate
from edge_tracker.tracking.jit import jit

# Places in `EdgeStore.learnt`: running sums, the variances of camera and own movement (x, y) that they give, and what
# appearance distances and confidences have been.
PAIRS, SINGLES = 0, 1
PAIR_SUM, SINGLE_SUM = 2, 4  # two each: x, y
SHAKE, SCATTER = 6, 8  # two each: pixels^2, heights^2
SAME_SUM, SAME_COUNT, OTHER_SUM, OTHER_COUNT = 10, 11, 12, 13
SEEN = 14  # whether there have been features
CONFIDENCE_SUM, CONFIDENCE_COUNT = 15, 16
LEARNT = 17

# Evidence that the camera stands still, in pairs of tracks, and how much tracks scatter before any was seen.
STILL_PAIRS = 20.0
FIRST_SCATTER, FIRST_SINGLES = 1e-3, 2.0
LEAST_SCATTER = 1e-6

# A detector's usual confidence before any was seen, with the weight of so many detections; old ones fade.
USUAL, USUAL_WEIGHT, USUAL_FADE = 0.9, 20.0, 0.998

LEAST_SIDE = 1.0  # pixels


@jit
def shakiness(learnt, axis, height, edge):  # type: ignore[no-untyped-def]
    """How much more a track of this height moves along an axis than it would before a still camera, as a variance."""
    return 1.0 + edge.camera * learnt[SHAKE + axis] / (learnt[SCATTER + axis] * height * height)


@jit
def predict(mean, covariance, first, last, dt, learnt, edge):  # type: ignore[no-untyped-def]
    """Move tracks ahead by `dt` frames. Changes rows first .. last of mean (C, 8) and covariance (C, 4, 3)."""
    for row in range(first, last):
        height = mean[row, 3]
        for i in range(4):
            std = (edge.acceleration if i < 2 else edge.growth) * height
            noise = std * std
            if i < 2:
                noise *= shakiness(learnt, i, height, edge)
            mean[row, i] += dt * mean[row, i + 4]
            p, c, v = covariance[row, i, 0], covariance[row, i, 1], covariance[row, i, 2]
            covariance[row, i, 0] = p + dt * (2.0 * c + dt * v) + noise * dt * dt * dt / 3.0
            covariance[row, i, 1] = c + dt * v + noise * dt * dt / 2.0
            covariance[row, i, 2] = v + noise * dt
        mean[row, 2] = max(mean[row, 2], LEAST_SIDE)
        mean[row, 3] = max(mean[row, 3], LEAST_SIDE)


@jit
def sureness(confidence):  # type: ignore[no-untyped-def]
    """A confidence as a number from 0 to 1; where it is unknown, 1."""
    return min(max(confidence, 0.0), 1.0) if np.isfinite(confidence) else 1.0


@jit
def learn(learnt, place, total, count, fade):  # type: ignore[no-untyped-def]
    """Add a frame's sum of `count` values to the running sum at a place and to the count behind it.

    What was there fades by `fade` for each new value. Taken frame by frame, the order within one does not matter.
    """
    learnt[place] = learnt[place] * fade**count + total
    learnt[place + 1] = learnt[place + 1] * fade**count + count


@jit
def inaccuracy(learnt, confidence, edge):  # type: ignore[no-untyped-def]
    """How much more a detection is off than one of the confidence that is usual for this detector, as a ratio."""
    usual = (learnt[CONFIDENCE_SUM] + USUAL_WEIGHT * USUAL) / (learnt[CONFIDENCE_COUNT] + USUAL_WEIGHT)
    return (1.0 + edge.doubt * (1.0 - sureness(confidence))) / (1.0 + edge.doubt * (1.0 - usual))


@jit
def _noise(i, height, off, edge):  # type: ignore[no-untyped-def]
    std = (edge.position_noise if i < 2 else edge.size_noise) * height * off
    return max(std * std, 1e-12)


@jit
def start(mean, covariance, row, boxes, k, off, edge):  # type: ignore[no-untyped-def]
    """Begin a track, or begin it anew, at the k-th of the boxes (K, 4) xywh, at rest; `off` is its `inaccuracy`."""
    height = boxes[k, 3]
    for i in range(4):
        speed = (edge.first_speed if i < 2 else edge.first_growth) * height
        mean[row, i], mean[row, i + 4] = boxes[k, i], 0.0
        covariance[row, i, 0] = _noise(i, height, off, edge)
        covariance[row, i, 1] = 0.0
        covariance[row, i, 2] = speed * speed


@jit
def correct(mean, covariance, row, boxes, k, off, edge):  # type: ignore[no-untyped-def]
    """Correct a predicted track by the k-th of the boxes (K, 4) xywh, whose `inaccuracy` is `off`."""
    height = mean[row, 3]
    for i in range(4):
        correct_coordinate(mean, covariance, row, i, boxes[k, i], _noise(i, height, off, edge))


@jit
def box(mean, row):  # type: ignore[no-untyped-def]
    """Left, top, width, height of a state's mean, `row` of (C, 8)."""
    width, height = max(mean[row, 2], LEAST_SIDE), max(mean[row, 3], LEAST_SIDE)
    return mean[row, 0] - width / 2, mean[row, 1] - height / 2, width, height


@jit
def compensate_camera(mean, n, match, boxes, dt, learnt, edge):  # type: ignore[no-untyped-def]
    """Estimate from a provisional matching how the camera has moved since the last frame, and move all tracks along.

    A track's displacement is y_i = camera + own_i with var(own_i) = scatter h_i^2 and var(camera) = shake: a
    random-effects model. `shake` is estimated from the products of different tracks' displacements, of which only the
    camera is common, `scatter` from what is left, both over `camera_memory`. The shift is the mean displacement shrunk
    towards none by how much of its variance is the camera's (James and Stein, 1961).

    Args:
        match: (N,) int64, a box for each row, NONE for none.
        boxes: (K, 4) xywh.
    """
    count, total, squares = 0, 0.0, 0.0
    sums, own, spread = np.zeros(2), np.zeros(2), np.zeros(2)
    for row in range(n):
        if match[row] == NONE:
            continue
        height = mean[row, 3]
        weight = 1.0 / (height * height)
        count += 1
        total += weight
        squares += weight * weight
        for i in range(2):
            y = min(max(boxes[match[row], i] - mean[row, i], -height), height)
            sums[i] += weight * y
            own[i] += weight * weight * y * y
            spread[i] += weight * y * y
    if count < 2:
        return
    fade = np.exp(-dt / max(edge.camera_memory, 1e-9))
    between = total * total - squares
    if not between > 1e-9 * total * total:  # one of the boxes is all that counts
        return
    pairs = between / (total * total) * count
    learnt[PAIRS] = learnt[PAIRS] * fade + pairs
    learnt[SINGLES] = learnt[SINGLES] * fade + count - 1
    for i in range(2):
        displacement = sums[i] / total
        product = (sums[i] * sums[i] - own[i]) / between
        learnt[PAIR_SUM + i] = learnt[PAIR_SUM + i] * fade + product * pairs
        left = spread[i] - total * displacement * displacement
        learnt[SINGLE_SUM + i] = learnt[SINGLE_SUM + i] * fade + left
        shake = max(0.0, learnt[PAIR_SUM + i] / (learnt[PAIRS] + STILL_PAIRS))
        scatter = (learnt[SINGLE_SUM + i] + FIRST_SINGLES * FIRST_SCATTER) / (learnt[SINGLES] + FIRST_SINGLES)
        scatter = max(scatter, LEAST_SCATTER)
        learnt[SHAKE + i], learnt[SCATTER + i] = shake, scatter
        shift = displacement * shake / (shake + scatter / total)
        for row in range(n):
            mean[row, i] += shift
