"""Reading what is installed in another environment, without running anything in it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

REPORTED = ("sglang", "torch", "transformers", "autellix")
"""Distributions whose versions a status shows."""


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """An installed torch; `cuda` is the CUDA version it is built for, `None` for a CPU build."""

    version: str
    cuda: str | None


def site_packages(environment: Path) -> Path | None:
    """Return the package folder of a virtual environment, `None` if there is none yet."""
    return next(environment.glob("lib/python3.*/site-packages"), None)


def versions(environment: Path) -> dict[str, str]:
    """Return the versions of the `REPORTED` distributions that are installed in `environment`."""
    packages = site_packages(environment)
    if packages is None:
        return {}
    return {
        name: distribution.version
        for name in REPORTED
        for distribution in distributions(name=name, path=[str(packages)])
    }


def torch_build(environment: Path) -> TorchBuild | None:
    """Return which torch is installed in `environment`, `None` if none is.

    Read from torch's own version file: importing a CUDA build would need the libraries we want to avoid.
    """
    packages = site_packages(environment)
    version_file = packages / "torch" / "version.py" if packages else None
    if version_file is None or not version_file.is_file():
        return None
    values = dict(
        re.findall(r"^(__version__|cuda)\b.*?= *(?:None|['\"](.*)['\"])", version_file.read_text(), re.MULTILINE)
    )
    return TorchBuild(values.get("__version__", "unknown"), values.get("cuda") or None)


def drop_torn(environment: Path) -> None:
    """Make pip install again whatever it was writing when it was killed.

    pip writes `INSTALLER` when all files of a package are in place. A package without it looks installed
    to pip but may lack files; without its metadata folder it is installed anew. What pip was replacing is
    set aside under names that begin with a tilde, and stays for ever when pip is killed.
    """
    packages = site_packages(environment)
    if packages is None:
        return
    torn = [folder for folder in packages.glob("*.dist-info") if not (folder / "INSTALLER").is_file()]
    for folder in {*torn, *packages.glob("~*")}:
        shutil.rmtree(folder)
