"""The address to listen on, and the token that requests need."""

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
    """The address to listen on, and what requests need.

    Attributes:
        family: of the address.
        ip: the address in numbers.
        token: that all requests but /healthz need; None for none.
        hosts: names by which the server may be called: a page of another site that has its own name point to this
            machine would be called by that. None where the token tells.
    """

    family: socket.AddressFamily
    ip: str
    token: str | None = field(repr=False)
    hosts: frozenset[str] | None


def access_of(config: ServerConfig) -> Access:
    """What a configuration asks for.

    Raises:
        ConfigError: there is no such address, or the token is missing, too short or unreadable.
    """
    family, ip, loopback = _resolve(config.host)
    hosts = frozenset({"localhost", "127.0.0.1", "::1", config.host.lower()}) if loopback else None
    return Access(family, ip, _token_of(config, loopback), hosts)


def _resolve(host: str) -> tuple[socket.AddressFamily, str, bool]:
    """Family, numerical address, and whether it is loopback.

    Raises:
        ConfigError: there is no such address.
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
    """The token that requests need, or None.

    Raises:
        ConfigError: it is missing where the address is not loopback, too short, or unreadable.
    """
    token = read_secret(config.token_env, config.token_file, "server.token_env", "server.token_file")
    key = "server.token_env" if config.token_env is not None else "server.token_file"
    if token is None:
        if loopback:
            return None
        raise ConfigError(
            f"server.token_file: missing; server.host {config.host} can be reached from other machines, so requests "
            "need a token: give server.token_file or server.token_env, or listen on 127.0.0.1"
        )
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(f"{key}: the token has characters that are not plain letters, digits and signs")
    if len(token) < MIN_TOKEN_LENGTH:
        raise ConfigError(
            f"{key}: the token has {len(token)} characters; it needs at least {MIN_TOKEN_LENGTH}, such as "
            "`openssl rand -hex 16` gives"
        )
    return token
