"""Whatever happens to a file that we keep costs that one file: it is named, and everything else goes on."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import tracemalloc
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gradverify import casefile, cli, files, verify
from gradverify.campaign import journal
from gradverify.campaign.books import Books
from gradverify.campaign.schedule import Standing
from gradverify.campaign.store import Store, StoreError
from gradverify.campaign.unit import Found, Record, Row
from gradverify.core.declare.regime import Regime
from gradverify.core.errors import CaseFileError, GradverifyError
from gradverify.core.nouns import Case, Finding
from gradverify.corpus import Corpus
from gradverify.files import Fields, FindingText
from gradverify.pytest_plugin import left

SECONDS = 2.0
MEGABYTES = 300
VALUES = [
    None,
    True,
    -1,
    0,
    10**30,
    10**4000,
    1e308,
    "",
    "nan",
    "\x1b[31m\r\n::error::x\udcff\x00",
    "A" * 200_000,
    [],
    {},
    [1, "a", None],
    {"float": "x"},
    {"tuple": [{}]},
    [[[[[[[[[[]]]]]]]]]],
]

# -- files to damage ------------------------------------------------------------------------------


def a_case(**changes):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(2, 3)), "W": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}
    return Case("dense", arrays, cotangents=(rng.normal(size=(2, 2)),), step=1e-5, target="dense").but(**changes)


def a_finding(**changes):
    return Finding("gradient", "wrong", "x", "the gradient of x is wrong", a_case(**changes), severity=np.inf)


def a_found(case, **changes):
    about = {
        "layer": "dense",
        "property": "gradient",
        "kind": "wrong",
        "primal": "x",
        "diagnosis": None,
        "asked": "gradient",
        "raw": ("gradient", "wrong", "x"),
        "message": "wrong",
        "report": "a\nreport",
        "severity": np.inf,
        "case": casefile.dumps(case),
        "size": case.size,
    }
    return Found(**{**about, **changes})


def a_corpus(folder: Path) -> None:
    for k in range(3):
        Corpus(folder).keep(a_finding(seed=k), f"owner {k}", "gradient")


def a_store(folder: Path) -> None:
    store = Store(folder)
    for k in range(3):
        store.keep(a_found(a_case(seed=k), primal=f"x{k}"))
        store.keep_row("dense", Row(Regime(), bytes(range(9)), (k, 2**31), 0.5))
        store.hold(Record("dense", "dense", "gradient", Regime(), casefile.dumps(a_case(seed=k)), False).dumps())
    layers = {"dense": {"cases": 3, "entries": 9, "verified": True}}
    store.count({"counts": {"abc": 3}, "layers": layers})
    journal.Journal(store.journals / "worker.case").write(
        Record("dense", "dense", "gradient", Regime(), b"row", True).dumps()
    )
    os.close(store._lock)  # the process is gone


# -- damage ---------------------------------------------------------------------------------------


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The content of a file, changed in one of many ways."""
    ways = [flipped, cut, stuffed, emptied, nested]
    if data[:2] == b"PK":
        ways += [renamed_header, other_header, other_header, other_header, lying_array, bomb, twins]
    elif data[:1] in (b"{", b"["):
        ways += [other_json] * 5
    return rng.choice(ways)(rng, data)


def flipped(rng, data):
    changed = bytearray(data or b"x")
    for _ in range(rng.choice([1, 1, 3, 30])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(rng, data):
    return data[: rng.randrange(len(data) + 1)]


def stuffed(rng, data):
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice([1, 7, 5000])) + data[place:]


def emptied(rng, data):
    return rng.choice([b"", b"\n", b"\0" * 100, b"null", b"\xff\xfe", b"[]", b"{}", b"NaN"])


def nested(rng, data):
    return rng.choice([b"[" * 100_000, b'{"a":' * 100_000, b"[" * 5000 + b"]" * 5000, b"9" * 500_000])


def other_json(rng, data):
    lines = data.split(b"\n") if data.count(b"\n{") else [data]
    k = rng.randrange(len(lines))
    try:
        lines[k] = json.dumps(edited(rng, json.loads(lines[k]))).encode()
    except ValueError:
        return flipped(rng, data)
    return b"\n".join(lines)


