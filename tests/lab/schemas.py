"""JSON documents against their published schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

DIRECTORY = Path(__file__).parents[2] / "docs/schemas"


def path(schema: str) -> Path:
    """The file of `name/1`."""
    return DIRECTORY / f"{schema.replace('/', '-')}.json"


def check(text: str, schema: str) -> Any:
    """The document, which is of that schema and has no field that does not stand there."""
    document = json.loads(text)
    assert document["schema"] == f"vircpt/{schema}"
    jsonschema.Draft202012Validator(
        closed(json.loads(path(schema).read_text())), format_checker=jsonschema.FormatChecker()
    ).validate(document)
    return document


def closed(schema: Any) -> Any:
    """The schema, but that every field must stand in it: ours are to be complete."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    more = {"additionalProperties": False} if "required" in schema else {}
    return {key: closed(value) for key, value in schema.items()} | more
