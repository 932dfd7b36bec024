"""The parameters of exact DeepSORT."""

from __future__ import annotations

from typing import NamedTuple


class DeepSortParameters(NamedTuple):
    """The parameters that only this method has.

    Attributes:
        max_iou_distance: largest 1 - IoU at which the IoU stage matches.
        max_age: frames a confirmed track lives without a detection.
        n_init: hits that confirm a track; before that a single miss ends it.
        max_cosine_distance: largest cosine distance at which the cascade matches.
        nn_budget: features a track's gallery holds, the newest ones; None for no limit.
        gating_only_position: gate on the centre alone instead of on centre, aspect ratio and height.
    """

    max_iou_distance: float = 0.7
    max_age: int = 30
    n_init: int = 3
    max_cosine_distance: float = 0.2
    nn_budget: int | None = 100
    gating_only_position: bool = False
