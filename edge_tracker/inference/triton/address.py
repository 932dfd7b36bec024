"""Addresses of models on a Triton server."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_tracker.errors import ConfigError

FORM = "triton://HOST:PORT/MODEL or triton://HOST:PORT/MODEL/VERSION"

_ADDRESS = re.compile(
    r"triton://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})/(?P<model>[\w.-]+)(?:/(?P<version>\d+))?"
)


def is_served(model: object) -> bool:
    """True if `model` is the address of a model on a server."""
    return isinstance(model, str) and model.lower().startswith("triton:")


@dataclass(frozen=True)
class Address:
    """The address of a model: `triton://HOST:PORT/MODEL`, with `/VERSION` for a fixed version."""

    host: str
    port: int
    model: str
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address.

        Raises:
            ConfigError: not a valid address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ConfigError(f"{text}: not the address of a model; expected {FORM}, gRPC's port (usually 8001)")
        return cls(match["host"], int(match["port"]), match["model"], match["version"] or "")

    def __str__(self) -> str:
        version = f"/{self.version}" if self.version else ""
        return f"triton://{self.host}:{self.port}/{self.model}{version}"