def edited(rng, value):
    """A JSON value with one value somewhere in it replaced, added or left out."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, way = rng.choice(list(value)), rng.random()
        if way < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if way < 0.25:
            return {**value, rng.choice(["x", "\x1b]\n::error::y", "A" * 9999]): rng.choice(VALUES)}
        return {**value, key: edited(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        k = rng.randrange(len(value))
        return [*value[:k], edited(rng, value[k]), *value[k + 1 :]]
    return rng.choice(VALUES)


def rezipped(data, change, compression=zipfile.ZIP_STORED):
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return data[:-1]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in change(members).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def other_header(rng, data):
    def change(members):
        return {**members, "case.json": json.dumps(edited(rng, json.loads(members["case.json"]))).encode()}

    return rezipped(data, change, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))


def renamed_header(rng, data):
    return data.replace(b"case.json", b"casf.json", rng.choice([1, 2]))


def lying_array(rng, data):
    array = rng.choice(
        [
            npy("<f8", (10**12,), b"12345678"),
            npy("<f8", (-1, -8), b"12345678" * 8),
            npy("|O", (3,), b"12345678" * 3),
            npy("|V1000000000", (2,), b"x"),
            npy("<U99999999", (), b""),
            npy("<c16", (2, 3), bytes(96)),
            npy("<f8", (2, 3), np.full(6, np.nan).tobytes()),
            npy("|b1", (2, 3), b"\7" * 6),
            npy([("a", "<f8")], (2, 3), bytes(48)),
            npy("<f8", (2, 3), bytes(48), "(" * 9000),
            npy("<f8", (2, 3), bytes(48), "1" * 9000),
            b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{}",
        ]
    )
    return rezipped(data, lambda members: {**members, "primals/x.npy": array})


def npy(dtype, shape, content, header=None):
    text = header or repr({"descr": dtype, "fortran_order": False, "shape": shape})
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


def bomb(rng, data):
    """A member that is some hundred times as large as the file."""
    name = rng.choice(["case.json", "primals/x.npy", "cotangents/0.npy"])
    return exploding(casefile.dumps(a_case()), name)


@cache
def exploding(data, name):
    start = npy("<f8", (100 << 17,), b"") if name.endswith("npy") else b'{"format": "gradverify-case"'
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for other in whole.namelist():
            if other != name:
                archive.writestr(other, whole.read(other))
        with archive.open(name, "w") as member:
            member.write(start)
            for _ in range(100):
                member.write(b" " * (1 << 20))
    return buffer.getvalue()


def twins(rng, data):
    """A thousand arrays in one and the same place."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        about = {"layer": "dense", "primals": {f"x{k}": "float64" for k in range(2000)}, "cotangents": None}
        more = {"format": "gradverify-case", "version": 1, "options": {}, "step": None, "seed": 0, "target": None}
        archive.writestr("case.json", json.dumps(about | more))
        archive.writestr("primals/x0.npy", npy("<f8", (1 << 17,), bytes(1 << 20)))
        info = archive.infolist()[-1]
        for k in range(1, 2000):
            twin = zipfile.ZipInfo(f"primals/x{k}.npy")
            twin.header_offset, twin.CRC, twin.file_size = info.header_offset, info.CRC, info.file_size
            twin.compress_size = info.compress_size
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    return buffer.getvalue()


# -- readers --------------------------------------------------------------------------------------


def spoil(rng: random.Random, folder: Path) -> Path:
    """Damage one file under a folder; gives its path."""
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file() and "lock" not in p.name))
    content = damaged(rng, path.read_bytes())
    path.unlink()
    way = rng.random()
    if way < 0.02:
        path.mkdir()
    elif way < 0.04:
        path.symlink_to(path)
    elif way < 0.06:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    return path


def replayed(rng, folder, command):
    path = folder / "case.npz"
    casefile.save(a_case(), path)
    path.write_bytes(damaged(rng, path.read_bytes()))
    status = cli.run([command, str(path)])
    assert status in (0, 1, 2, 3), f"status {status}"


def corpus_read(rng, folder):
    a_corpus(folder)
    path = spoil(rng, folder).with_suffix(".npz")
    entries, broken = Corpus(folder).read()
    owners = {entry.owner for entry in entries if entry.path != path}
    assert len(owners) == 2 and None not in owners
    assert {entry.path for entry in entries} | {one.path for one in broken} >= ({path} if path.exists() else set())
    assert all(one.reason.isprintable() and len(one.reason) < 1000 for one in broken)
    for entry in entries:
        if entry.case.layer == "dense":
            with_suppressed(lambda entry=entry: verify("dense", entry.case, "complete"))


def store_read(rng, folder):
    a_store(folder)
    path = spoil(rng, folder)
    try:
        store = Store(folder)
    except StoreError as error:
        message = str(error)  # what cannot even be replaced, as a folder in its place
        assert path.name in message
        assert path.name in ("campaign.json", "events.ndjson")
        return
    books = Books(store, {"dense": Standing("dense", "dense")})
    books.remember()
    entries = store.findings()
    store.close()
    kept = [entry for entry in entries if entry.file != path and path.suffix == ".npz"]
    assert len(kept) >= 2 or path.suffix != ".npz"
    if path.parent.name == "findings":
        name = path.name if path.suffix == ".json" else path.name[:-13]
        assert len(entries) == 3 or any(name in note for note in store.damaged)
        assert len(entries) >= 2
    else:
        assert len(entries) == 3
    again = Store(folder)
    again.close()


def plugin_read(rng, folder):
    head = FindingText.of(a_finding(), "gradient").to_json(owner="o")
    for name, about in (("main-x-1-0.found", head), ("main-x-1.running", {"owner": "o", "asked": "gradient"})):
        journal.Journal(folder / name).write(files.packed(about, casefile.dumps(a_case())))
    path = rng.choice(sorted(folder.iterdir()))
    record = damaged(rng, journal.read(path))
    path.unlink()
    journal.Journal(path).write(record)
    if rng.random() < 0.3:
        path.write_bytes(damaged(rng, path.read_bytes()))
    left.left_by(folder, "main")
    with_suppressed(lambda: Record.loads(record))


