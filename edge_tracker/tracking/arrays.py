"""Arrays in compiled code: names for their kinds, and making, sorting and searching them.

The names are for readers and type checkers, since Numba ignores annotations. Sorting and searching are written out
here because NumPy's own take five to seven times as long to compile in Numba.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from edge_tracker.tracking.jit import jit

NONE = -1  # the place of something that does not exist

Floats: TypeAlias = np.ndarray
Ints: TypeAlias = np.ndarray
Bools: TypeAlias = np.ndarray

# A structured array and one row of it. A row is a view: setting its fields changes the array.
Table: TypeAlias = np.ndarray
Record: TypeAlias = np.void


def extended(base: np.dtype, fields: Sequence[Any]) -> np.dtype:
    """A structured dtype with more fields, as `np.dtype` takes them, after the first of those of another one.

    Not at the end, since Numba takes a record that begins with all fields of another one for that other one.
    """
    assert base.names is not None
    first, *rest = ((name, base[name]) for name in base.names)
    return np.dtype([first, *fields, *rest], align=True)


def as_record(values: Mapping[str, Any]) -> Record:
    """Numbers and truth values by name as a record, which costs little to pass to compiled functions."""
    kinds = {bool: "?", int: "i8", float: "f8"}
    dtype = np.dtype([(name, kinds[type(value)]) for name, value in values.items()], align=True)
    return np.array([tuple(values.values())], dtype=dtype)[0]


@jit
def nones(count: int) -> Ints:
    """(count,) int64 of NONE."""
    values = np.empty(count, dtype=np.int64)
    for i in range(count):
        values[i] = NONE
    return values


@jit
def ascending(values: Floats) -> Ints:
    """Places (N,) int64 of values (N,) in ascending order; equal ones keep their order (a bottom-up merge sort).

    Values that are all NaN count as equal.
    """
    n = values.shape[0]
    places, merged = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    for i in range(n):
        places[i] = i
    width = 1
    while width < n:
        for start in range(0, n, 2 * width):
            middle, end = min(start + width, n), min(start + 2 * width, n)
            left, right = start, middle
            for at in range(start, end):
                if right >= end or (left < middle and not values[places[right]] < values[places[left]]):
                    merged[at] = places[left]
                    left += 1
                else:
                    merged[at] = places[right]
                    right += 1
        places, merged = merged, places
        width *= 2
    return places


@jit
def first_from(ascending_values: Floats, least: float) -> int:
    """The first place in ascending values (N,) whose value is at least `least`; N if there is none."""
    low, high = 0, ascending_values.shape[0]
    while low < high:
        middle = (low + high) // 2
        if ascending_values[middle] < least:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def pushed(values: np.ndarray, count: int, value: float) -> np.ndarray:
    """Values (N,) with one more at place `count`; in a larger array if this one is full.

    `count` is to start as `np.int64(0)`: for a literal 0 Numba would compile another form of this function.
    """
    if count == values.shape[0]:
        larger = np.empty(2 * count + 16, dtype=values.dtype)
        for i in range(count):
            larger[i] = values[i]
        values = larger
    values[count] = value
    return values
