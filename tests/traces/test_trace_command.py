"""`autellix trace`: generate, convert, describe and validate, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autellix_server import cli
from autellix_server.traces.jsonl import read_programs


def test_generate_writes_arrivals_and_scaled_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence says what was written; the same command writes the same file."""
    path = tmp_path / "t.jsonl"
    command = ["trace", "generate", "--workload", "mixed", "--programs", "6", "--rate", "2", "--outputs", "0.5"]
    assert cli.main([*command, "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"Wrote 6 programs to {path}.\n"
    once = path.read_text()
    times = [program.arrival_seconds for program in read_programs(path)]
    assert None not in times
    assert times == sorted(times, key=float)  # type: ignore[arg-type]
    assert {program.scaled for program in read_programs(path)} == {"outputs * 0.5"}
    cli.main([*command, "--output", str(path)])
    assert path.read_text() == once


def test_generate_writes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Then nothing else may be there."""
    command = ["trace", "generate", "--workload", "chat", "--programs", "2", "--output", "-"]
    assert cli.main(command) == 0
    assert [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()] == ["chat", "chat"]
    assert cli.main([*command, "--json"]) == 1
    assert capsys.readouterr().err == "autellix: --json and --output - both want standard output; name a file\n"


def test_generate_names_the_workloads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And leaves no file behind."""
    assert cli.main(["trace", "generate", "--workload", "rag", "--output", str(tmp_path / "t")]) == 1
    assert "there is no workload 'rag'; use one of chat, react, mcts, mixed" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("flag", "value", "remedy"),
    [
        ("--programs", "0", "'0' is not a whole number of 1 or more"),
        ("--programs", "1_0", "'1_0' is not a whole number of 1 or more"),
        ("--context", "1.5", "'1.5' is not a whole number of 1 or more"),
        ("--rate", "inf", "'inf' is not a number above 0"),
        ("--prompts", "x", "'x' is not a number above 0"),
        ("--gaps", "-1", "'-1' is not a number of 0 or more"),
    ],
)
def test_a_wrong_flag_is_named(flag: str, value: str, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With its value and what it should be."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["trace", "generate", "--workload", "chat", "--output", "-", f"{flag}={value}"])
    assert exit_.value.code == 2
    assert f"argument {flag}: {remedy}" in capsys.readouterr().err


def test_describe_shows_each_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table, and as one JSON object with the same numbers."""
    path = str(tmp_path / "t.jsonl.gz")
    cli.main(["trace", "generate", "--workload", "react", "--programs", "20", "--output", path])
    capsys.readouterr()
    assert cli.main(["trace", "describe", path]) == 0
    table = capsys.readouterr().out
    assert "react: 20 programs" in table
    assert cli.main(["trace", "describe", path, "--json"]) == 0
    (kind,) = json.loads(capsys.readouterr().out)["kinds"]
    assert (kind["kind"], kind["programs"], kind["unknown_gaps"]) == ("react", 20, 0)
    assert f"{kind['calls_per_program']['mean']:.2f}" in table
    assert f"{kind['prompt_tokens']['largest']:.0f}" in table


def test_describe_invents_no_gaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the source has no times, there is no row of zeros."""
    path = str(tmp_path / "t.jsonl")
    cli.main(["trace", "generate", "--workload", "chat", "--programs", "3", "--output", path])
    cli.main(["trace", "describe", path])
    shown = capsys.readouterr().out
    assert "no gap is known" in shown
    assert "gap seconds" not in shown


def test_generate_says_how_many_programs_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that nobody takes a shorter trace for the one asked for."""
    command = ["trace", "generate", "--workload", "chat", "--programs", "5", "--context", "3"]
    assert cli.main([*command, "--output", str(tmp_path / "t.jsonl")]) == 0
    assert "Left out: 5 of 5 programs" in capsys.readouterr().err


def test_convert_keeps_what_it_cannot_replace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A conversion that fails half-way leaves the file of its output as it was, and no other."""
    source, target = tmp_path / "a.csv", tmp_path / "t.jsonl"
    source.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\nx,1,2\n")
    target.write_text("kept")
    assert cli.main(["trace", "convert", "--from", "azure", str(source), "--output", str(target)]) == 2
    assert f"{source}:3: field TIMESTAMP" in capsys.readouterr().err
    assert target.read_text() == "kept"
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_convert_may_write_over_what_it_reads(tmp_path: Path) -> None:
    """The source is read to its end before it is replaced."""
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n")
    assert cli.main(["trace", "convert", "--from", "azure", str(path), "--output", str(path)]) == 0
    assert [program.calls[0].prompt_tokens for program in read_programs(path)] == [374]


def test_describe_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file is a trace without programs."""
    (tmp_path / "t.jsonl").touch()
    assert cli.main(["trace", "describe", str(tmp_path / "t.jsonl")]) == 0
    assert "has no programs" in capsys.readouterr().out


def test_validate_names_every_wrong_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to a number that can be read; the exit status says whether all is well."""
    path = tmp_path / "t.jsonl"
    cli.main(["trace", "generate", "--workload", "chat", "--programs", "3", "--output", str(path)])
    capsys.readouterr()
    assert cli.main(["trace", "validate", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: 3 programs are right, 0 lines are wrong.\n"
    whole = path.read_text()
    path.write_text(whole + "{}\n")
    cli.main(["trace", "validate", str(path)])
    assert capsys.readouterr().out == f"{path}: 3 programs are right, 1 line is wrong.\n"
    path.write_text(whole + "{}\n" * 25)
    assert cli.main(["trace", "validate", str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"{path}:4: field calls is missing; write it\n")
    assert "3 programs are right, 25 lines are wrong (the first 20 are shown)." in shown.out
    assert cli.main(["trace", "validate", str(path), "--json"]) == 2
    record = json.loads(capsys.readouterr().out)
    assert (record["programs"], record["wrong"], len(record["errors"])) == (3, 25, 20)


def test_convert_translates_a_foreign_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here one of Azure's."""
    source, target = tmp_path / "a.csv", tmp_path / "t.jsonl"
    source.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n")
    assert cli.main(["trace", "convert", "--from", "azure", str(source), "--output", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(target), "programs": 1}
    assert [program.calls[0].prompt_tokens for program in read_programs(target)] == [374]


def test_convert_without_the_package_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 3: something has to be installed."""
    assert cli.main(["trace", "convert", "--from", "bfcl", "multi_turn_base", "--output", "-"]) == 3
    assert "pip install" in capsys.readouterr().err


def test_a_missing_trace_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, no traceback."""
    assert cli.main(["trace", "describe", "nowhere.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("autellix: nowhere.jsonl: the file cannot be opened: No such file")


@pytest.mark.parametrize("verb", ["generate", "convert", "describe", "validate"])
def test_every_verb_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help has examples and names `--json`."""
    with pytest.raises(SystemExit):
        cli.main(["trace", verb, "--help"])
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert "--json" in shown
