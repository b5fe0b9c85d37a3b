"""Errors as text, as JSON and as exit codes."""

from __future__ import annotations

import json

import pytest
import typer

from logcluster.cli.command import CommandFailed, ExitCode, OutputFormat, Settings, exit_code_of, run_reporting
from logcluster.model import errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.UnknownTopicOrPartition(), 3),
        (errors.NotFound(), 3),
        (errors.RequestTimedOut(), 7),
        (errors.BrokerNotAvailable(), 5),
        (errors.NotEnoughReplicas(), 5),
        (errors.Overloaded(), 5),
        (errors.TopicAlreadyExists(), 1),
        (errors.InvalidConfig(), 1),
        (errors.CorruptMessage(), 1),
        (CommandFailed("x", exit_code=ExitCode.UNAVAILABLE), 5),
    ],
)
def test_error_gives_the_documented_exit_code(error: errors.LogClusterError, expected: int) -> None:
    assert exit_code_of(error) == expected


def fail_with(settings: Settings, error: BaseException) -> int:
    def work() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        run_reporting(settings, work)
    return ended.value.exit_code


def test_error_says_what_why_and_what_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(Settings(), errors.UnknownTopicOrPartition("topic 'x' does not exist")) == 3

    said = capsys.readouterr()
    assert said.out == ""
    assert "topic 'x' does not exist" in said.err
    assert "UnknownTopicOrPartition, code 3" in said.err
    assert "next:  create it with `logcluster topic create NAME`" in said.err
    assert "not known" not in said.err


def test_indefinite_error_says_that_the_outcome_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(Settings(), errors.RequestTimedOut())

    assert "it is not known whether the request was applied" in capsys.readouterr().err


def test_error_as_json_has_stable_fields(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.NotLeaderOrFollower("moved", leader_id=2)

    assert fail_with(Settings(output=OutputFormat.JSON), error) == 1

    assert json.loads(capsys.readouterr().err) == {
        "error": {
            "name": "NotLeaderOrFollower",
            "code": 6,
            "message": "moved",
            "hint": "",
            "retriable": True,
            "definite": True,
            "facts": {"leader_id": "2"},
        }
    }


def test_coroutines_are_run_and_ctrl_c_is_no_traceback() -> None:
    ran = []

    async def work() -> None:
        ran.append(True)

    run_reporting(Settings(), work)
    assert ran == [True]
    assert fail_with(Settings(), KeyboardInterrupt()) == 130
