"""The report of a suite: its folder, and whether the one that is there still says what would be written.

A report is written again if anything has changed that it is made of: the suite, a file of a record, the code, a version
of a package, or a file of its own. Without a record for every stage, the log of attempts counts too.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.care.archive import write_zip
from bench.commands.display import counted
from bench.commands.options import say, warn
from bench.core.errors import UserError
from bench.core.files import write_atomically
from bench.core.identity import digest
from bench.graph.build import Graph
from bench.launch.code import fingerprint, moved_on
from bench.launch.launches import MERGED, launch_folders, open_launch
from bench.store.provenance import Provenance
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from bench.suite.trial import Suite

PAGE = "report.html"
MADE_OF = ".made-of.json"  # beside the files of a report
WRITTEN = ("revision", "dirty", "python", "versions", "checkout")  # what a page says of its own writing


def write_suite_report(suite: Suite, graph: Graph, store: Store, origin: Provenance) -> int:
    """Write a suite's report from the records there are; say where it is, and its alarms. Returns their number.

    It says how the checkout has moved on from the code of its launch, which `origin` names, or else that of the former
    report. A report that holds is left as it is.
    """
    folder, made_of = store.inside("reports") / report_name(suite), _inputs(suite, graph, store, origin)
    before = _before(folder)
    about = _launch(store, origin.get("launch") or before.get("about", {}).get("launch"))
    if before.get("made_of") == made_of and before["about"] == about:
        alarms = before["alarms"]
    else:
        alarms = _write(suite, graph, store, folder, {**origin, **about})
        after = {"made_of": made_of, "about": about, "alarms": alarms, "files": _own_files(folder)}
        write_atomically(folder / MADE_OF, json.dumps(after).encode())
    _link(suite, folder)
    for alarm in alarms:
        warn(f"alarm: {alarm}")
    say(f"report: {folder.resolve() / PAGE}")
    return len(alarms)


def _write(suite: Suite, graph: Graph, store: Store, folder: Path, provenance: Provenance) -> list[str]:
    """Write a report. Returns its alarms.

    Its provenance says under which code it was written, and neither where, by which command nor after which launch: the
    same records give the same report everywhere.
    """
    from reports.alarms import alarms
    from reports.collect import collect
    from reports.page import write_report

    written = {name: provenance[name] for name in WRITTEN if name in provenance}
    results = collect(suite, graph, store, {**written, "overrides": [*suite.overrides]})
    write_report(results, folder)
    return [*alarms(results)]


def write_bundle(target: Path, suite: Suite, store: Store) -> None:
    """Write a suite's report, and the `record.json` of every record that its page names, into one file."""
    from reports.page import written

    folder = store.root / "reports" / report_name(suite)
    named = re.findall(r'<code data-record="(\w+/\w+)">', (folder / PAGE).read_text(encoding="utf-8"))
    records = {name: store.root / name for name in (f"records/{key}/record.json" for key in named)}
    records = {name: path for name, path in records.items() if path.is_file()}
    own = {name: folder / name for name in sorted(written(folder))}
    files = {f"reports/{folder.name}/{name}": path for name, path in own.items()}
    write_zip(target, files | records)
    say(f"bundle: {target}, with {counted(len(records), 'record')}; open reports/{folder.name}/{PAGE} in it")


def _link(suite: Suite, folder: Path) -> None:
    """Let the name of a suite of one's own lead to its last report."""
    link = folder.with_name(suite.name)
    if not _shipped(suite) and (link.is_symlink() or not link.exists()):
        with suppress(OSError):  # a file system without links
            new = link.with_name(f".{folder.name}.{os.getpid()}")
            new.symlink_to(folder.name, target_is_directory=True)
            new.replace(link)


def _launch(store: Store, name: str | None) -> dict[str, str]:
    """What the report says of its launch: the name, and how the checkout differs from its code; empty without one."""
    with suppress(UserError):
        moved = moved_on(open_launch(store.root / "launches" / name)) if name else ""
        differs = {"checkout": f"differs from the code of launch {name}: {moved}"} if moved else {}
        return {"launch": name, **differs} if name else {}
    return {}


# --- whether it holds -------------------------------------------------------------------------------------------------


def _inputs(suite: Suite, graph: Graph, store: Store, origin: Provenance) -> str:
    """A hash of all that decides what a report says, except its launch, the command and the time."""
    records = {stage.identity: _files(store.folder(*stage.key)) for stage in graph.stages.values()}
    launches = [entry.name for entry in launch_folders(store, MERGED) if f"-{suite.name}-" in entry.name]
    log = [] if all(records.values()) else _files(store.root / "attempts")
    titles = [(stage.identity, stage.title, stage.missing) for stage in graph.stages.values()]
    code = [fingerprint(), *(origin.get(name) for name in ("versions", "python", "revision", "dirty"))]
    return digest([suite.file.model_dump(mode="json"), suite.overrides, titles, records, launches, log, code])


def _before(folder: Path) -> dict[str, Any]:
    """What the report in a folder was made of; empty if there is none, or one of its files was changed."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found: dict[str, Any] = json.loads((folder / MADE_OF).read_bytes())
        if (
            found["files"] == _own_files(folder)
            and isinstance(found["alarms"], list)
            and isinstance(found["about"], dict)
        ):
            return found
    return {}


def _own_files(folder: Path) -> list[list[Any]]:
    return [*_files(folder), *_files(folder / "revisions")]


def _files(folder: Path) -> list[list[Any]]:
    """Names, sizes and times of the files in a folder; empty if there is none."""
    with suppress(OSError), os.scandir(folder) as entries:
        stats = [(entry.name, entry.stat()) for entry in entries if entry.name != MADE_OF and entry.is_file()]
        return sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)
    return []


# --- its name ---------------------------------------------------------------------------------------------------------


def report_name(suite: Suite) -> str:
    """The name of a report's folder: that of the suite for a shipped one as it is, else with the suite's identity.

    A suite of one's own has a link without the identity to its last report.
    """
    plain = _shipped(suite) and load_suite(SUITES / f"{suite.name}.yaml").identity == suite.identity
    return suite.name if plain else f"{suite.name}-{suite.identity[:8]}"


def _shipped(suite: Suite) -> bool:
    return (SUITES / f"{suite.name}.yaml").is_file()
