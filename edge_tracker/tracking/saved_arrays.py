"""The arrays of a saved state, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking.arrays import Floats, Ints
from edge_tracker.tracking.tables import CONFIRMED, TENTATIVE


def checked_array(
    state: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...], dtype: np.dtype
) -> np.ndarray:
    """One array of a saved state, checked for its shape (None: any length) and type.

    Raises:
        InputError: it is missing, or has another shape or type.
    """
    array = state.get(name)
    if not isinstance(array, np.ndarray):
        raise InputError(f"tracker state: {name} is missing")
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        raise InputError(f"tracker state: {name} is {array.dtype}{array.shape}, expected {dtype}{shape}")
    return np.array(array, order="C")  # writable: compiled code has one form for that, another for what is not


def check_sense(saved: Mapping[str, np.ndarray], next_id: int) -> None:
    """Refuse a saved state with impossible numbers.

    Raises:
        InputError: with the numbers.
    """
    ids, states = saved["id"], saved["state"]
    if not (np.diff(ids, prepend=0, append=next_id) > 0).all():
        raise InputError(f"tracker state: ids {ids.tolist()} and {next_id} for the next are not in order")
    if not np.isin(states, (TENTATIVE, CONFIRMED)).all():
        raise InputError(f"tracker state: states {states.tolist()}, expected {TENTATIVE} or {CONFIRMED}")
    for name in ("mean", "covariance", "age", "time_since_update", "ltwh"):
        check_finite(name, saved[name])


def check_finite(name: str, array: np.ndarray) -> None:
    """Refuse an array of a saved state with a NaN or infinite value.

    Raises:
        InputError: with its name.
    """
    if not np.isfinite(array).all():
        raise InputError(f"tracker state: {name} has a NaN or infinite value")


def check_features(queue: str, held: Ints, unit: Floats, norm: Floats) -> None:
    """Refuse saved features that are impossible.

    Raises:
        InputError: with the reason.
    """
    if held.min(initial=0) < 0 or norm.min(initial=1) <= 0:
        raise InputError(f"tracker state: {queue} holds less than nothing")
    check_finite(f"{queue}_unit", unit)
    check_finite(f"{queue}_norm", norm)
