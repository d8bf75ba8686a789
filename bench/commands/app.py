"""The command line: `vtb`, and `python run_suite.py` in a checkout. Neither this nor planning imports torch."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from bench.commands import archives, checkpoints, data, launches, names, predict, profile, store, suites
from bench.commands.options import Warnings, say, shipped, warn
from bench.core.errors import UserError, fault_of_machine
from bench.core.processes import Stopped, receiving_stops
from bench.core.words import program, typed

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmark and ablation harness for CLIP-to-video transfer.",
)
DISTRIBUTION = "video-transfer-bench"
COMMANDS: dict[str, Callable[..., None]] = {
    "run": suites.run,
    "plan": suites.plan,
    "report": suites.report,
    "list": names.list_,
    "cite": names.cite,
    "pretrain": checkpoints.pretrain,
    "status": launches.status,
    "logs": launches.logs,
    "cancel": launches.cancel,
    "retry": launches.retry,
    "site": launches.site,
    "profile": profile.profile,
    "predict": predict.predict,
    "why": store.why,
    "compare": store.compare,
    "gc": store.gc,
    "remove": store.remove,
    "pack": archives.pack,
    "merge": archives.merge,
    "verify": archives.verify,
    "leaderboard": archives.leaderboard,
    "doctor": data.doctor,
    "prepare": data.prepare,
    "import": checkpoints.import_,
    "export": checkpoints.export,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def _show_version(asked: bool) -> None:
    if asked:
        say(f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and end")
    ] = False,
) -> None:
    """What comes before a command."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command, by default the one that was typed.

    Returns its exit code: 0 done, 1 stages failed, 2 wrong input, 130 Ctrl-C, 143 SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        arguments = _with_command(arguments)
        with receiving_stops(_stop), Warnings():
            app(arguments, prog_name=program())
    except Stopped as stop:
        name = signal.Signals(stop.number).name
        again = typed(*(stop.instead or arguments))
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


def _with_command(arguments: list[str]) -> list[str]:
    """`SUITE ...` means `run SUITE ...`. Raises UserError for a word that is neither a command nor a suite."""
    word = arguments[0] if arguments else "--help"
    if word in COMMANDS or word.startswith("-"):
        return arguments
    if word not in shipped() and "/" not in word and not word.endswith((".yaml", ".yml")) and not Path(word).exists():
        near = {
            kind: get_close_matches(word, known, n=1) for kind, known in (("command", COMMANDS), ("suite", shipped()))
        }
        meant = " or ".join(f"the {kind} '{names[0]}'" for kind, names in near.items() if names)
        hint = f"did you mean {meant}?" if meant else "`list suites` shows the shipped suites"
        raise UserError(f"'{word}' is neither a command nor a suite", allowed=COMMANDS, hint=hint)
    return ["run", *arguments]


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)
