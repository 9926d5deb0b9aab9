"""Who is compared: what each arm is started as, and which descriptions are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autellix_sdk.errors import UsageError
from autellix_server.engine_bench.arms import OURS, STOCK, command_arm, own_arms


def last(command: list[str], flag: str) -> str:
    """Return the value that counts: the last one that is given."""
    return command[len(command) - command[::-1].index(flag)]


def test_stock_has_nothing_of_ours_and_ours_is_what_is_served() -> None:
    """Attention, operations and plugin are off in the one; the other is left as it comes."""
    stock, ours = own_arms(Path("/engine/python"), "/model", "auto", 16, ())
    assert (stock.name, stock.backend, ours.name, ours.backend) == (STOCK, "torch_native", OURS, None)
    here = {"HOME": "/root"}
    off = {"AUTELLIX_CPU_OPS": "off", "AUTELLIX_POLICY": "off", "AUTELLIX_CPU": "1", "HOME": "/root"}
    assert off.items() <= stock.launch.environment(here).items()
    assert "OMP_WAIT_POLICY" not in stock.launch.environment(here)
    assert stock.launch.environment(here | {"OMP_WAIT_POLICY": "PASSIVE"})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "AUTELLIX_CPU_OPS" not in ours.launch.environment(here)
    assert ours.launch.environment(here)["AUTELLIX_POLICY"] == ours.launch.policy == "auto"
    assert last(stock.launch.command(1, Path("c")), "--attention-backend") == "torch_native"
    assert last(ours.launch.command(1, Path("c")), "--attention-backend") == "autellix_cpu"


def test_slots_and_the_users_arguments_are_alike_in_both() -> None:
    """The user's come last, and win."""
    for arm in own_arms(Path("/engine/python"), "/model", "auto", 32, ("--dtype", "float32")):
        command = arm.launch.command(8123, Path("config"))
        assert last(command, "--max-running-requests") == "32"
        assert command[-2:] == ["--dtype", "float32"]


def test_a_command_line_gets_port_and_model() -> None:
    """Words may be quoted; the file of weights among them is known."""
    arm = command_arm("llama.cpp=serve 'a b' -m here/x.gguf --port={port} {model}", "/model")
    assert arm.launch.command(8123, Path("config")) == ["serve", "a b", "-m", "here/x.gguf", "--port=8123", "/model"]
    assert (arm.name, arm.gguf, arm.sglang) == ("llama.cpp", Path("here/x.gguf"), False)
    assert arm.launch.environment({"A": "b"}) == {"A": "b"}
    assert arm.launch.python == Path(sys.executable)


@pytest.mark.parametrize("text", ["serve --port {port}", "new=serve", "ours=serve {port}", "=serve {port}"])
def test_an_arm_wants_a_new_name_and_a_port(text: str) -> None:
    """The message says what to write."""
    with pytest.raises(UsageError, match=r"write NAME=COMMAND, with a new name and \{port\} for the port"):
        command_arm(text, "/model")


def test_a_quotation_that_never_ends_is_refused() -> None:
    """As a shell would."""
    with pytest.raises(UsageError, match="--server new: the command line cannot be split"):
        command_arm("new=serve '{port}", "/model")