def with_suppressed(call):
    try:
        call()
    except GradverifyError:
        return


READERS = {
    "replay": lambda rng, folder: replayed(rng, folder, "replay"),
    "explain": lambda rng, folder: replayed(rng, folder, "explain"),
    "corpus": corpus_read,
    "store": store_read,
    "journal": plugin_read,
}


def ordeal(folder: Path, name: str, seed: int) -> float:
    """One damaged file through one reader; gives the processor time that it took."""
    place = folder / f"{name}-{seed}"
    place.mkdir(parents=True)
    rng = random.Random(f"{name} {seed}")
    begun = time.process_time()
    try:
        READERS[name](rng, place)
    except Exception as error:
        raise AssertionError(f"{name} {seed}: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(place)
    return time.process_time() - begun


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_costs_itself_alone(tmp_path, name, capsys):
    for seed in range(10 if name in ("replay", "explain") else 60):
        assert ordeal(tmp_path, name, seed) < 2 * SECONDS, seed  # the making of the file included
    text = capsys.readouterr()
    assert "Traceback" not in text.err + text.out
    assert "\x1b" not in text.err + text.out


@pytest.mark.slow
def test_a_thousand_damaged_files(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_damage; test_damage.main(200)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr


def main(each: int) -> None:
    """So many damaged files through each reader; ends with a failure, or says what they took."""
    slowest, here = 0.0, Path.cwd()
    for name in READERS:
        for seed in range(1000, 1000 + each):
            slowest = max(slowest, ordeal(here, name, seed))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{each * len(READERS)} files, the slowest {slowest:.2f} s, at most {peak:.0f} MB")
    assert slowest < 2 * SECONDS
    assert peak < MEGABYTES


@pytest.mark.parametrize("make", [bomb, twins, lying_array])
def test_memory_is_bounded_by_what_a_case_may_hold(make):
    data = [make(random.Random(seed), casefile.dumps(a_case())) for seed in range(4)]
    tracemalloc.start()
    try:
        for content in data:
            with_suppressed(lambda content=content: casefile.loads(content))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 << 20


def test_a_case_that_somebody_has_compressed_is_read():
    case = a_case(primals={"x": np.zeros(1 << 18)})
    data = rezipped(casefile.dumps(case), dict, zipfile.ZIP_DEFLATED)
    assert len(data) < 10_000
    assert casefile.dumps(casefile.loads(data)) == casefile.dumps(case)


def test_a_large_case_survives(tmp_path):
    case = a_case(primals={"x": np.ones((1 << 20, 10)), "f": np.asfortranarray(np.arange(6.0).reshape(2, 3))})
    again = casefile.load(casefile.save(case, tmp_path / "large.npz"))
    assert again.primals["f"].flags.f_contiguous and again.primals["x"].flags.writeable
    assert all(np.array_equal(again.primals[name], array) for name, array in case.primals.items())


# -- one writer, one form -------------------------------------------------------------------------


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file"
    files.write(path, b"first")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_finding_has_one_form_wherever_it_is_kept(tmp_path):
    text = FindingText.of(a_finding(), "gradient")
    assert FindingText.from_json(Fields.parse(files.dumps(text.to_json(more=1)))) == text
    a_corpus(tmp_path / "corpus")
    a_store(tmp_path / "store")
    for path in [*(tmp_path / "corpus").glob("*.json"), *(tmp_path / "store" / "findings").glob("*.json")]:
        assert FindingText.from_json(Fields.parse(path.read_bytes())).kind == "wrong"


@pytest.mark.parametrize(
    ("ask", "content"),
    [
        (lambda f: f.text("a"), {"a": 1}),
        (lambda f: f.count("a"), {"a": True}),
        (lambda f: f.count("a"), {"a": -1}),
        (lambda f: f.count("a"), {"a": 10**30}),
        (lambda f: f.number("a"), {"a": "one"}),
        (lambda f: f.number("a"), {"a": 10**999}),
        (lambda f: f.flag("a"), {"a": 0}),
        (lambda f: f.inner("a"), {"a": []}),
        (lambda f: f.listed("a", int), {"a": [1, True]}),
        (lambda f: f.text("a"), {}),
        (lambda f: f.of("x", 1), {"format": "x", "version": 2}),
    ],
)
def test_a_value_of_another_type_is_refused(ask, content):
    with pytest.raises(CaseFileError):
        ask(Fields(content))


def test_a_store_whose_first_file_is_damaged_goes_on_and_a_strangers_folder_is_refused(tmp_path):
    a_store(tmp_path / "store")
    (tmp_path / "store" / "campaign.json").write_bytes(b"\0\0")
    store = Store(tmp_path / "store")
    assert any("campaign.json" in note for note in store.damaged)
    assert len(store.findings()) == 3
    store.close()
    other = tmp_path / "other"
    other.mkdir()
    (other / "campaign.json").write_text('{"name": "of something else"}')
    with pytest.raises(StoreError, match="is no store"):
        Store(other)
    assert "something else" in (other / "campaign.json").read_text()
