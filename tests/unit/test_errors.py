"""Errors: each class owns an exit code, they are documented, and they describe themselves."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from vircpt import errors
from vircpt.errors import Interrupted, VircptError

EXIT_CODES = Path(__file__).parents[2] / "docs" / "exit-codes.md"

OWNED = {
    "VircptError": 1,
    "InvalidInput": 2,
    "PartlyDone": 3,
    "Mismatch": 4,
    "MalwareFound": 5,
    "NotFound": 10,
    "Busy": 11,
    "NotSupported": 12,
    "BrokenChain": 13,
    "HostUnreachable": 14,
}


def every_error() -> list[type[VircptError]]:
    """VircptError and all classes below it that errors.py defines."""
    return [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, VircptError)
    ]


def test_each_error_has_the_promised_exit_code() -> None:
    assert {one.__name__: one.exit_code for one in every_error()} == OWNED


def test_no_two_errors_share_an_exit_code() -> None:
    codes = [one.exit_code for one in every_error()]
    assert len(codes) == len(set(codes))


def test_each_error_sets_its_exit_code_itself() -> None:
    assert all("exit_code" in vars(one) for one in every_error())


def test_errors_are_told_apart_by_class_alone() -> None:
    assert all(one.__bases__ == (VircptError,) for one in every_error() if one is not VircptError)


def test_the_documentation_lists_exactly_these_exit_codes() -> None:
    rows = re.findall(r"^\|\s*(\d+)\s*\|\s*`?(\w+)`?", EXIT_CODES.read_text(), re.MULTILINE)
    documented = {name: int(code) for code, name in rows if name in OWNED or int(code) > 0}
    assert documented == OWNED


def test_the_documentation_names_no_exit_code_twice() -> None:
    codes = re.findall(r"^\|\s*(\d+)\s*\|", EXIT_CODES.read_text(), re.MULTILINE)
    assert len(codes) == len(set(codes))


def test_the_documentation_tells_of_success_and_of_signals() -> None:
    text = EXIT_CODES.read_text()
    assert re.search(r"^\|\s*0\s*\|", text, re.MULTILINE)
    assert re.search(r"^\|\s*128\s*\+\s*n\s*\|", text, re.MULTILINE)


def test_the_table_in_the_docstring_agrees() -> None:
    rows = re.findall(r"[├└]── (\w+)\s+(\d+)", errors.__doc__ or "")
    rows += re.findall(r"^\s+(VircptError)\s+(\d+)", errors.__doc__ or "", re.MULTILINE)
    assert {name: int(code) for name, code in rows} == OWNED


def test_as_text_it_is_what_and_why() -> None:
    assert str(VircptError("no export")) == "no export"
    assert str(VircptError("no export", why="it ended", hint="start one")) == "no export: it ended"


def test_it_describes_where_it_happened_and_what_to_do() -> None:
    error = VircptError(
        "cannot read", why="gone", hint="look", domain="vm1", disk="vda", checkpoint="friday"
    )
    assert error.describe() == (
        "cannot read (domain vm1, disk vda, checkpoint friday): gone\nhint: look"
    )


def test_a_place_that_the_text_names_is_not_named_twice() -> None:
    assert VircptError("domain vm1 is busy", domain="vm1").describe() == "domain vm1 is busy"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_exits_with_128_and_its_number(signum: signal.Signals) -> None:
    error = Interrupted(signum)
    assert error.exit_code == 128 + signum
    assert str(error) == signum.name


def test_an_interruption_is_not_swallowed_by_except_exception() -> None:
    assert not issubclass(Interrupted, Exception)
