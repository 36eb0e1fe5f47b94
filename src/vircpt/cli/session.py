"""What stands on the command line before and around a command: host, domain, output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vircpt.api import Domain, Host


class Session:
    """The shared options of one run, and the connection that is opened when it is needed."""

    def __init__(self) -> None:
        self.uri: str | None = None
        self.user: str | None = None
        self.domain_name: str | None = None
        self.json = False
        self.verbosity = 0
        self._host: Host | None = None
        self._others: list[Host] = []

    @property
    def host(self) -> Host:
        """The host, connected to on first use."""
        if self._host is None:
            from vircpt.api import connect

            self._host = connect(self.uri, user=self.user, prompt=_prompt())
        return self._host

    def another_host(self, uri: str) -> Host:
        """A second host, for commands that work between two."""
        from vircpt.api import connect

        self._others.append(connect(uri, user=self.user, prompt=_prompt()))
        return self._others[-1]

    @property
    def given_domain(self) -> str | None:
        """The domain named by -d or VIRCPT_DOMAIN, if any."""
        if self.domain_name == "":
            import click

            raise click.UsageError("the domain named by -d is empty")
        return self.domain_name or os.environ.get("VIRCPT_DOMAIN") or None

    @property
    def needed_domain(self) -> str:
        """The domain's name; a usage error if none is given."""
        name = self.given_domain
        if name is None:
            import click

            raise click.UsageError("no domain is named: use -d DOMAIN, or set VIRCPT_DOMAIN")
        return name

    def aim(self, text: str) -> str:
        """The commands in a text, so that they act on the host that this one acts on."""
        if self.uri is None:
            return text
        import re

        from vircpt.errors import quoted

        connect = f"-c {quoted(self.uri)}"
        text = re.sub(r"\bvircpt (?=-d )", lambda _: f"vircpt {connect} ", text)
        return re.sub(r"\bvirsh (?=[a-z])", lambda _: f"virsh {connect} ", text)

    def domain(self) -> Domain:
        """The domain that was named; raises NotFound."""
        name = self.needed_domain  # before a connection is opened
        return self.host.domain(name)

    def close(self) -> None:
        while self._others:
            self._others.pop().close()
        if self._host is not None:
            self._host.close()
            self._host = None


def _prompt() -> Callable[[str, bool], str] | None:
    if not sys.stdin.isatty():
        return None

    def ask(question: str, visible: bool) -> str:
        import click

        return str(click.prompt(question.rstrip(" :"), hide_input=not visible, err=True))

    return ask
