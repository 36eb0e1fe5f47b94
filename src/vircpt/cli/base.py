"""What all commands share: the options that may stand anywhere, and late import of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from vircpt.cli import complete
from vircpt.cli.session import Session

T = TypeVar("T")


def _set(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value not in (None, False, 0):
            session = context.ensure_object(Session)
            if value != (getattr(session, attribute) or value):
                refuse_twice(parameter.opts[-1], context)
            setattr(session, attribute, value)

    return callback


def _louder(context: click.Context, parameter: click.Parameter, value: int) -> None:
    if value:
        step = -value if parameter.name == "quiet" else value
        context.ensure_object(Session).verbosity += step


def shared_options() -> list[click.Parameter]:
    """The options that are understood before the command and after it."""
    return [
        click.Option(
            ["-d", "--domain"],
            metavar="DOMAIN",
            expose_value=False,
            is_eager=True,  # --version and errors of other options look at them
            callback=_set("domain_name"),
            help="The domain, by name or UUID; VIRCPT_DOMAIN stands in for it.",
            shell_complete=complete.domains,
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_set("json"),
            help="Print one JSON document instead of text.",
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            is_eager=True,
            callback=_louder,
            help="Tell every step on stderr, with the time.",
        ),
        click.Option(
            ["-q", "--quiet"],
            count=True,
            expose_value=False,
            is_eager=True,
            callback=_louder,
            help="Tell errors only; what was asked for is printed all the same.",
        ),
    ]


def refuse_twice(option: str, context: click.Context | None = None) -> NoReturn:
    """A usage error: of two values one would be passed over without a word."""
    raise click.UsageError(f"{option} is given twice", context)


class _Strict(click.Command):
    """Takes no option twice that has one value, and has its short options found at once.

    click looks for `-d` among the long options first, and makes an error message with a
    search for similar ones before it looks among the short ones: that takes 3 ms.
    """

    def make_parser(self, ctx: click.Context) -> Any:
        parser = super().make_parser(ctx)
        parser._long_opt.update(parser._short_opt)
        read = parser.parse_args

        def read_strictly(args: list[str]) -> Any:
            found = read(args)
            for option, times in Counter(found[2]).items():
                if times > 1 and _has_one_value(option) and not ctx.resilient_parsing:
                    refuse_twice(option.opts[-1], ctx)
            return found

        parser.parse_args = read_strictly  # type: ignore[method-assign]
        return parser


def _has_one_value(parameter: click.Parameter) -> bool:
    flag = isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count)
    return not (flag or parameter.multiple)


class Command(_Strict):
    """A command that understands the shared options as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(shared_options())


class LazyGroup(_Strict, click.Group):
    """A group whose commands are imported when they are used.

    `homes` maps each command to its module in this package, and to the line it has in the
    group's help: showing help imports nothing.
    """

    def __init__(self, *args: Any, homes: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.homes = homes

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.homes)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.homes:
            return None
        module = import_module(f"vircpt.cli.{self.homes[name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if context.resilient_parsing:  # TAB: nothing may be printed into the line
            return super().resolve_command(context, args)
        if name not in self.homes and not name.startswith("-"):
            hint = self._what_was_meant(name, args[1:])
            raise click.UsageError(f"No such command {name!r}. {hint}", context)
        return super().resolve_command(context, args)

    def _what_was_meant(self, name: str, rest: list[str]) -> str:
        import difflib
        import shlex

        if rest and rest[0] in self.homes:  # virsh takes the domain so, but after the command
            return f"Did you mean vircpt -d {shlex.join([name, *rest])}?"
        near = difflib.get_close_matches(name, self.homes, 1)
        return f"Did you mean {near[0]}?" if near else "See vircpt --help."

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.homes.items()])


class NewFile(click.Path):
    """The path of a file that is to be made; neither nothing nor stdout."""

    def __init__(self, *, or_directory: bool = False) -> None:
        super().__init__(path_type=Path, dir_okay=or_directory)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) in ("", "-"):
            self.fail("a file is needed" + (": stdout can't be one" if value else ""), param, ctx)
        return super().convert(value, param, ctx)


def one_name(option: str | None, argument: str | None, *, needed: bool = True) -> str | None:
    """The checkpoint that is named by --name or as an argument; both forms are understood."""
    if option is not None and argument is not None and option != argument:
        raise click.UsageError(f"two names are given: {option} and {argument}")
    name = argument if option is None else option
    if needed and name is None:
        raise click.UsageError("no checkpoint is named: use --name NAME")
    return name


def _one_each(
    _context: click.Context, parameter: click.Parameter, targets: tuple[str, ...]
) -> tuple[str, ...]:
    for one in targets:
        if "," in one:
            option = parameter.opts[0]
            several = " ".join(f"{option} {target}" for target in one.split(","))
            raise click.UsageError(f"{option} takes one disk at a time: {several}")
    return targets


def disk_options(verb: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """--disk and --exclude."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        function = click.option(
            "--exclude",
            multiple=True,
            metavar="TARGET",
            callback=_one_each,
            shell_complete=complete.disks,
            help=f"Leave this disk out when {verb}; may be repeated.",
        )(function)
        return click.option(
            "--disk",
            "disks",
            multiple=True,
            metavar="TARGET",
            callback=_one_each,
            shell_complete=complete.disks,
            help="Only this disk, such as vda; may be repeated.",
        )(function)

    return decorate


def timeout_option(
    help_text: str, *, default: float, least: float = 0.1
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """--timeout, in seconds."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=least, max=86400),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=help_text,
    )


def freeze_options(function: Callable[..., T]) -> Callable[..., T]:
    """--no-freeze, --require-freeze and --freeze-limit."""
    function = click.option(
        "--freeze-limit",
        type=click.FloatRange(min=0.1, max=600),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="Thaw after this time at the latest.",
    )(function)
    function = click.option(
        "--require-freeze", is_flag=True, help="Fail if the guest's file systems can't be frozen."
    )(function)
    return click.option("--no-freeze", is_flag=True, help="Don't freeze the guest's file systems.")(
        function
    )


def freeze_policy(no_freeze: bool, require_freeze: bool) -> Any:
    """The policy that the options ask for."""
    from vircpt.api import Freeze

    if no_freeze and require_freeze:
        raise click.UsageError("--no-freeze and --require-freeze exclude each other")
    if require_freeze:
        return Freeze.REQUIRE
    return Freeze.NEVER if no_freeze else None
