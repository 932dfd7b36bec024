"""Source URIs: their kinds, paths in them, and showing them without credentials. Needs no OpenCV."""

from __future__ import annotations

import os
import re
from pathlib import Path

NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "tcp", "srt", "rtp")
# `gst:` is followed by a GStreamer pipeline, not by slashes.
SCHEMES = (*NETWORK_SCHEMES, "csi", "gst", "file")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_SCHEME = re.compile(r"^(?:([A-Za-z][A-Za-z0-9+.-]*)://|(gst):)", re.IGNORECASE)
# Greedy up to the last '@': a password may contain '@' and '/' unescaped, and it is safer to hide too much.
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)\S*@")
_USERINFO_OF_URI = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://).*@", re.DOTALL)
_USERINFO_IN_QUOTES = re.compile(r"""(["'])([A-Za-z][A-Za-z0-9+.-]*://)(?:(?!\1).)*@""", re.DOTALL)
# Properties of elements of a GStreamer pipeline: user-id=me user-pw="a b" passphrase=x.
_SECRET_PROPERTY = re.compile(
    r"""(?<![?&;\w-])((?:[a-z]+-)*(?:user-id|user-pw|proxy-id|proxy-pw|username|passw\w*|passphrase|pwd|secret|token"""
    r"""|(?:api|access|secret|signing|private)-key|cookies|extra-headers)\s*=\s*(?:\([a-z]+\)\s*)?)"""
    r"""("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|(?:\\.|[^\s'"\\])+)""",
    re.IGNORECASE,
)
_SECRET_QUERY = re.compile(
    r"([?&;](?:[^=&\s'\"]*(?:pass|pwd|secret|token|key|auth|sig|user|login|credential)[^=&\s'\"]*)=)[^&\s'\"]*",
    re.IGNORECASE,
)
_NUMBER_PATTERN = re.compile(r"%(?:0?\d*)d")


def redact(text: object) -> str:
    """`text` with user names, passwords and tokens of the URIs in it replaced by `***`."""
    text = _USERINFO_OF_URI.sub(r"\1***@", str(text))
    text = _USERINFO.sub(r"\1***@", _USERINFO_IN_QUOTES.sub(r"\1\2***@", text))
    return _SECRET_QUERY.sub(r"\1***", _SECRET_PROPERTY.sub(r"\1***", text))


def scheme_of(uri: str | int) -> str | None:
    """The scheme of a URI in lower case (`gst` for `gst:PIPELINE`), or None for a path or a camera number."""
    match = _SCHEME.match(uri) if isinstance(uri, str) else None
    return (match.group(1) or match.group(2)).lower() if match else None


def camera_index(uri: str | int) -> int | None:
    """The number of a camera (`0`, `"0"`), or None."""
    if isinstance(uri, int):
        return uri
    return int(uri) if re.fullmatch(r"\d{1,3}", uri) else None


def is_path(uri: str | int) -> bool:
    """True if `uri` names something in the file system."""
    return camera_index(uri) is None and scheme_of(uri) in (None, "file")


def resolve_source(uri: str | int, folder: Path) -> str | int:
    """`uri` with a path made absolute against `folder`; anything else unchanged."""
    if not is_path(uri):
        return uri
    text = str(uri)
    if scheme_of(text) == "file":
        text = text[len("file://") :]
    return absolute(text, folder)


def absolute(path: str, folder: Path) -> str:
    """A path relative to `folder` as an absolute one; without `..`, unless that follows a link and leads elsewhere."""
    joined = os.path.join(folder, os.path.expanduser(path))
    short = os.path.normpath(joined)
    return short if os.path.realpath(short) == os.path.realpath(joined) else joined


def number_pattern(name: str) -> re.Pattern[str] | None:
    """An expression for the file names of a pattern with one `%d` or `%06d`, with the number as group 1; or None."""
    match = _NUMBER_PATTERN.search(name)
    if match is None:
        return None
    width = re.sub(r"\D", "", match.group())
    digits = rf"(\d{{{int(width)},}})" if width else r"(\d+)"
    return re.compile(re.escape(name[: match.start()]) + digits + re.escape(name[match.end() :]))
