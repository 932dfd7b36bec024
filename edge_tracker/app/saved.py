"""Parts of a saved state, validated before they are used."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

log = logging.getLogger(__name__)


class Saved(BaseModel):
    """Base class of parts that are saved as JSON."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Saved)


def parse_saved(kind: type[S], state: Any, what: str) -> S | None:
    """The state as `kind`; None, and a line in the log that names `what`, if it is not valid."""
    try:
        return kind.model_validate(state)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        log.warning(
            "saved %s cannot be used and are ignored: %s", what, f"{where}: {first['msg']}" if where else first["msg"]
        )
        return None
