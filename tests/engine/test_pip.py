"""What pip's output means."""

from pathlib import Path

import pytest
from fake_installer import FakeInstaller, Notes

from autellix_server.engine.pip import NotOnIndex, Pip, explain, show
from autellix_server.errors import EnvironmentFailure

OFFLINE = [
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/torch/",
    "ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)",
    "ERROR: No matching distribution found for torch==2.13.0",
]
NO_MATCH = [
    "ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: 2.12.0, 2.13.0)",
    "ERROR: No matching distribution found for torch==2.13.0+cpu",
]
DISK_FULL = [
    "Installing collected packages: torch",
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
]


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (OFFLINE, "the package index cannot be reached"),
        (NO_MATCH, "the package index has no torch==2.13.0+cpu for this Python and machine"),
        (DISK_FULL, "the disk is full"),
        (["ERROR: Invalid requirement: 'x y'."], "Invalid requirement: 'x y'"),
        (["Killed"], "it ended without saying why"),
    ],
)
def test_a_failure_is_explained_by_its_cause(lines: list[str], cause: str) -> None:
    """An index that cannot be reached also has no matching file: the first of the two is the cause."""
    assert explain(lines) == cause


def test_output_becomes_steps_and_large_downloads_become_sentences() -> None:
    """Warnings and chatter are not shown; small downloads are steps like any other package."""
    notes = Notes()
    for line in (
        "Looking in indexes: https://index.example/simple",
        "WARNING: Location 'file:///wheels/' is ignored: it is neither a file nor a directory.",
        "Collecting torch==2.13.0",
        "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (191.8 MB)",
        "Processing /wheels/aiohttp-3.14.5-py3-none-any.whl (from -r requirements.txt (line 7))",
        "  Downloading outlines-0.1.11-py3-none-any.whl (87 kB)",
        "Requirement already satisfied: numpy==2.4.6 in ./site-packages (from -r requirements.txt (line 9))",
        "Installing collected packages: torch, aiohttp, outlines",
        "Successfully installed torch-2.13.0",
    ):
        show(line, notes)
    assert notes.said == ["  downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (192 MB)"]
    assert notes.steps == ["torch==2.13.0", "aiohttp-3.14.5-py3-none-any.whl", "numpy==2.4.6", "unpacking 3 packages"]


def test_a_failure_names_the_command_the_cause_and_the_log() -> None:
    """One sentence has all that is needed to go on."""
    installer = FakeInstaller()
    installer.failures = {"install": DISK_FULL}
    pip = Pip(Path("/engine/bin/python"), installer, Path("/logs/install-cpu.log"))
    with pytest.raises(EnvironmentFailure) as failure:
        pip.run("install", "torch", progress=Notes())
    assert str(failure.value) == "pip install failed: the disk is full (log: /logs/install-cpu.log)"


def test_a_missing_file_is_told_from_other_failures() -> None:
    """Callers have a remedy for this one."""
    installer = FakeInstaller()
    installer.failures = {"install": NO_MATCH}
    with pytest.raises(NotOnIndex, match=r"has no torch==2\.13\.0\+cpu"):
        Pip(Path("/engine/bin/python"), installer, Path("/log")).run("install", "torch", progress=Notes())
