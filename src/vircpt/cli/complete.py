"""What TAB offers: names that libvirt knows. Any failure offers nothing, in silence."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vircpt.api import Domain, Host


def domains(context: click.Context, _parameter: click.Parameter, start: str) -> list[str]:
    """Names of domains."""
    try:
        with _host(context) as host:
            return [one.name for one in host.domains() if one.name.startswith(start)]
    except Exception:
        return []


def checkpoints(context: click.Context, _parameter: click.Parameter, start: str) -> list[str]:
    """Names of the domain's checkpoints."""
    try:
        with _host(context) as host:
            names = _domain(context, host).checkpoint_names()
            return sorted(name for name in names if name.startswith(start))
    except Exception:
        return []


def disks(context: click.Context, _parameter: click.Parameter, start: str) -> list[str]:
    """Targets of the domain's disks."""
    try:
        with _host(context) as host:
            facts = _domain(context, host).facts()
            return [one.target for one in facts.disks if one.target.startswith(start)]
    except Exception:
        return []


def _host(context: click.Context) -> Host:
    from vircpt.api import connect

    return connect(context.find_root().params.get("uri"))


def _domain(context: click.Context, host: Host) -> Domain:
    from vircpt.cli.session import Session

    session = context.ensure_object(Session)
    return host.domain(session.domain_name or os.environ.get("VIRCPT_DOMAIN", ""))
