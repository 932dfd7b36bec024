"""Reading a YAML file safely, with the line of each key for error messages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edge_tracker.app.config.uri import redact
from edge_tracker.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
Key = tuple[Any, ...]


@dataclass
class Document:
    """The data of a file, the line of each key, and the keys that the command line overrides."""

    path: Path
    data: dict[str, Any]
    lines: dict[Key, int] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)

    def override(self, key: Key, value: Any, origin: str) -> None:
        """Set `key` for `origin`, an option of the command line, which errors will name.

        Raises:
            ConfigError: a part of `key` that should be a section is a value.
        """
        node = self.data
        for part in key[:-1]:
            child = node.get(part)
            if child is not None and not isinstance(child, dict):
                raise ConfigError(f"{origin}: {'.'.join(key)}: {part} is a value, not a section")
            if child is None:
                child = node[part] = {}
            node = child
        node[key[-1]] = value
        self.origins[key] = origin

    def where(self, key: Key) -> str:
        """File and line of `key`, or of the section that lacks it; or the option that set it; or the file."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.origins:
                return self.origins[key[:end]]
        for end in range(len(key), 0, -1):
            if key[:end] in self.lines:
                return f"{self.path}:{self.lines[key[:end]]}"
            for other, origin in self.origins.items():
                if other[:end] == key[:end]:  # an option alone may have made the section
                    return origin
        return str(self.path)


class _Loader(yaml.SafeLoader):
    """The safe loader, which also reads 1e-3 as a number, as YAML 1.2 does and PyYAML's YAML 1.1 does not."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_document(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: missing, unreadable, not UTF-8, not YAML, empty, not a mapping, or a key occurs twice.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a YAML file (configs/cam.yaml is an example)") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; give a YAML file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{str(path)!r}: cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 10} KiB; this is not a configuration")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start} is {raw[error.start]:#04x})") from None
    lines: dict[Key, int] = {}
    try:
        data = parse_yaml(text, lines)
    except ConfigError as error:
        raise ConfigError(f"{path}{error}") from None
    if data is None:
        raise ConfigError(f"{path}: empty; give at least source.uri (configs/cam.yaml is an example)")
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "a single value"
        raise ConfigError(f"{path}: holds {kind}; expected sections such as source, detector, tracker, outputs")
    return Document(path, data, lines)


def parse_yaml(text: str, lines: dict[Key, int] | None = None) -> Any:
    """The data of YAML text; the line of each key is put into `lines`.

    Raises:
        ConfigError: not valid. The message starts with `:LINE:COLUMN: ` where that is known, else with `: `.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_keys(node, (), {} if lines is None else lines, set(), set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        reason = error.problem or "cannot be parsed"
        if error.context and error.problem:
            reason += f" ({error.context})"
        raise ConfigError(f"{place}: not valid YAML: {_one_line(reason)}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f": not valid YAML: the character {error.character!r} is not allowed") from None
    except RecursionError:
        raise ConfigError(": not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a date such as 2024-99-99
        raise ConfigError(f": not valid YAML: {_one_line(str(error))}") from None


def parse_override(text: str) -> tuple[Key, Any]:
    """Split `a.b=value` into the key `("a", "b")` and the value, which is YAML.

    Raises:
        ConfigError: it has another form.
    """
    name, equals, value = text.partition("=")
    key = tuple(part.strip() for part in name.split("."))
    if not equals or not all(re.fullmatch(r"[\w-]+", part) for part in key):
        raise ConfigError(
            f"--set: {redact(text)!r} is not valid; expected section.key=value, such as tracker.max_age=60"
        )
    try:
        return key, parse_yaml(value)
    except ConfigError as error:
        raise ConfigError(f"--set: {'.'.join(key)}{error}") from None


def _check_keys(node: yaml.Node, prefix: Key, lines: dict[Key, int], above: set[int], done: set[int]) -> None:
    """Store the line of every key, and refuse a key that occurs twice: YAML would silently keep the last.

    `above` are the nodes that contain `node`: an alias can be inside its own anchor. `done` are those visited: a few
    aliases of aliases can stand for billions of nodes.
    """
    if len(prefix) >= MAX_DEPTH or id(node) in above:
        raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=node.start_mark)
    if id(node) in done:
        return
    done.add(id(node))
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        seen: dict[tuple[str, Any], int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
            line = key_node.start_mark.line + 1
            same = (key_node.tag, key_node.value)
            if same in seen:
                problem = f"the key {key_node.value!r} is already in line {seen[same]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen[same] = line
            lines.setdefault((*prefix, key_node.value), line)
            _check_keys(value_node, (*prefix, key_node.value), lines, above, done)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            lines.setdefault((*prefix, i), item.start_mark.line + 1)
            if not isinstance(item, yaml.ScalarNode):
                _check_keys(item, (*prefix, i), lines, above, done)


def _one_line(text: str) -> str:
    return " ".join(text.split())
