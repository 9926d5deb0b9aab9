"""Where the running Autellix came from, so that the engine environment gets the very same code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import autellix_server
from autellix_server.engine.marker import code_version
from autellix_server.errors import EnvironmentFailure

DISTRIBUTION = "autellix"


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A source that pip can install Autellix from.

    Attributes:
        arguments: for `pip install`.
        identity: equal for equal sources; changes when the copy in an engine environment is out of date.
    """

    arguments: tuple[str, ...]
    identity: str

    @classmethod
    def of_running(cls) -> PackageSource:
        """Return the source of the code that is running.

        Raises:
            EnvironmentFailure: the code runs neither from an installed distribution nor from a checkout.
        """
        checkout = Path(autellix_server.__file__).parent.parent
        try:
            distribution = Distribution.from_name(DISTRIBUTION)
        except PackageNotFoundError:
            if (checkout / "pyproject.toml").is_file():
                return cls.of_directory(checkout)
            raise EnvironmentFailure(
                f"{checkout} holds Autellix but neither an installation nor a checkout; install it with pip"
            ) from None
        recorded = distribution.read_text("direct_url.json")
        return cls.of_direct_url(json.loads(recorded)) if recorded else cls.of_release(distribution.version)

    @classmethod
    def of_release(cls, version: str) -> PackageSource:
        """Return the published release `version`."""
        requirement = f"{DISTRIBUTION}=={version}"
        return cls((requirement,), requirement)

    @classmethod
    def of_directory(cls, directory: Path) -> PackageSource:
        """Return a checkout, to be installed editable.

        Its metadata (entry points above all) is frozen at installation, so the identity covers the project file.
        """
        try:
            project = hashlib.sha256((directory / "pyproject.toml").read_bytes()).hexdigest()
        except OSError as error:
            raise EnvironmentFailure(
                f"Autellix was installed from {directory}, which cannot be read ({error.strerror}); install it again"
            ) from error
        return cls(("--editable", str(directory)), f"{directory} pyproject={project[:16]}")

    @classmethod
    def of_direct_url(cls, record: dict[str, Any]) -> PackageSource:
        """Return the source that a PEP 610 record (`direct_url.json`) describes."""
        url = str(record["url"])
        if "dir_info" in record:
            directory = Path(unquote(urlsplit(url).path))
            if record["dir_info"].get("editable"):
                return cls.of_directory(directory)
            # Installed from a folder that may have moved on since: the identity is that of the code that runs.
            return cls((str(directory),), f"{directory} code={code_version()}")
        if "vcs_info" in record:
            vcs = record["vcs_info"]
            url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        hashes = record.get("archive_info", {}).get("hashes", {})
        return cls((f"{DISTRIBUTION} @ {url}",), f"{url} {hashes}")
