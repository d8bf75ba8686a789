"""Torch files with more than tensors in them: what is harmless is read, and nothing that a file names is ever run."""

from __future__ import annotations

import argparse
import pickle
import sys
import tarfile
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.models.state_dicts import read_official, require_finite, stored_tensors
from bench.models.torch_files import StandIn, read_torch
from tests.errors import refused

TOWER, HEAD = {"visual.proj": torch.ones(2)}, {"a.weight": torch.zeros(2)}


class CfgNode(dict[str, Any]):
    """As yacs' configs: a dictionary with attributes."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.__dict__["__immutable__"] = False


class Names(list[str]):
    """A list of its own class."""


class Colour(Enum):
    RED = 1


class Point(NamedTuple):
    x: int


@dataclass(slots=True)
class Slotted:
    size: int = 3


class Nested:
    def __init__(self) -> None:
        self.parts = [CfgNode(a=CfgNode(b=1)), Names(["x"]), PurePosixPath("a/b")]


HARMLESS: dict[str, object] = {
    "numpy scalars": {"epoch": np.int64(3), "best": np.float64(77.1), "half": np.float16(0.5), "yes": np.bool_(True)},
    "numpy arrays": {"means": np.zeros((2, 3)), "names": np.array(["a", "b"]), "any": np.array([{}], dtype=object)},
    "numpy others": [
        np.dtype("f4"),
        np.str_("x"),
        np.datetime64("2020-01-01"),
        np.complex64(1j),
        np.dtype([("a", "i4")]),
    ],
    "numpy generator": np.random.default_rng(0),
    "config": CfgNode(model=CfgNode(name="ViT-B/16"), rate=1e-4),
    "namespace": argparse.Namespace(lr=1e-3, folder=Path("x"), nested=argparse.Namespace(a=1)),
    "paths": [Path("a/b"), PurePosixPath("c")],
    "collections": [OrderedDict(a=1), defaultdict(list, a=[1]), deque([1, 2]), Counter("abc"), {1, 2}, frozenset({3})],
    "torch": [torch.Size([1, 2]), torch.float16, torch.device("cpu"), torch.nn.Parameter(torch.ones(1))],
    "objects": [Colour.RED, Point(1), Slotted(), Nested(), Names(["a", "b"]), datetime(2020, 1, 1), 3j, range(3)],
    "classes and functions": [CfgNode, Path, len, np.float64, stored_tensors],
    "module": torch.nn.Linear(2, 2),
    "bytes": [b"abc", bytearray(b"abc"), 2**80, -1, None, Ellipsis, slice(1)],
}


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
@pytest.mark.parametrize("kind", [kind for kind in HARMLESS if kind != "module"])
def test_what_lies_beside_the_weights_does_no_harm(kind: str, zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "official.pth"
    content = {"epoch": 7, "model_state_dict": TOWER, "fusion_model_state_dict": HEAD, "config": HARMLESS[kind]}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    official = read_official(file)
    assert official.epoch == 7 and official.tower.keys() == TOWER.keys() and official.head.keys() == HEAD.keys()
    assert torch.equal(official.tower["visual.proj"], TOWER["visual.proj"])


def test_numpy_scalars_are_numbers_without_numpy_rebuilding_them(tmp_path: Path) -> None:
    scalars = {"int": np.int64(-3), "float": np.float32(0.5), "big": np.dtype(">i4").type(7), "yes": np.bool_(True)}
    torch.save({**scalars, "swapped": np.array([258], ">i4")[0], "text": np.str_("x")}, tmp_path / "numbers.pt")
    found = read_torch(tmp_path / "numbers.pt")
    assert isinstance(found.pop("text"), StandIn)
    assert found == {"int": -3, "float": 0.5, "big": 7, "yes": True, "swapped": 258}
    assert {type(value) for value in found.values()} == {int, float, bool}
    torch.save({"epoch": np.int64(3), "model_state_dict": TOWER}, tmp_path / "official.pt")
    assert read_official(tmp_path / "official.pt").epoch == 3


def test_names_of_numpy_1_are_known(tmp_path: Path) -> None:
    torch.save({"best": np.float64(77.1)}, tmp_path / "new.pt")
    text = b"numpy.core.multiarray"
    replaced = part_of(tmp_path / "new.pt", "data.pkl").replace(b"numpy._core.multiarray", text)
    assert text in replaced
    assert read_torch(archive(tmp_path / "old.pt", replaced)) == {"best": 77.1}


# --- files that mean harm ---------------------------------------------------------------------------------------------


class Calling:
    """Calls a function when it is unpickled."""

    def __init__(self, module: str, name: str, *args: object) -> None:
        self.path, self.args = (module, name), args


def pickled(value: object) -> bytes:
    """Protocol 2 by hand, so that also functions can be named that are not here."""
    if isinstance(value, Calling):
        return b"c%s\n%s\n" % tuple(part.encode() for part in value.path) + pickled(value.args) + b"R"
    if isinstance(value, dict):
        return b"}" + b"".join(pickled(key) + pickled(own) + b"s" for key, own in value.items())
    if isinstance(value, list):
        return b"]" + b"".join(pickled(own) + b"a" for own in value)
    if isinstance(value, tuple):
        return b"(" + b"".join(pickled(own) for own in value) + b"t"
    return pickle.dumps(value, 2)[2:-1] if not isinstance(value, Raw) else value.code


@dataclass
class Raw:
    """Opcodes as they are."""

    code: bytes


def archive(file: Path, data: bytes, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    """A torch archive around a pickle."""
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("a/data.pkl", data)
        made.writestr("a/byteorder", b"little")
        for name, content in {"data/0": b"\0" * 64, **parts}.items():
            made.writestr(f"a/{name}", content)
        made.writestr("a/version", b"3\n")
    return file


def write(file: Path, data: bytes, legacy: bool) -> Path:
    """A file of either torch format around a pickle, with one storage of 16 numbers."""
    if not legacy:
        return archive(file, data)
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    storages = pickle.dumps(["0"] if b"FloatStorage" in data else [], 2) + (16).to_bytes(8, "little") + b"\0" * 64
    file.write_bytes(start + data.replace(b"tQ", b"NtQ") + storages)
    return file


def part_of(file: Path, name: str) -> bytes:
    with zipfile.ZipFile(file) as opened:
        return opened.read(next(each for each in opened.namelist() if each.endswith(name)))


def called(canary: str) -> dict[str, Calling]:
    """Calls that would leave a file `canary`, end or hang the process, or reach out."""
    touch, code = f"touch {canary}", f"open({canary!r}, 'w')"
    function = Calling("builtins", "getattr", Calling("importlib", "import_module", "os"), "system")
    calls: list[tuple[Any, ...]] = [
        *(("os", "system", touch), ("posix", "system", touch), ("nt", "system", touch), ("os", "popen", touch)),
        *(("os", "_exit", 3), ("sys", "exit", 3), ("os", "kill", 0, 9), ("os", "execvp", "touch", ["touch", canary])),
        *(("subprocess", "Popen", ["touch", canary]), ("subprocess", "check_output", ["touch", canary])),
        *(
            ("builtins", "exec", code),
            ("builtins", "eval", code),
            ("__builtin__", "eval", code),
            ("builtins", "open", canary, "w"),
        ),
        *(
            ("builtins", "__import__", "antigravity"),
            ("importlib", "import_module", "antigravity"),
            ("builtins", "breakpoint"),
        ),
        *(("builtins", "compile", code, "x", "exec"), ("builtins", "getattr", "", "format"), ("builtins", "input")),
        *(("functools", "partial", Calling("os", "system"), touch), ("functools", "reduce", function, [touch])),
        *(("operator", "methodcaller", "touch"), ("operator", "attrgetter", "system")),
        *(("copyreg", "_reconstructor", Calling("subprocess", "Popen"), Calling("builtins", "object"), None),),
        *(("copyreg", "add_extension", "os", "system", 1), ("copy_reg", "__newobj__", Calling("os", "system"))),
        *(("types", "FunctionType", Calling("types", "CodeType")), ("marshal", "loads", b"c"), ("types", "CodeType")),
        *(
            ("pickle", "loads", pickle.dumps(Path(canary))),
            ("pickle", "Unpickler"),
            ("_pickle", "loads", b"cos\nsystem\n."),
        ),
        *(("torch", "load", canary), ("torch.serialization", "load", canary), ("torch.jit", "load", canary)),
        *(("torch.hub", "load", "a/b", "c"), ("torch.utils.model_zoo", "load_url", "http://127.0.0.1:9")),
        *(
            ("torch.serialization", "add_safe_globals", [Calling("os", "system")]),
            ("torch.ops", "load_library", canary),
        ),
        *(("torch.storage", "_load_from_bytes", b"x"), ("torch._C", "_jit_clear_class_registry")),
        *(
            ("numpy", "load", canary),
            ("numpy", "save", canary, 1),
            ("numpy", "fromfile", canary),
            ("numpy", "memmap", canary),
        ),
        *(("numpy.testing._private.utils", "runstring", code, {}), ("numpy.f2py", "compile", code)),
        *(("numpy.core.multiarray", "_reconstruct", Calling("subprocess", "Popen"), (0,), b"b"),),
        *(("ctypes", "CDLL", canary), ("ctypes", "string_at", 0), ("socket", "create_connection", ("127.0.0.1", 9))),
        *(("urllib.request", "urlopen", f"file://{canary}"), ("webbrowser", "open", "x"), ("pty", "spawn", "touch")),
        *(("runpy", "run_path", canary), ("shutil", "rmtree", f"{canary}.folder"), ("pathlib", "Path.touch", canary)),
        *(
            ("timeit", "timeit", code),
            ("cProfile", "run", code),
            ("pdb", "run", code),
            ("code", "interact"),
            ("bdb", "Bdb"),
        ),
        *(("asyncio", "run", 1), ("atexit", "register", Calling("os", "system"), touch), ("signal", "raise_signal", 9)),
        *(
            ("threading", "Thread"),
            ("multiprocessing.util", "spawnv_passfds", "a"),
            ("gc", "disable"),
            ("zipimport", "zipimporter"),
        ),
        *(("collections", "namedtuple", "x", code), ("dataclasses", "make_dataclass", "x", [code]), ("doctest", "run")),
        *(
            ("logging.config", "_resolve", "os.system"),
            ("pydoc", "pipepager", "", touch),
            ("yaml", "unsafe_load", "!!x"),
        ),
        *(
            ("bench.core.files", "write_atomically", canary, b""),
            ("torch._inductor.codecache", "PyCodeCache.load", code),
        ),
        *(("pip._internal.cli.main", "main", ["install"]), ("ensurepip", "_run_pip"), ("site", "main"), ("this", "s")),
    ]
    return {
        f"{module}.{name} {number}": Calling(module, name, *args) for number, (module, name, *args) in enumerate(calls)
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
def test_functions_that_a_file_names_are_not_called_nor_imported(legacy: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(b"\x80\x02" + pickled(called(str(canary))["builtins.exec 10"]) + b".")
    assert canary.exists()  # so this is what unpickling would do
    canary.unlink()
    before, calls = set(sys.modules), called(str(canary))
    assert len(calls) > 70
    for name, call in calls.items():
        beside, inside = {"config": call}, {"state_dict": {"visual.proj": call}}
        for place, content in (
            ("beside", beside),
            ("inside", inside),
            ("filled", {"config": Raw(pickled(call) + FILL)}),
        ):
            data = b"\x80\x02" + pickled(content) + b"."
            file = write(tmp_path / "hostile.pt", data, legacy)
            try:
                found = read_torch(file)
                assert place != "inside" or not isinstance(found["state_dict"]["visual.proj"], torch.Tensor)
                if place == "inside":
                    with refused(name.partition(" ")[0].partition(".")[2], where=str(file), hint="only tensors"):
                        stored_tensors(found["state_dict"], file)
            except UserError as error:
                assert str(file) in error.where and "weights_only" not in str(error)
        assert not canary.exists(), name
    assert not {"antigravity", "this", "pdb", "pty", "code"} & (set(sys.modules) - before)


FILL = pickled({"__class__": 1, "__setstate__": 2, "shape": 3}) + b"b"  # gives the object attributes


def stored(key: str = "0", numel: int = 16, location: str = "cpu", kind: bytes = b"ctorch\nFloatStorage\n") -> Raw:
    """A storage, by its persistent id."""
    return Raw(b"(" + pickled("storage") + kind + pickled(key) + pickled(location) + pickled(numel) + b"tQ")


def rebuilt(storage: object, *more: object) -> Calling:
    return Calling("torch._utils", "_rebuild_tensor_v2", storage, *more, False, Calling("collections", "OrderedDict"))


def state(value: object) -> bytes:
    return b"\x80\x02" + pickled({"state_dict": {"visual.proj": value}}) + b"."


def shadowed(value: bytes) -> bytes:
    """A dictionary whose methods a file has replaced."""
    return value + pickled(dict.fromkeys(("items", "keys", "get", "values", "__iter__"), 1)) + b"b"


PARAMETER = Calling(
    "torch._utils",
    *("_rebuild_parameter_with_state", rebuilt(stored(), 0, (4,), (1,)), False, Calling("collections", "OrderedDict")),
    {"isfinite": 1, "detach": 2, "numel": 3, "float": 4, "secret": 5},
)
BOMB = rebuilt(stored(numel=1), 0, (10**6, 10**6), (0, 0))

CRAFTED: dict[str, bytes] = {
    "expanded without end": state(BOMB),
    "many expanded": b"\x80\x02"
    + pickled({"state_dict": {f"{n}.a": rebuilt(stored(), 0, (9999,), (0,)) for n in range(99)}})
    + b".",
    "huge storage": state(rebuilt(stored(numel=2**50), 0, (2**50,), (1,))),
    "negative storage": state(rebuilt(stored(numel=-5), 0, (4,), (1,))),
    "past the storage": state(rebuilt(stored(), 12, (16,), (1,))),
    "negative offset": state(rebuilt(stored(), -12, (4,), (1,))),
    "negative stride": state(rebuilt(stored(), 0, (4,), (-1,))),
    "negative size": state(rebuilt(stored(), 0, (-4,), (1,))),
    "no such storage": state(rebuilt(stored(key="7"), 0, (4,), (1,))),
    "storage outside": state(rebuilt(stored(key="../../../../../../etc/passwd"), 0, (4,), (1,))),
    "storage of the pickle": state(rebuilt(stored(key="../data.pkl"), 0, (4,), (1,))),
    "storage of another kind": state(rebuilt(stored(kind=b"cos\nsystem\n"), 0, (4,), (1,))),
    "persistent module": state(
        Raw(b"(" + pickled("module") + b"cos\nsystem\n" + pickled("x.py") + pickled("y") + b"tQ")
    ),
    "persistent number": state(Raw(pickled(3) + b"Q")),
    "persistent text": state(Raw(b"Px\n")),
    "nested persistent": state(rebuilt(Raw(b"(" + stored().code + b"tQ"), 0, (4,), (1,))),
    "without values": state(
        Calling("torch._utils", "_rebuild_meta_tensor_no_storage", Raw(b"ctorch\nfloat32\n"), (2**40,), (1,), False)
    ),
    "from numpy": state(
        Calling("torch._utils", "_rebuild_device_tensor_from_numpy", Calling("numpy", "zeros", 4), 1, "cpu", False)
    ),
    "subclass": state(
        Calling("torch._tensor", "_rebuild_from_type_v2", Raw(b"cos\nsystem\n"), Raw(b"cx\nY\n"), ("touch x",), {})
    ),
    "subclass of a name": state(
        Calling("torch._tensor", "_rebuild_from_type_v2", Raw(b"cx\nY\n"), Raw(b"cx\nY\n"), (), {})
    ),
    "attributes of a class": state(Raw(b"ccollections\nOrderedDict\n" + pickled({"get": 1}) + b"b")),
    "attributes of a function": state(Raw(b"ctorch._utils\n_rebuild_tensor\n" + pickled({"__code__": 1}) + b"b")),
    "attributes of a stand-in class": state(Raw(b"cx\nY\n" + pickled({"__new__": 1}) + b"b")),
    "call of a stand-in object": state(Raw(b"cx\nY\n)R)R")),
    "tuple of a class": state(Raw(b"cx\nY\n)\x81" + pickled(("a", 1)) + b"b")),
    "protocol 0": pickle.dumps({"state_dict": 1}, 0),
    "protocol 4": pickle.dumps({"state_dict": 1}, 4),
    "protocol 5": pickle.dumps({"state_dict": bytearray(99)}, 5),
    "extension": b"\x80\x02\x82\x01.",
    "old instance": b"(ios\nsystem\n.",
    "far memo": b"\x80\x02}r\xff\xff\xff\xff.",
    "memo out of reach": b"\x80\x02j\xff\xff\xff\xff.",
    "long text": b"\x80\x02X\xff\xff\xff\xffabc.",
    "long number": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "empty": b"",
    "stop": b"\x80\x02.",
    "no stop": b"\x80\x02}",
    "marks": b"\x80\x02((((((t.",
    "underflow": b"\x80\x02sssu.",
    "laughs": b"\x80\x02](q\x00" + b"".join(b"](" + b"h%c" % n * 9 + b"eq%c" % (n + 1) for n in range(40)) + b"e.",
    "itself": b"\x80\x02}q\x09" + pickled("state_dict") + b"h\x09s.",
    "deep": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "a hundred thousand names": b"\x80\x02](" + b"".join(b"cx%d\ny\n" % n for n in range(10**5)) + b"e.",
    "name with a null": b"\x80\x02cx\ny\0z\n.",
    "name with bytes": b"\x80\x02c\xff\n\xfe\n.",
    "dictionary of itself shadowed": b"\x80\x02" + shadowed(b"ccollections\nOrderedDict\n)R") + b".",
    "list and dictionary": b"\x80\x02cx\ny\n)R(K\x01K\x02ecx\ny\n)R" + b"(K\x01K\x02u\x86.",
}


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("kind", CRAFTED)
def test_crafted_files_give_no_weights(kind: str, legacy: bool, tmp_path: Path) -> None:
    file = write(tmp_path / "hostile.pt", CRAFTED[kind], legacy)
    try:
        found = read_torch(file)
        state = found.get("state_dict") if isinstance(found, dict) else None
        assert not stored_tensors(state, file) if isinstance(state, dict) else not isinstance(state, torch.Tensor)
    except UserError as error:
        assert error.where == str(file) and "weights_only" not in str(error)
        str(error).encode()


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
def test_a_good_file_made_by_the_same_hand_is_read(legacy: bool, tmp_path: Path) -> None:
    """Else the crafted ones would be refused for another reason than theirs. Attributes of a tensor are left behind."""
    for value in (rebuilt(stored(), 0, (4,), (1,)), PARAMETER):
        file = write(tmp_path / "good.pt", state(value), legacy)
        found = stored_tensors(read_torch(file)["state_dict"], file)
        assert torch.equal(found["visual.proj"], torch.zeros(4)) and not vars(found["visual.proj"])
        require_finite(found.items(), file)


def test_archives_that_would_have_to_be_unpacked_and_other_formats_are_refused(tmp_path: Path) -> None:
    file = archive(tmp_path / "bomb.pt", state(1), zipfile.ZIP_DEFLATED, **{"data/1": bytes(10**7)})
    with refused("compressed", where=str(file), hint="torch.save"):
        read_torch(file)
    data = archive(tmp_path / "whole.pt", state(1)).read_bytes()
    file.write_bytes(data.replace(b"PK\x01\x02", b"PK\x07\x07"))
    with refused("damaged", where=str(file)):
        read_torch(file)
    with refused("compressed or overlap"):
        read_torch(overlapping(tmp_path / "overlapping.pt"))
    with tarfile.open(file, "w") as old:
        for name in ("../storages", "storages", "tensors", "pickle"):
            old.addfile(tarfile.TarInfo(name))
    with refused(".tar", where=str(file), hint="current torch"):
        read_torch(file)
    assert sorted(path.name for path in tmp_path.parent.glob("storages*")) == []
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(file))
    with refused("TorchScript", where=str(file), hint="state_dict"):
        read_torch(file)
    torch.save(torch.nn.Linear(1, 1), file)
    with refused("torch.nn.modules.linear.Linear", where=str(file), hint="only tensors"):
        read_torch(file)


def overlapping(file: Path) -> Path:
    """An archive whose directory lists one large part many times."""
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", state(1))
        made.writestr("a/data/0", bytes(1000))
        made.filelist += [made.filelist[-1]] * 50
    return file
