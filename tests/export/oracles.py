"""The networks' original sources, as test oracles: taken out of package archives, never installed, never copied."""

from __future__ import annotations

import importlib.util
import sys
import tarfile
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.fetch import FetchError, Source, Wheel, fetch


@dataclass(frozen=True)
class SourceArchive:
    """A source distribution, fetched by pip's own client. `pip download` would run its setup code to learn its name;
    this only finds and fetches the archive, so it has to use what pip keeps to itself."""

    name: str
    version: str

    @property
    def address(self) -> str:
        return f"the source archive of {self.name}=={self.version}"

    def download(self, target: Path) -> None:
        try:
            from pip._internal.commands import create_command
            from pip._vendor.packaging.specifiers import SpecifierSet

            command = create_command("index")
            options, _ = command.parse_args(["versions", self.name])
            with command.main_context():
                session = command.get_default_session(options)
                finder = command._build_package_finder(options, session)
                found = finder.find_best_candidate(self.name, SpecifierSet(f"=={self.version}")).best_candidate
                if found is None or found.link.is_wheel:
                    raise FetchError("the index has no such archive")
                answer = session.get(found.link.url_without_fragment, timeout=20)
                answer.raise_for_status()
                target.write_bytes(answer.content)
        except FetchError:
            raise
        except Exception as error:
            raise FetchError(f"pip could not get it ({type(error).__name__}: {error})") from error


def _fetched(name: str, sha256: str, source: Source) -> Path:
    try:
        return fetch(name, sha256, (source,), "The comparison with the original is left out")
    except FetchError as error:
        pytest.skip(f"needs the original network: {error}")


def _module(name: str, source: bytes) -> types.ModuleType:
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def torchreid(file: str) -> types.ModuleType:
    """`osnet` or `osnet_ain` of Torchreid's model definitions (MIT); skips the test where they can't be had."""
    archive = _fetched(
        "torchreid-0.2.5.tar.gz",
        "bc1055c6fb8444968798708dd13fdad00148e9d7cf3cb18cf52f4b949857fe08",
        SourceArchive("torchreid", "0.2.5"),
    )
    with tarfile.open(archive) as members:
        member = members.extractfile(f"torchreid-0.2.5/torchreid/reid/models/{file}.py")
        assert member is not None
        return _module(f"torchreid_{file}", member.read())


def clip() -> types.ModuleType:
    """OpenAI's definition of CLIP (MIT); skips the test where it can't be had."""
    path = _fetched(
        "clip-anytorch-2.6.0-model.py",
        "e33ea73aec9cbf5861257199ba9c683416dffcac22a03daf6858ba548e662911",
        Wheel("clip-anytorch==2.6.0", "clip/model.py"),
    )
    return _module("openai_clip", path.read_bytes())
