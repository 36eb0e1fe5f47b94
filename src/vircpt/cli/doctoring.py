"""What the doctor says: verdicts, findings, explanations; and its questions before a repair."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from vircpt import knowledge
from vircpt.cli import output
from vircpt.cli.session import Session
from vircpt.errors import NotFound, VircptError

if TYPE_CHECKING:
    from vircpt.api import Examination, Finding, Repair

_INPUT_LIMIT = 1 << 20


@dataclass(frozen=True)
class Policy:
    """What a repair may do: `yes` to what is ours, `foreign` to what is not; `asks` a person."""

    yes: bool
    foreign: bool
    asks: bool

    def allows(self, finding: Finding, repair: Repair) -> bool:
        safety = repair.safety.value
        if safety == "safe" or (self.yes and (safety == "destructive" or self.foreign)):
            return True
        if not self.asks or not sys.stdin.isatty():
            return False
        domain = f" of domain {finding.domain}" if finding.domain else ""
        return click.confirm(output.safe(f"{finding.title}{domain}: {repair.text}?"), err=True)


def repair(
    session: Session, examined: Examination, policy: Policy
) -> tuple[list[Finding], list[tuple[Finding, str]]]:
    """Carry out what the policy allows; what was repaired, and what failed with the reason."""
    done: list[Finding] = []
    failed: list[tuple[Finding, str]] = []
    tried: set[object] = set()
    for finding in examined.findings:
        if finding.repair is None or (finding.domain, finding.repair) in tried:
            continue
        tried.add((finding.domain, finding.repair))
        if not policy.allows(finding, finding.repair):
            output.message(session, output.safe(f"not repaired: {finding.repair.text}"))
            continue
        try:
            session.host.repair(finding)
        except VircptError as error:
            failed.append((finding, error.describe()))
            continue
        done.append(finding)
    return done, failed


def show(
    session: Session,
    examined: Examination,
    repaired: Sequence[Finding],
    failed: Sequence[tuple[Finding, str]],
    *,
    dry_run: bool,
) -> None:
    """The whole examination, after the repairs if there were any."""
    if session.json:
        output.document(
            "doctor/1",
            healthy=not examined.is_broken,
            dry_run=dry_run,
            domains=examined.domains,
            findings=[_described(one) for one in examined.findings],
            repaired=[_described(one) for one in repaired],
            failed=[{**_described(one), "why": why} for one, why in failed],
        )
        return
    for one in repaired:
        assert one.repair
        output.done(session, output.safe(f"repaired: {one.repair.text}"))
    for finding, why in failed:
        output.message(session, f"not repaired: {output.safe(finding.id)}: {output.safe(why)}")
    _show_verdicts(examined)
    for one in examined.findings:
        _show_finding(one)
    _show_sum(session, examined)


def show_plan(session: Session, examined: Examination) -> None:
    """What --fix would do."""
    for one in examined.findings:
        if one.repair and not session.json:
            asks = {"safe": "", "destructive": " (asks first)", "foreign": " (asks first; foreign)"}
            would = f"would repair {one.id}: {one.repair.text}{asks[one.repair.safety.value]}"
            output.result(output.safe(would))


def _described(one: Finding) -> dict[str, Any]:
    return {"severity": one.severity.value, "title": one.title, **output.plain(one)}


def _show_verdicts(examined: Examination) -> None:
    rows = [
        [one.name, verdict.checkpoint or f"({verdict.bitmap})", verdict.target, verdict.state.value]
        for one in examined.domains
        for verdict in one.verdicts
    ]
    if rows:
        output.result(output.table(["DOMAIN", "CHECKPOINT", "DISK", "VERDICT"], rows))
    for one in examined.domains:
        if one.failed:
            output.result(output.safe(f"domain {one.name} could not be examined: {one.failed}"))


def _show_finding(one: Finding) -> None:
    where = [
        f"{word} {value}"
        for word, value in (
            ("domain", one.domain), ("disk", one.disk), ("checkpoint", one.checkpoint),
        )
        if value
    ]  # fmt: skip
    place = f" ({', '.join(where)})" if where else ""
    output.result(output.safe(f"\n{one.severity.value}: {one.title}{place} [{one.id}]"[1:]))
    output.result(output.safe(f"  why: {one.cause}"))
    output.result(output.safe(f"  so: {one.consequence}"))
    output.result(output.safe(f"  do: {one.advice}"))


def _show_sum(session: Session, examined: Examination) -> None:
    counts = {
        word: sum(one.severity.value == word for one in examined.findings)
        for word in ("broken", "warning", "note")
    }
    fixable = any(one.repair for one in examined.findings)
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    output.message(session, f"found: {told}" if told else "all is well")
    if fixable:
        output.message(session, "see what can be repaired: vircpt doctor --dry-run; do it: --fix")


def explain(session: Session, text: str) -> int:
    """Say what a message means; raises NotFound if it is none that we know."""
    if text == "-":
        text = sys.stdin.buffer.read(_INPUT_LIMIT).decode(errors="replace")
    found = knowledge.explain(text)
    if not found:
        raise NotFound(
            "that message is not known here",
            hint="the host's logs may say more: journalctl -u libvirtd, "
            "/var/log/libvirt/qemu/DOMAIN.log; and see vircpt doctor",
        )
    if session.json:
        output.document(
            "explain/1",
            messages=[
                {
                    "id": one.id,
                    "meaning": one.meaning,
                    "hint": one.hint,
                    "error": one.error.__name__,
                    "exit_code": one.error.exit_code,
                    "harmless": one.harmless,
                }
                for one in found
            ],
        )
        return 0
    for one in found:
        output.result(f"[{one.id}]{' (harmless in a log)' if one.harmless else ''}")
        output.result(f"  means: {one.meaning}")
        output.result(f"  do: {one.hint}")
    return 0
