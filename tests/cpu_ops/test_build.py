"""Which file the compiled operations are in, and how it comes to be."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from autellix_server.cpu_ops import build

X86 = "processor\t: 0\nflags\t\t: fpu sse2 avx2\n\nprocessor\t: 1\nflags\t\t: fpu sse2 avx2\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd sve\nCPU part\t: 0xd40\n"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a machine of this test's own in place of the one it runs on, and return the file that describes its CPU."""
    cpu_info, native = tmp_path / "cpuinfo", tmp_path / "native"
    cpu_info.write_text(X86)
    shutil.copytree(build._NATIVE, native)
    monkeypatch.setattr(build, "_CPU_INFO", cpu_info)
    monkeypatch.setattr(build, "_NATIVE", native)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return cpu_info


class FakeCompiler:
    """Writes what it is told to, or fails; `command` is the last one it was run by."""

    def __init__(self, status: int = 0, leaves: bytes | None = b"code") -> None:
        self.command: list[str] = []
        self._status = status
        self._leaves = leaves

    def __call__(self, command: Sequence[str]) -> int:
        """Run a command."""
        self.command = list(command)
        if self._leaves is not None:
            Path(command[command.index("-o") + 1]).write_bytes(self._leaves)
        return self._status


def program(folder: Path, name: str) -> str:
    """Make a program and return its path."""
    folder.mkdir(exist_ok=True)
    (folder / name).touch(mode=0o755)
    return str(folder / name)


def test_the_same_machine_and_sources_have_one_file(machine: Path) -> None:
    """Whatever order the kernel has the CPU's features in."""
    before = build.library(Path("/operations"))
    machine.write_text(X86.replace("fpu sse2 avx2", "avx2 fpu sse2"))
    assert build.library(Path("/operations")) == before
    assert before.parent == Path("/operations")
    assert before.suffix == ".so"


@pytest.mark.parametrize("cpu_info", [X86.replace("avx2", "avx2 avx512f"), ARM, ""])
def test_another_cpu_has_another_file(machine: Path, cpu_info: str) -> None:
    """A folder may be shared by machines, and code for one would end the process on the next."""
    before = build.library(Path())
    machine.write_text(cpu_info)
    assert build.library(Path()) != before


def test_arm_features_count(machine: Path) -> None:
    """The kernel has another word for them there."""
    machine.write_text(ARM)
    before = build.library(Path())
    machine.write_text(ARM.replace(" sve", ""))
    assert build.library(Path()) != before


def test_other_flags_have_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for the architecture among them."""
    before = build.library(Path())
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-funroll-loops"))
    unrolled = build.library(Path())
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert len({before, unrolled, build.library(Path())}) == 3


def test_every_source_counts() -> None:
    """Its name too; what is included is not listed anywhere else."""
    seen = {build.library(Path())}
    for source in sorted(build._NATIVE.iterdir()):
        source.write_text(source.read_text() + "\n")
        seen.add(build.library(Path()))
    source.rename(source.with_name("other.h"))
    seen.add(build.library(Path()))
    assert len(seen) == 2 + len(list(build._NATIVE.iterdir()))


@pytest.mark.parametrize(("architecture", "flag"), [("x86_64", "-march=native"), ("aarch64", "-mcpu=native")])
def test_the_compiler_is_told_the_cpu_it_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, flag: str
) -> None:
    """In its own words for each architecture."""
    monkeypatch.setattr("platform.machine", lambda: architecture)
    compiler = FakeCompiler()
    assert build.build(("/bin/ccache", "g++"), tmp_path / "new" / "ops.so", compiler)
    assert compiler.command[:2] == ["/bin/ccache", "g++"]
    assert compiler.command[-1] == str(build._NATIVE / "ops.cpp")
    assert {flag, "-shared", "-fPIC"} <= set(compiler.command)


def test_a_library_appears_complete(tmp_path: Path) -> None:
    """The compiler writes elsewhere, and nothing but the library is left."""
    target = tmp_path / "folder" / "ops.so"
    compiler = FakeCompiler()
    assert build.build(("g++",), target, compiler)
    assert str(target) not in compiler.command
    assert [file.read_bytes() for file in target.parent.iterdir()] == [b"code"]


@pytest.mark.parametrize("leaves", [None, b"half"])
def test_a_compiler_that_fails_changes_nothing(tmp_path: Path, leaves: bytes | None) -> None:
    """Not even a library that is there; what it began is gone."""
    target = tmp_path / "folder" / "ops.so"
    target.parent.mkdir()
    target.write_bytes(b"good")
    assert not build.build(("g++",), target, FakeCompiler(status=1, leaves=leaves))
    assert [file.read_bytes() for file in target.parent.iterdir()] == [b"good"]


def test_a_compiler_is_looked_for_by_its_usual_names(tmp_path: Path) -> None:
    """The system's default goes first."""
    environ = {"PATH": str(tmp_path / "bin")}
    assert build.compiler(environ) is None
    clang = program(tmp_path / "bin", "clang++")
    assert build.compiler(environ) == (clang,)
    default = program(tmp_path / "bin", "c++")
    assert build.compiler(environ) == (default,)
    assert build.compiler(environ | {"CXX": ""}) == (default,)


def test_the_variable_decides(tmp_path: Path) -> None:
    """Arguments included; what cannot be run is not replaced by something else, and named."""
    gcc, ccache = program(tmp_path / "bin", "g++"), program(tmp_path / "bin", "ccache")
    environ = {"PATH": str(tmp_path / "bin")}
    assert build.compiler(environ | {"CXX": "ccache g++"}) == (ccache, "g++")
    assert build.compiler({"PATH": "", "CXX": gcc}) == (gcc,)
    wrong = environ | {"CXX": "/opt/icpx -v"}
    assert build.compiler(wrong) is None
    assert build.no_compiler(wrong) == (
        "CXX is /opt/icpx -v, which cannot be run",
        "unset CXX or let it name a C++ compiler",
    )
    assert build.no_compiler({}) == ("no C++ compiler", "install g++")


def test_bfloat16_is_for_cpus_that_have_it(machine: Path) -> None:
    """In the words of either kind of CPU."""
    assert build.has_bfloat16() is False
    machine.write_text(X86.replace("avx2", "avx512_bf16"))
    assert build.has_bfloat16() is True
    machine.write_text(ARM)
    assert build.has_bfloat16() is False
    machine.write_text(ARM.replace("sve", "bf16"))
    assert build.has_bfloat16() is True
