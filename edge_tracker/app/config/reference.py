"""The reference of all keys of a `cam.yaml`, written from the schema: `python -m edge_tracker.app.config.reference`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from edge_tracker.app.config.schema import CameraConfig, Config, sections_in

HEAD = """\
# Every key of cam.yaml

Written by `python -m edge_tracker.app.config.reference` from the schema that the program checks against.
[configuration.md](configuration.md) explains the sections.

"""


def reference() -> str:
    """The text of docs/configuration-reference.md."""
    return HEAD + "\n".join(_tables(Config, "", "The top level"))


def _tables(section: type[BaseModel], prefix: str, title: str) -> Iterator[str]:
    rows, below = [], []
    for name, info in section.model_fields.items():
        key, says = prefix + name, str(info.description)
        inner = next(sections_in(info.annotation), None)
        if inner is not None:
            place = key + _container(info.annotation)
            says += f" See `{place}`."
            below.append((inner, place))
        rows.append(f"| `{key}` | {_expected(info)} | {_default(info)} | {says} |")
    yield f"## {title}\n\n{_first_line(section)}\n\n| key | expected | default | meaning |\n| --- | --- | --- | --- |"
    yield "\n".join(rows) + "\n"
    for inner, place in below if section is not CameraConfig else ():  # a camera's are as the top level's
        yield from _tables(inner, place + ".", f"`{place}`")


def _container(annotation: Any) -> str:
    """The text after the key of a list or a mapping of sections."""
    kinds = {get_origin(option) for option in (annotation, *get_args(annotation))}
    return "[]" if list in kinds else ".NAME" if dict in kinds else ""


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().split("\n")[0]


def _expected(info: FieldInfo) -> str:
    if get_origin(info.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(info.annotation))
    extra = info.json_schema_extra
    return str(extra["expects"]) if isinstance(extra, dict) else ""


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return "must be given"
    if isinstance(info.default, BaseModel) or info.default == {}:
        return ""
    return f"`{json.dumps(info.default) if not isinstance(info.default, str) else info.default}`"


if __name__ == "__main__":
    print(reference(), end="")
