"""The address the server listens on, and the token that requests must carry."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field

from edge_tracker.app.config.schema import ServerConfig
from edge_tracker.app.config.secret import read_secret
from edge_tracker.errors import ConfigError

MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class Access:
    """The address to listen on, and the requirements on requests.

    Attributes:
        family: address family.
        ip: numeric address.
        token: required by all requests except /healthz; None if no token is needed.
        hosts: names that a Host header may have, in lower case. They keep out other sites that point a name of their
            own at this machine (DNS rebinding). None allows any name: the token protects the server.
    """

    family: socket.AddressFamily
    ip: str
    token: str | None = field(repr=False)
    hosts: frozenset[str] | None


def access_of(config: ServerConfig) -> Access:
    """The access that a configuration describes.

    Raises:
        ConfigError: the address does not exist, or the token is missing, too short or unreadable.
    """
    family, ip, loopback = _resolve(config.host)
    hosts = frozenset({"localhost", "127.0.0.1", "::1", config.host.lower()}) if loopback else None
    return Access(family, ip, _token_of(config, loopback), hosts)


def _resolve(host: str) -> tuple[socket.AddressFamily, str, bool]:
    """The address family of a host, its numeric address, and True if that is a loopback address.

    Raises:
        ConfigError: the address does not exist.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConfigError(f"server.host: {host} is not an address of this machine: {why}") from None
    family, _, _, _, address = found[0]
    ip = str(address[0])
    return family, ip, ipaddress.ip_address(ip.partition("%")[0]).is_loopback


def _token_of(config: ServerConfig, loopback: bool) -> str | None:
    """The token that requests must carry; None without one, which only a loopback address allows.

    Raises:
        ConfigError: the token is missing, too short or unreadable.
    """
    token = read_secret(config.token_env, config.token_file, "server.token_env", "server.token_file")
    key = "server.token_env" if config.token_env is not None else "server.token_file"
    if token is None:
        if loopback:
            return None
        raise ConfigError(
            f"server.token_file: missing; server.host {config.host} can be reached from other machines, so requests "
            "need a token: set server.token_file or server.token_env, or listen on 127.0.0.1"
        )
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(f"{key}: the token may contain only ASCII letters, digits and punctuation, and no spaces")
    if len(token) < MIN_TOKEN_LENGTH:
        raise ConfigError(
            f"{key}: the token has {len(token)} characters; it needs at least {MIN_TOKEN_LENGTH} "
            "(`openssl rand -hex 16` generates a good one)"
        )
    return token
