"""The function behind `EdgeDeepSort.from_config`.

Configurations lie above the tracker, and imports run downwards only. So the package's top, which may import everything,
puts a function here that the tracker calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

open_configured: Callable[[str | Path | Mapping[str, Any], float | None], Any]
"""Opens the `EdgeDeepSort` of a configuration, given as a YAML file or its content, for so many frames a second."""
