"""The documents: exit codes, schemas, man pages, command lines and links fit the code."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import jsonschema  # type: ignore[import-untyped]
import pytest

from vircpt import errors
from vircpt.api import ExportState, FreezeState, Health, Wanted
from vircpt.cli.main import cli

CHECKOUT = Path(__file__).parents[2]
SCHEMAS = sorted((CHECKOUT / "docs/schemas").glob("*.json"))
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")])
COMMANDS = {
    name: command
    for name in cli.list_commands(click.Context(cli))
    if (command := cli.get_command(click.Context(cli), name))
}


# Exit codes


def test_every_row_of_the_exit_codes_is_complete() -> None:
    text = (CHECKOUT / "docs/exit-codes.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (\S.*) \| (\S.*) \|$", text, re.M)
    found = {code: name for code, name, _, _ in rows if code not in ("Code", "---")}
    owned = {
        str(one.exit_code): name
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, errors.VircptError)
    }
    assert found == {"0": "-", **owned, "128+n": "Interrupted"}


# Schemas


def schemas_in_source() -> set[str]:
    """Every `name/1` that is printed: the literals in calls of output.document, and whole ones."""
    found: set[str] = set()
    for path in (CHECKOUT / "src").rglob("*.py"):
        text = path.read_text()
        found.update(re.findall(r"\b(?:document|line)\(\s*\"([a-z-]+/\d+)\"", text))
        found.update(re.findall(r"\bvircpt/([a-z-]+/\d+)\b", text))
    return found


def test_every_schema_is_printed_and_every_document_has_one() -> None:
    assert {path.stem.rpartition("-")[::2] for path in SCHEMAS} == {
        tuple(one.split("/")) for one in schemas_in_source()
    }


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of a schema that describes an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_schema(path: Path) -> None:
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    name = f"vircpt/{path.stem.rpartition('-')[0]}/{path.stem.rpartition('-')[2]}"
    assert schema["properties"]["schema"] == {"const": name}
    assert schema["title"] == name
    for one in objects(schema):
        assert "additionalProperties" not in one, "fields may be added"
        assert set(one.get("required", ())) <= set(one.get("properties", ()))


def properties(name: str) -> Iterator[tuple[str, Any]]:
    for one in objects(json.loads((CHECKOUT / f"docs/schemas/{name}-1.json").read_text())):
        yield from one.get("properties", {}).items()


@pytest.mark.parametrize(
    ("document", "key", "words"),
    [
        ("list", "health", {one.value for one in Health}),
        ("info", "health", {one.value for one in Health}),
        ("exports", "state", {one.value for one in ExportState}),
        ("boot-test", "until", {one.value for one in Wanted}),
        ("create", "state", {one.value for one in FreezeState}),
        ("export", "state", {one.value for one in FreezeState}),
        ("error", "error", {one for one in vars(errors) if one[0].isupper()} - {"Interrupted"}),
    ],
)
def test_schemas_name_the_words_that_are_used(document: str, key: str, words: set[str]) -> None:
    known = [set(value["examples"]) for name, value in properties(document) if name == key]
    assert known
    assert all(one == words for one in known)


# Man pages

REQUESTS = {".TH", ".SH", ".PP", ".TP", ".IP", ".RS", ".RE", ".nf", ".fi", ".nh", ".ad", '.\\"'}
ESCAPES = re.compile(r"\\(e|-|&|f[BIR]|\((?:bu|ha|ti|ga|aq|dq))")


@pytest.fixture(scope="module")
def man() -> ModuleType:
    loader = SourceFileLoader("man", str(CHECKOUT / "script/man"))
    spec = importlib.util.spec_from_loader("man", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(man: ModuleType) -> dict[str, str]:
    made: dict[str, str] = man.pages()
    return made


def test_there_is_a_page_for_each_command(pages: dict[str, str]) -> None:
    assert set(pages) == {"vircpt.1", *(f"vircpt-{name}.1" for name in COMMANDS)}
    for name in COMMANDS:
        escaped = name.replace("-", r"\-")
        assert rf"\fBvircpt\-{escaped}\fR(1)" in pages["vircpt.1"]
    sources = {path.stem for path in (CHECKOUT / "docs/man").glob("*.md")}
    assert sources == {"vircpt", *COMMANDS}


def test_each_page_has_its_sections(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        found = re.findall(r'^\.SH "?([A-Z ]+)"?$', page, re.M)
        wanted = [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "EXAMPLES",
            "SEE ALSO",
        ]
        assert [one for one in found if one in wanted] == wanted, name


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_explained(name: str, pages: dict[str, str]) -> None:
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option):
            shared = {"-d", "--json", "-v", "-q"} & set(option.opts)
            page = pages["vircpt.1" if shared else f"vircpt-{name}.1"]
            for spelled in option.opts:
                assert rf"\fB{spelled.replace('-', chr(92) + '-')}\fR" in page


def test_the_options_before_the_command_are_explained(pages: dict[str, str]) -> None:
    for option in cli.params:
        for spelled in option.opts:
            assert rf"\fB{spelled.replace('-', chr(92) + '-')}\fR" in pages["vircpt.1"]


def test_pages_hold_no_stray_roff(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        for line in page.splitlines():
            if line.startswith((".", "'")):
                assert line.split()[0] in REQUESTS, f"{name}: {line}"
            else:
                assert "\\" not in ESCAPES.sub("", line), f"{name}: {line}"


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (r"a\b-c", r"a\eb\-c"),
        (".hidden", r"\&.hidden"),
        ("'quoted'", r"\(aqquoted\(aq"),
        ("`-d` and *x*, **y**", r"\fB\-d\fR and \fIx\fR, \fBy\fR"),
        ("`.x`", r"\fB.x\fR"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("~/^", r"\(ti/\(ha"),
    ],
)
def test_text_is_escaped(man: ModuleType, text: str, roff: str) -> None:
    assert man.inline(text) == roff


# What stands in all documents


def shown_commands(path: Path) -> Iterator[str]:
    """Command lines of vircpt in blocks: `$ vircpt …`, or indented in the man pages' sources."""
    text = path.read_text().replace("\\\n", " ")
    if path.parent.name == "man":
        yield from re.findall(r"^    (vircpt .*)$", text, re.M)
    for block in re.findall(r"^```(?:console|sh).*?\n(.*?)^```$", text, re.M | re.S):
        yield from re.findall(r"^(?:\$ )?(vircpt .*)$", block, re.M)


