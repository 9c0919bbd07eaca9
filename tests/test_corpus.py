"""The folder of failing cases: what is kept, read back, replaced and removed."""

from __future__ import annotations

import json
import multiprocessing

import numpy as np
import pytest

from gradverify.casefile import save
from gradverify.core.errors import CaseFileError
from gradverify.core.nouns import Case, Finding
from gradverify.corpus import Corpus, remove, replay_command


def finding(size: int = 2, primal: str = "x", value: float = 1.0, **case: object) -> Finding:
    drawn = Case("my layer/odd", {"x": np.full(size, value)}, **case)  # type: ignore[arg-type]
    return Finding("gradient", "wrong", primal, f"the gradient of {primal} is wrong", drawn, severity=np.inf)


def keep_many(folder: str, first: int) -> None:
    corpus = Corpus(folder)
    for k in range(first, first + 20):
        corpus.keep(finding(value=float(k)), f"owner {k}", "gradient")


def test_a_finding_is_read_back_with_its_owner_and_fingerprint(tmp_path):
    corpus = Corpus(tmp_path / "new" / "corpus")
    path = corpus.keep(finding(target="package:layer"), "gradverify::a::gradient", "gradient")
    (entry,), damaged = corpus.read()
    assert damaged == []
    assert entry.path == path
    assert (entry.owner, entry.asked, entry.pinned) == ("gradverify::a::gradient", "gradient", False)
    assert entry.fingerprint == ("gradient", "wrong", "x")
    np.testing.assert_array_equal(entry.case.primals["x"], np.ones(2))
    assert path.name.startswith("my_layer_odd-gradient-wrong-x-")
    assert replay_command(path, entry.case) == f"gradverify replay {path}"
    assert replay_command(path, finding().case).endswith(" --target TARGET")


def test_an_absent_folder_is_an_empty_corpus(tmp_path):
    assert Corpus(tmp_path / "nothing").read() == ([], [])
    assert not (tmp_path / "nothing").exists()


def test_of_the_same_finding_only_the_smallest_case_is_kept(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.keep(finding(size=5), "owner", "gradient")
    entries, _ = corpus.read()
    small = corpus.keep(finding(size=2), "owner", "gradient", entries)
    assert [entry.path for entry in corpus.read()[0]] == [small]
    assert corpus.keep(finding(size=3), "owner", "gradient", corpus.read()[0]) == small
    assert [entry.path for entry in corpus.read()[0]] == [small]


def test_findings_of_two_owners_or_two_primals_are_kept_apart(tmp_path):
    corpus = Corpus(tmp_path)
    paths = {corpus.keep(finding(), owner, "gradient") for owner in ("one", "two")}
    paths.add(corpus.keep(finding(primal="W"), "one", "gradient"))
    assert len(paths) == len(corpus.read()[0]) == 3


def test_a_pinned_case_stays_when_a_smaller_one_is_kept(tmp_path):
    corpus = Corpus(tmp_path)
    path = corpus.keep(finding(size=5), "owner", "gradient")
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | {"pinned": True}))
    corpus.keep(finding(size=2), "owner", "gradient", corpus.read()[0])
    assert len(corpus.read()[0]) == 2


def test_a_case_file_alone_is_a_case_of_the_teams_own(tmp_path):
    save(finding().case, tmp_path / "folder" / "by hand.npz")
    (entry,), damaged = Corpus(tmp_path).read()
    assert (entry.owner, entry.asked, entry.pinned, damaged) == (None, None, True, [])


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".npz", b""),
        (".npz", b"no zip archive"),
        (".json", b"{"),
        (".json", b"[]"),
        (".json", b"\xff\xfe"),
        (".json", b'{"format": "gradverify-finding", "version": 99}'),
        (".json", b'{"format": "gradverify-finding", "version": 1, "owner": ["a"], "asked": "b"}'),
        (".json", b'{"format": "gradverify-finding", "version": 1, "owner": "a", "asked": "b", "kind": 1}'),
    ],
)
def test_a_damaged_file_is_told_and_the_others_are_read(tmp_path, suffix, content):
    corpus = Corpus(tmp_path)
    corpus.keep(finding(), "sound", "gradient")
    broken = corpus.keep(finding(value=2.0), "broken", "gradient")
    broken.with_suffix(suffix).write_bytes(content)
    (entry,), (damaged,) = corpus.read()
    assert entry.owner == "sound"
    assert damaged.path == broken
    assert damaged.reason


def test_removing_twice_is_no_error(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.keep(finding(), "owner", "gradient")
    (entry,), _ = corpus.read()
    remove(entry)
    remove(entry)
    assert list(tmp_path.iterdir()) == []


def test_a_case_that_no_file_can_hold_leaves_nothing_that_reads_as_a_case(tmp_path):
    corpus = Corpus(tmp_path)
    with pytest.raises(CaseFileError, match="an option has the value"):
        corpus.keep(finding(options={"act": object()}), "owner", "gradient")
    assert corpus.read() == ([], [])


def test_two_processes_may_write_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=keep_many, args=(str(tmp_path), first)) for first in (0, 10)]
    for process in processes:
        process.start()
    seen = 0
    while any(process.is_alive() for process in processes):
        entries, damaged = Corpus(tmp_path).read()
        assert damaged == []
        assert len(entries) >= seen
        seen = len(entries)
    assert [process.exitcode for process in processes] == [0, 0]
    entries, damaged = Corpus(tmp_path).read()
    assert damaged == []
    assert sorted({entry.owner for entry in entries}) == sorted(f"owner {k}" for k in range(30))
    assert all(entry.owner is not None and not entry.pinned for entry in entries)
