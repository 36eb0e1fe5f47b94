"""Parsing and writing XML: what goes in comes out, and documents that attack are harmless."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.errors import InvalidInput, VircptError
from vircpt.hypervisor import xml

# what XML 1.0 can hold, less the carriage return, which ends lines
XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
    | st.sampled_from("\t\n<>&'\"[]")
)


@given(XML_TEXT, XML_TEXT)
def test_any_text_survives_in_elements_and_attributes(text: str, value: str) -> None:
    root = xml.new("top", key=value)
    xml.add(root, "inner", text, key=value)
    again = xml.parse(xml.write(root))
    assert again.get("key") == value
    assert (again.findtext("inner") or "") == text
    assert xml.attribute(again, "inner", "key") == value


@given(XML_TEXT)
def test_text_makes_no_elements_and_attributes(text: str) -> None:
    root = xml.new("top", key=text)
    xml.add(root, "inner", text)
    again = xml.parse(xml.write(root))
    assert [one.tag for one in again.iter()] == ["top", "inner"]
    assert list(again.keys()) == ["key"]


def test_attributes_that_are_none_are_left_out() -> None:
    root = xml.new("top")
    xml.add(root, "inner", a="1", b=None)
    assert xml.write(root) == '<top>\n  <inner a="1" />\n</top>\n'


def test_an_attribute_of_nothing_is_none() -> None:
    assert xml.attribute(xml.parse("<top/>"), "inner", "key") is None
    assert xml.attribute(xml.parse("<top><inner/></top>"), "inner", "key") is None


@pytest.mark.parametrize(
    "text", ["", " ", "text", "<a>", "<a></b>", "<a b='<'/>", "\0", "<a/><b/>"]
)
def test_broken_xml_fails_in_words(text: str) -> None:
    with pytest.raises(VircptError, match="libvirt answered with broken XML"):
        xml.parse(text)
    with pytest.raises(InvalidInput, match=r"x\.xml is no XML"):
        xml.parse_input(text, "x.xml")


def test_files_are_not_read_through_entities(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("precious")
    text = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]><a><b>&x;</b></a>'
    with pytest.raises(VircptError) as caught:
        xml.parse(text)
    assert "precious" not in str(caught.value)


def test_entities_do_not_explode() -> None:
    rows = "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 12))
    text = f'<!DOCTYPE a [<!ENTITY x0 "bomb">{rows}]><a>&x11;</a>'
    with pytest.raises(VircptError, match="broken XML"):
        xml.parse(text)


def test_text_that_no_encoding_knows_is_no_xml() -> None:
    with pytest.raises(InvalidInput, match=r"x\.xml is no XML"):
        xml.parse_input("<a>\ud800</a>", "x.xml")


def test_a_declared_encoding_does_not_garble_text() -> None:
    text = "<?xml version='1.0' encoding='ISO-8859-1'?><a>\u00e4rger</a>"
    assert xml.parse(text).text == "\u00e4rger"
