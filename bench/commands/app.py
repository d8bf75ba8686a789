"""The command line of `run_suite.py`. Neither this nor planning imports torch."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable

import typer

from bench.commands import checkpoints, data, launches, profile, store, suites
from bench.commands.options import Warnings, warn
from bench.core.errors import UserError, fault_of_machine
from bench.core.processes import Stopped, receiving_stops

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Benchmark and ablation harness for CLIP-to-video transfer.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": suites.run,
    "plan": suites.plan,
    "report": suites.report,
    "list": suites.list_,
    "pretrain": checkpoints.pretrain,
    "status": launches.status,
    "logs": launches.logs,
    "cancel": launches.cancel,
    "retry": launches.retry,
    "site": launches.site,
    "profile": profile.profile,
    "why": store.why,
    "compare": store.compare,
    "gc": store.gc,
    "doctor": data.doctor,
    "prepare": data.prepare,
    "import": checkpoints.import_,
    "export": checkpoints.export,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main(arguments: list[str]) -> int:
    """Run a command. Returns its exit code: 0 done, 1 stages failed, 2 wrong input, 130 Ctrl-C, 143 SIGTERM."""
    if arguments and arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
        arguments = ["run", *arguments]
    try:
        with receiving_stops(_stop), Warnings():
            app(arguments, prog_name="run_suite.py")
    except Stopped as stop:
        name = signal.Signals(stop.number).name
        again = shlex.join(["python", "run_suite.py", *(stop.instead or arguments)])
        warn(f"stopped by {name}; to go on{'' if stop.instead else ', run it again'}:\n  {again}")
        return int(stop.code or 0)
    except SystemExit as end:
        return int(end.code or 0)
    except UserError as error:
        warn(f"error: {error}", "bold red")
        return 2
    except OSError as error:
        if (fault := fault_of_machine(error)) is None:
            raise
        warn(f"error: {fault}", "bold red")
        return 2
    return 0


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)
