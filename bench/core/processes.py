"""Processes: children that end with their parent, signals that stop a command, and whether a process still lives."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fcntl import F_GETFL, F_SETFL, F_SETOWN, fcntl
from functools import cache
from multiprocessing import forkserver, get_context, parent_process, process, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # of a command; its children leave them to it
SHARED = ("_forkserver_address", "_forkserver_authkey")  # of multiprocessing's fork server
_preloaded = {"bench.core.fork_server": None}  # modules in the order of their import


class Stopped(SystemExit):
    """Ends a command that a signal stops, with the exit code of shells: 128 and the signal's number."""

    def __init__(self, number: int, instead: Iterable[object] = ()) -> None:
        self.number, self.instead = number, [*map(str, instead)]  # to go on with, if by another command
        super().__init__(128 + number)


@contextmanager
def receiving_stops(receive: Callable[[int, object], object]) -> Iterator[None]:
    """Signals to stop go to `receive` within the block, except those that this process was started to ignore."""
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, receive) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def block_stop_signals() -> Iterator[None]:
    """Processes that start inside never receive the signals that a terminal or a scheduler sends to all processes.

    Their parent receives them and decides what to do. The fork server and its later children inherit this.
    """
    resource_tracker.ensure_running()  # multiprocessing unblocks signals when it starts this one
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP_SIGNALS, signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Let this process end when its parent has ended, however that happened. A child process calls this first.

    The parent alone holds the other end of a pipe, so the pipe closes with it, whichever of its threads started this
    process, and whether a fork server stands between. A thread waits for that. C code that keeps the interpreter would
    not let it, so Linux is asked to send SIGKILL as well.
    """
    parent = parent_process()
    if parent is None:
        return
    kill_when_closed(parent.sentinel)
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def kill_when_closed(pipe: int) -> None:
    """Let Linux kill this process when the other end of a pipe closes. Elsewhere nothing happens."""
    if sys.platform == "linux":
        from fcntl import F_SETSIG

        with suppress(OSError):  # in a sandbox that knows no such thing
            fcntl(pipe, F_SETSIG, signal.SIGKILL)
            fcntl(pipe, F_SETOWN, os.getpid())
            fcntl(pipe, F_SETFL, fcntl(pipe, F_GETFL) | os.O_ASYNC)


def preload(modules: Iterable[str]) -> None:
    """Let the fork server of this process import modules that its children need, too; no effect once it runs."""
    _preloaded.update(dict.fromkeys(modules))
    get_context("forkserver").set_forkserver_preload([*_preloaded])


def shared_fork_server() -> dict[str, Any]:
    """What children of this process's fork server need to start theirs from it, by `use_fork_server`."""
    forkserver.ensure_running()
    return {name: own for name in SHARED if (own := getattr(forkserver._forkserver, name, None)) is not None}


def use_fork_server(shared: dict[str, Any]) -> None:
    """Let this process, a child of a fork server, start its own children from that server instead of another."""
    vars(forkserver._forkserver).update({**shared, "ensure_running": lambda: None})


def started_processes() -> list[int]:
    """The ids of processes that this one has started by multiprocessing, and that it has not yet seen the end of."""
    return [pid for child in tuple(process._children) if (pid := child.pid)]  # type: ignore[attr-defined]


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


# --- whether a process lives ------------------------------------------------------------------------------------------


def this_process() -> dict[str, Any]:
    """What `process_lives` needs to know of this process, as JSON values."""
    return {"host": socket.gethostname(), "space": _space(), "pid": os.getpid(), "born": _born(os.getpid())}


def process_lives(about: dict[str, Any]) -> bool | None:
    """True if a process still runs; None if it is of another machine, or of another container with the same name."""
    if about["host"] != socket.gethostname() or about.get("space", _space()) != _space():
        return None
    try:
        os.kill(about["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        pass
    born = _born(about["pid"])
    return born != "" and about.get("born") in (None, born)  # else the id belongs to another process by now


@cache
def _space() -> str:
    """Where process ids have a meaning: this boot of this machine, this namespace; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """When a process started, in ticks since the boot; "" if it has ended, None where that is unknown."""
    if not Path("/proc/self/stat").exists():
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # a name may have spaces
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
