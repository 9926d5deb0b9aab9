"""Who is compared: what each arm is started as, and which descriptions are refused."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from autellix_sdk.errors import UsageError
from autellix_server.gateway_bench.arms import OwnArm, command_arm, names_of

URL = "http://127.0.0.1:8001"


def test_a_command_line_gets_port_and_engine(tmp_path: Path) -> None:
    """Words may be quoted."""
    launch = command_arm("new=serve 'a b' --port={port} --base {engine}/v1").launch(URL, tmp_path)
    assert launch.command(8123, Path()) == ["serve", "a b", "--port=8123", "--base", f"{URL}/v1"]
    assert launch.environment({"A": "b"}) == {"A": "b"}


def test_ours_shares_a_secret_with_the_engine(tmp_path: Path) -> None:
    """Which no command line shows."""
    launch = OwnArm(("--lease-s", "60")).launch(URL, tmp_path)
    command = launch.command(8123, Path())
    assert command[:3] == [sys.executable, "-m", "autellix_server"]
    assert command[3:8] == ["serve", "--port", "8123", "--lease-s", "60"]
    assert command[8] == "--engines-file"
    (engine,) = tomllib.loads(Path(command[9]).read_text())["engine"]
    assert engine["url"] == URL
    secret = launch.environment({})[engine["secret_env"]]
    assert len(bytes.fromhex(secret)) == 16
    assert secret not in " ".join(command) + repr(launch)


@pytest.mark.parametrize(
    "text", ["serve {port} {engine}", "new=serve {port}", "new=serve {engine}", "ours=x {port} {engine}"]
)
def test_an_arm_wants_a_new_name_a_port_and_an_engine(text: str) -> None:
    """The message says what to write."""
    with pytest.raises(UsageError, match=r"write NAME=COMMAND, with a new name, \{port\} for the port and \{engine\}"):
        command_arm(text)


def test_a_quote_that_is_not_closed_is_refused() -> None:
    """With the name of the arm."""
    with pytest.raises(UsageError, match="--server new: the command line cannot be split: No closing quotation"):
        command_arm("new=serve ' {port} {engine}")


def test_two_arms_of_one_name_are_refused() -> None:
    """Their figures could not be told apart."""
    arm = command_arm("new=serve {port} {engine}")
    with pytest.raises(UsageError, match="several --server have the same name"):
        names_of([arm, arm])
