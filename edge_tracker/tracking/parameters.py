"""The parameters that all methods have, and the check that every parameter goes through."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from edge_tracker.errors import InputError


class Common(NamedTuple):
    """The parameters that all methods have.

    Attributes:
        nms_max_overlap: a detection is dropped when more than this share of its area is covered by one of higher
            confidence; 1 for no suppression.
        class_aware: match a track only to detections of its own class.
        drop_invalid: leave out detections with NaN or infinite values instead of refusing the frame.
    """

    nms_max_overlap: float = 1.0
    class_aware: bool = False
    drop_invalid: bool = False


def check(name: str, value: Any, least: float, most: float = np.inf, *, whole: bool = False) -> None:
    """Refuse an argument that is not a finite number from `least` to `most`, or not a whole one.

    Raises:
        InputError: with its name and value.
    """
    good = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not good or not np.isfinite(value) or not least <= value <= most or (whole and int(value) != value):
        limit = "" if most == np.inf else f" and at most {most:g}"
        raise InputError(f"{name}={value!r}: expected a {'whole ' if whole else ''}number of at least {least}{limit}")
