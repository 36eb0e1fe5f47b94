"""Names of checkpoints: which are accepted, which may be looked up, and those by date."""

from __future__ import annotations

import re
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt import names
from vircpt.errors import InvalidInput

FIRST = string.ascii_letters + string.digits + "_"
GOOD = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,239}", fullmatch=True)


@given(GOOD)
def test_good_names_are_accepted_as_they_are(name: str) -> None:
    assert names.is_good(name)
    assert names.check(name) == name
    assert names.check_lookup(name) == name


@given(st.text(max_size=300))
def test_whatever_is_accepted_can_be_a_file_name_and_no_option(name: str) -> None:
    if not names.is_good(name):
        with pytest.raises(InvalidInput):
            names.check(name)
        return
    assert name[0] in FIRST
    assert name.isascii()
    assert not set(name) & set("/\\\0\n\t '\"<>&;|$`*?")
    assert len(f"{name}.xml") <= 255


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../etc", "a/b", "/abs", "-rf", "--name", " a", "a ", "a b", "a\n", "\n", "a\0",
     "ä", "a\u202eb", "<x/>", "a'b", 'a"b', "$(id)", "a;b", "a\\b", "~", "a:b", "a@b", "a,b"],
)  # fmt: skip
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        names.check(name)
    assert caught.value.why
    assert caught.value.hint


def test_a_name_may_have_240_characters_and_no_more() -> None:
    assert names.is_good("a" * 240)
    with pytest.raises(InvalidInput, match="it has 241 characters"):
        names.check("a" * 241)


def test_the_message_about_a_long_name_is_short() -> None:
    with pytest.raises(InvalidInput) as caught:
        names.check("a" * 100_000)
    assert len(caught.value.describe()) < 300


@pytest.mark.parametrize("name", ["friday", "-x", "--name", "-", "_", "2026-11-23T17.04.05"])
def test_what_libvirts_schema_allows_can_be_looked_up(name: str) -> None:
    assert names.check_lookup(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../x", "/x", "-/x", "a\0b", "a\nb", "a b", "-a b"]
)
def test_paths_are_not_looked_up(name: str) -> None:
    with pytest.raises(InvalidInput):
        names.check_lookup(name)


@given(st.text())
def test_what_may_be_looked_up_is_no_path(name: str) -> None:
    try:
        names.check_lookup(name)
    except InvalidInput:
        return
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name)


def test_a_name_by_date_tells_the_local_time() -> None:
    moment = time.mktime((2026, 11, 23, 17, 4, 5, 0, 0, -1))
    assert names.by_date(frozenset(), moment) == "2026-11-23T17.04.05"


def test_a_name_by_date_is_of_now_by_default() -> None:
    before = names.by_date(frozenset(), time.time())
    assert before <= names.by_date(frozenset()) <= names.by_date(frozenset(), time.time() + 1)


@given(st.integers(0, 4_000_000_000), st.integers(0, 40))
def test_a_name_by_date_is_good_and_never_taken(moment: int, count: int) -> None:
    taken: frozenset[str] = frozenset()
    for _ in range(count):
        name = names.by_date(taken, moment)
        assert name not in taken
        assert names.is_good(name)
        taken |= {name}


def test_names_of_the_same_second_are_numbered() -> None:
    first = names.by_date(frozenset(), 0)
    second = names.by_date(frozenset({first}), 0)
    third = names.by_date(frozenset({first, second}), 0)
    assert [second, third] == [f"{first}-2", f"{first}-3"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d\.\d\d\.\d\d", first)
