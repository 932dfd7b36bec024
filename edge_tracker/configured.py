"""The function behind `EdgeDeepSort.from_config`.

Configurations lie above the tracker, and imports run downwards only. So the tracker calls what the package's top, which
may import everything, puts here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_tracker.deepsort import EdgeDeepSort

open_configured: Callable[[str | Path | Mapping[str, Any], float | None], EdgeDeepSort]
"""Opens the tracker of a configuration (a YAML file or its content), for a frame rate in frames per second or None."""
