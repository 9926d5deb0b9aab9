"""Fixtures of the GPU suite: what it needs, or the reason why it is skipped, and the model."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autellix_server.engine.environment import EngineEnvironment
from autellix_server.engine.home import Home
from autellix_server.engine.model import BundledModel
from autellix_server.engine.stages import free_disk_gb
from tests.gpu.suite import DEVICE_VARIABLE, SUITE
from tests.integration.random_llama import EIGHT_B, random_llama

NEEDED_GB = 17
"""Disk for the model of 8 billion parameters, and a little more."""

_LOOK = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The interpreter of an engine environment that can run the suite; without one its tests are skipped."""
    home = Home.from_environment()
    install = f"run: autellix engine install --device {SUITE.device}"
    environment = EngineEnvironment(home, SUITE.device)
    if (state := environment.status().state) != "ready":
        pytest.skip(f"the {SUITE.device} engine environment is {state}; {install}")
    if (state := BundledModel(home).status().state) != "ready":
        pytest.skip(f"the bundled model, whose tokenizer is used, is {state}; {install}")
    if SUITE.device == "cuda":
        seen = subprocess.run([environment.python, "-c", _LOOK], capture_output=True, text=True, check=False)
        if not seen.stdout.strip():
            reason = seen.stderr.strip().rpartition("\n")[2] or "it sees no device"
            pytest.skip(
                f"the engine's torch cannot use CUDA ({reason}); run this on a machine with an H100 of 80 GB "
                f"and a current driver, or rehearse it: {DEVICE_VARIABLE}=cpu make gpu"
            )
    return environment.python


@pytest.fixture(scope="session")
def model(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Llama of random weights, deleted at the end.

    Not those of SGLang's ``--load-format dummy``: with all weights, those of norms too, within a thousandth of 0,
    attention adds next to nothing to the outcome, and wrong KV would go unnoticed.
    """
    folder = tmp_path_factory.mktemp("models") / "random-llama"
    if SUITE.shape is EIGHT_B and (free_gb := free_disk_gb(folder)) < NEEDED_GB:
        pytest.skip(
            f"the model needs {NEEDED_GB} GB and {folder.parent} has {free_gb:.1f} GB free; "
            "set TMPDIR to a folder on a larger disk"
        )
    folder.mkdir()
    yield random_llama(engine_python, folder, SUITE.shape, SUITE.device)
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """Nothing that is started looks for anything on the network."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setitem(os.environ, name, "1")
        yield