def words_of(line: str) -> list[str]:
    """The words of the first command of a shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            break
        words.append(word)
    return words[1:]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_commands_and_options_that_are_shown_exist(path: Path) -> None:
    for line in shown_commands(path):
        words = ["-" if word.endswith(".xml") else word for word in words_of(line)]
        with cli.make_context("vircpt", words) as context:
            if "--version" in words:
                continue
            name, command, rest = cli.resolve_command(
                context, [*context._protected_args, *context.args]
            )
            assert command, line
            with command.make_context(name, rest, parent=context):
                pass


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} names {target}"


def test_the_files_that_the_architecture_names_exist() -> None:
    text = (CHECKOUT / "ARCHITECTURE.md").read_text()
    for name in re.findall(r"`([\w/.]+(?:\.py|/))`", text):
        if not name.startswith("exports/"):  # those are on a host, not in the checkout
            assert (CHECKOUT / "src/vircpt" / name).exists() or (CHECKOUT / name).exists(), name


def test_the_architecture_names_every_room() -> None:
    text = (CHECKOUT / "ARCHITECTURE.md").read_text()
    for path in (CHECKOUT / "src/vircpt").iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"`{path.name}/`" in text
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert f"`{path.name}`" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_lines_are_not_too_long(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    for line in text.splitlines():
        assert len(line) <= 130 or line.startswith("|"), f"{path.name}: {line}"
