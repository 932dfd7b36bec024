"""Secrets, read from the environment or a file, never from the configuration itself."""

from __future__ import annotations

import os

from edge_tracker.errors import ConfigError

MOST_BYTES = 4096


def read_secret(env: str | None, file: str | None, env_key: str, file_key: str) -> str | None:
    """The secret in a variable or a file, without surrounding white space; None if neither is named.

    Args:
        env, file: name of the environment variable, and path.
        env_key, file_key: the keys of the configuration that name them, for errors.

    Raises:
        ConfigError: the variable is not set, the file cannot be read, or it is empty; or both are named.
    """
    if env is not None and file is not None:
        raise ConfigError(f"{file_key}: {file}: is given as well as {env_key}; give one of the two")
    if env is not None:
        secret = os.environ.get(env, "").strip()
        if not secret:
            raise ConfigError(f"{env_key}: the environment variable {env} is not set, or empty; set it")
        return secret
    if file is None:
        return None
    try:
        with open(file, "rb") as opened:
            data = opened.read(MOST_BYTES + 1)
        secret = data.decode().strip()
    except OSError as error:
        raise ConfigError(f"{file_key}: {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file_key}: {file}: is not text") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{file_key}: {file}: is longer than {MOST_BYTES} bytes, so it is not a secret")
    if not secret:
        raise ConfigError(f"{file_key}: {file}: is empty; write the secret into it")
    return secret
