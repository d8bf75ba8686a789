"""Errors that a user can act on: what is wrong, where, what is allowed, what was probably meant."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches

MOST = 20  # mistakes in one message


class UserError(Exception):
    """A mistake in the user's input. The command prints it without a traceback and exits with code 2.

    `where` is a file, `file:line` or key path; `allowed` lists the valid values; `hint` says what was meant.
    """

    final = True  # in a stage too, another attempt would fail the same way

    def __init__(self, what: str, *, where: str = "", allowed: Iterable[object] = (), hint: str = "") -> None:
        self.what = what
        self.where = where
        self.allowed = [str(value) for value in allowed]
        self.hint = hint
        super().__init__(self.render())

    def at(self, where: str) -> UserError:
        """The same mistake at another place."""
        return UserError(self.what, where=where, allowed=self.allowed, hint=self.hint)

    def render(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.allowed:
            lines.append(f"  allowed: {', '.join(self.allowed)}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


def unknown(kind: str, name: str, allowed: Iterable[str], *, where: str = "") -> UserError:
    """The error for a name that is not in a registry, with the closest valid name as the hint."""
    options = sorted(allowed)
    close = closest(name, options)
    hint = f"did you mean '{close}'?" if close else ""
    return UserError(f"unknown {kind} '{name}'", where=where, allowed=options, hint=hint)


def closest(name: str, options: Iterable[str]) -> str:
    """The option that was probably meant: the most alike, or else the one that begins so; "" if none is near."""
    alike = get_close_matches(name, known := [*options], n=1, cutoff=0.5)
    begun = [option for option in known if len(name) > 1 and option.startswith(name)]
    return next(iter([*alike, *begun]), "")


def refuse_all(errors: Iterable[UserError]) -> None:
    """Raise one error that says all of these, if there are any."""
    found = list({str(error): error for error in errors}.values())
    if len(found) == 1:
        raise found[0]
    if found:
        more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
        raise UserError("\n".join([f"{len(found)} mistakes", *map(str, found[:MOST]), *more]))


# Faults of a machine, not of the program: full or read-only disks, missing rights, paths that cannot be.
_OF_MACHINES = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
        *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENOMEM),
        errno.ENODEV,
    }
)


def fault_of_machine(error: Exception) -> str | None:
    """What the machine refused, in one line; None for an error that may be the program's."""
    full = os.strerror(errno.ENOSPC)
    if not isinstance(error, OSError):
        return full if full in str(error) else None  # as libraries tell it
    reason = error.strerror or str(error)
    return None if error.errno not in _OF_MACHINES else f"{error.filename}: {reason}" if error.filename else reason


class Interrupted(Exception):
    """A stage stopped early on request; its next attempt resumes from the saved state.

    `done` is the number of steps or videos that are finished.
    """

    def __init__(self, what: str, done: int) -> None:
        super().__init__(what)
        self.done = done

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int]]:
        return type(self), (str(self), self.done)  # by default its only argument would be the text


class StageError(Exception):
    """A stage cannot finish; the user gets the reason without a traceback.

    `final`: another attempt would fail the same way.
    """

    final = True
