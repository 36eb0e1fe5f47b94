"""libvirt's errors into vircpt's: by error code where it is telling, else by the table of texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from vircpt import errors, trace
from vircpt.errors import quoted

_BY_CODE: dict[int, type[errors.VircptError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: errors.NotFound,
    libvirt.VIR_ERR_INVALID_ARG: errors.InvalidInput,
    libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT: errors.NotFound,
    libvirt.VIR_ERR_NO_DOMAIN_BACKUP: errors.NotFound,
    libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT: errors.BrokenChain,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: errors.Busy,
    libvirt.VIR_ERR_AUTH_FAILED: errors.HostUnreachable,
    libvirt.VIR_ERR_AUTH_CANCELLED: errors.HostUnreachable,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: errors.HostUnreachable,
    libvirt.VIR_ERR_ACCESS_DENIED: errors.HostUnreachable,
    libvirt.VIR_ERR_NO_SUPPORT: errors.NotSupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: errors.NotSupported,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: errors.NotSupported,
    libvirt.VIR_ERR_XML_ERROR: errors.InvalidInput,
    libvirt.VIR_ERR_XML_DETAIL: errors.InvalidInput,
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: errors.InvalidInput,
    libvirt.VIR_ERR_INVALID_DOMAIN_CHECKPOINT: errors.InvalidInput,
}


def translate(
    error: libvirt.libvirtError,
    what: str,
    *,
    domain: str | None = None,
    checkpoint: str | None = None,
    disk: str | None = None,
) -> errors.VircptError:
    """The vircpt error for `error`, which happened while doing `what`."""
    from vircpt import knowledge  # a long table, of use only when something failed

    message = error.get_error_message() or str(error)
    riddle = knowledge.recognise(message)
    kind = _BY_CODE.get(error.get_error_code())
    if kind is None:
        kind = riddle.error if riddle else errors.VircptError
    hint = riddle.advice() if riddle else None
    if hint and domain:
        hint = hint.replace("DOMAIN", quoted(domain))
    why = f"{message} ({riddle.meaning})" if riddle else message
    return kind(what, why=why, hint=hint, domain=domain, checkpoint=checkpoint, disk=disk)


@contextmanager
def translated(
    what: str, *, domain: str | None = None, checkpoint: str | None = None, disk: str | None = None
) -> Iterator[None]:
    """Inside, a libvirtError becomes one of vircpt's errors that starts with `what`."""
    place = " ".join(one for one in (domain, checkpoint, disk) if one)
    trace.tell(f"libvirt: {what.removeprefix('cannot ')}{f' ({place})' if place else ''}")
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, what, domain=domain, checkpoint=checkpoint, disk=disk) from error


def code(error: BaseException | None) -> int | None:
    """libvirt's error code behind `error` (or behind its cause), if there is one."""
    for one in (error, error.__cause__ if error else None):
        if isinstance(one, libvirt.libvirtError):
            return int(one.get_error_code())
    return None
