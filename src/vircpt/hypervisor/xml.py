"""Parsing libvirt's XML safely, and writing it: always with lxml, never by pasting strings."""

from __future__ import annotations

from lxml import etree

from vircpt.errors import InvalidInput, VircptError

Element = etree._Element


def parse(text: str) -> Element:
    """The root element of XML that libvirt gave; no entities, no network."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise VircptError("libvirt answered with broken XML", why=str(error)) from error


def parse_input(text: str, source: str) -> Element:
    """The root element of XML that a user gave; raises InvalidInput naming `source`."""
    try:
        return parse(text)
    except VircptError as error:
        raise InvalidInput(f"{source} is no XML", why=error.why) from error


def write(root: Element) -> str:
    """The XML as text, indented by two."""
    etree.indent(root, "  ")
    return etree.tostring(root, encoding="unicode") + "\n"


def add(parent: Element, tag: str, text: str | None = None, **attributes: str | None) -> Element:
    """Append a child to `parent`; attributes that are None are left out."""
    child = etree.SubElement(parent, tag)
    for key, value in attributes.items():
        if value is not None:
            child.set(key, value)
    child.text = text
    return child


def new(tag: str, **attributes: str) -> Element:
    """A root element."""
    root = etree.Element(tag)
    for key, value in attributes.items():
        root.set(key, value)
    return root


def attribute(parent: Element, path: str, key: str) -> str | None:
    """The attribute `key` of the first element at `path` below `parent`."""
    found = parent.find(path)
    return None if found is None else found.get(key)
