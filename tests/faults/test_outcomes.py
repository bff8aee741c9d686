"""What counts as lost, doubled or wrong; how kills are spread; what makes the whole fail."""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from aqaa.client import EndReason, Manifest
from aqaa.errors import AqaaError, CapacityError, DeliveryBroken, InvalidRequest, LogDiverged, Unavailable
from tests.faults.__main__ import arguments, chosen, main, reported
from tests.faults.caller import Heard, Phase
from tests.faults.drill import Case, spread, undone
from tests.faults.faults import HOLDERS, KILLS, OTHERS, role_of
from tests.faults.outcomes import Outcome, Result, Table, Verdict, judge
from tests.faults.stack import ROLES

CHUNKS = [np.arange(i, i + 5, dtype=np.int16) for i in (0, 5, 10)]


def heard(chunks=(0, 1, 2), **given):
    manifest = Manifest(reason=EndReason.STOP, chunks=3, samples=15, crc32c=7, segments=())
    made = Heard([CHUNKS[i] for i in chunks], [i + 1 for i in chunks], {0: "One."}, "what", manifest)
    return replace(made, **given)


def test_the_same_sound_text_and_manifest_are_the_same():
    assert judge(heard(), None, heard()) == SAME


@pytest.mark.parametrize(
    "given",
    [
        heard((0, 2)),
        heard((0, 1, 1, 2)),
        heard((1, 0, 2)),
        heard(pcm=[*CHUNKS[:2], CHUNKS[2] + np.int16(1)]),
        heard(sequences=[1, 2, 2]),
        heard(texts={0: "One.One."}),
        heard(transcript=""),
        heard(manifest=None),
        heard(manifest=replace(heard().manifest, samples=14)),
    ],
)
def test_whatever_differs_is_wrong(given):
    assert judge(given, None, heard()).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Unavailable("gone", stage="llm"), Outcome.ERROR),
        (CapacityError("full"), Outcome.ERROR),
        (LogDiverged("two pasts", missing="delivery:2"), Outcome.ERROR),
        (AqaaError("a fault"), Outcome.WRONG),
        (InvalidRequest("group 2 after 3", missing="chunk:1"), Outcome.WRONG),
        (Unavailable("gone"), Outcome.WRONG),
        (DeliveryBroken("a hole", missing="chunk:2"), Outcome.WRONG),
        (TimeoutError(), Outcome.WRONG),
        (ValueError("no"), Outcome.WRONG),
    ],
)
def test_only_errors_that_are_meant_are_errors(error, outcome):
    assert judge(heard((0,)), error, heard()).outcome is outcome


def test_wrong_sound_before_an_error_is_wrong():
    assert judge(heard((1,)), Unavailable("gone", stage="llm"), heard()).outcome is Outcome.WRONG


def test_kills_are_spread_over_phases_processes_and_signals():
    cases = spread(200, 2, seed=1)
    kills = [case for case in cases if case.fault in KILLS]
    assert len(kills) == 200
    assert min(Counter(case.phase for case in kills).values()) >= 10
    at_work = [case for case in kills if role_of(case.fault) in HOLDERS[case.phase]]
    assert len(at_work) / len(kills) > 0.85
    assert min(Counter((case.phase, case.fault) for case in at_work).values()) >= 4
    assert {(case.phase, case.fault) for case in kills} == {(p, f) for p in Phase for f in KILLS}
    assert {fault.rpartition("-")[0] for fault in KILLS} == set(ROLES)
    assert Counter(case.fault for case in cases if case.fault in OTHERS) == dict.fromkeys(OTHERS, 2)
    assert spread(200, 2, seed=1) == cases != spread(200, 2, seed=2)


def test_few_kills_are_of_processes_that_are_at_work():
    assert all(role_of(case.fault) in HOLDERS[case.phase] for case in spread(20, 0, seed=3))


def done(cases):
    return [Result(case.phase, case.fault, case.seed, SAME, 1.0) for case in cases]


def test_parts_add_up_to_the_whole_and_what_is_reported_is_not_done_again():
    whole = chosen(arguments(["--kills", "7", "--others", "1"]))
    parts = [chosen(arguments(["--kills", "7", "--others", "1", "--part", f"{k}/3"])) for k in (1, 2, 3)]
    assert sorted(chain(*parts), key=whole.index) == whole
    assert undone(whole, done(parts[0] + parts[2])) == parts[1]
    twice = chosen(arguments(["--case", "audio/llm-SIGKILL", "--times", "3"]))
    assert undone(twice, done(twice[:1])) == twice[1:]
    for part in ("0/2", "3/2", "2"):
        with pytest.raises(SystemExit):
            arguments(["--part", part])


def test_a_report_gives_its_results_back(tmp_path, capsys):
    leaking = Result(
        "end", "log-cut", 7, Verdict(Outcome.ERROR, "CAPACITY", "full"), 2.5, None, 1, ("é",), ("a key",)
    )
    results = [[result(held=True), leaking], [result(held=False)]]
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, lines in zip(paths, results, strict=True):
        path.write_text("".join(line.to_json() + "\n" for line in lines))
    assert [str(found) for found in reported(paths)] == [str(line) for lines in results for line in lines]
    assert asyncio.run(main(arguments(["--tally", *map(str, paths)]))) == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["all", "3", "1", "of", "2", "2", "1", "CAPACITY", "0", "1"] in rows


def test_a_case_is_named_so_that_it_can_be_done_again():
    assert Case.parse("audio/llm-SIGKILL", 5) == Case(Phase.AUDIO, "llm-SIGKILL", 5)
    for text in ("audio/llm-SIGINT", "audio", "night/llm-SIGKILL"):
        with pytest.raises(ValueError, match=r"expected one of|not a valid"):
            Case.parse(text, 5)


SAME = Verdict(Outcome.SAME)


def result(verdict=SAME, leaks=(), held=None):
    return Result("audio", "llm-SIGKILL", 5, verdict, 1.0, held, leaks=leaks)


def test_a_table_fails_for_anything_wrong_or_left_over_and_for_too_many_errors():
    error = result(Verdict(Outcome.ERROR, "UNAVAILABLE", "the llm is away"))
    assert not Table([result()] * 19 + [error]).failures()
    [told] = Table([result()] * 18 + [error]).failures()
    assert "1 typed errors of 19" in told
    [told] = Table([result()] * 99 + [result(Verdict(Outcome.WRONG, "DIFFERENT", "sample 3"))]).failures()
    assert "--case audio/llm-SIGKILL --seed 5" in told
    [told] = Table([result()] * 99 + [result(leaks=["a slot"])]).failures()
    assert "a slot" in told


def test_a_table_counts_by_phase_and_process():
    table = str(Table([result(), result(Verdict(Outcome.ERROR, "CAPACITY"), ["a key"])]))
    assert table.splitlines()[1].split() == ["audio", "llm", "2", "-", "1", "1", "CAPACITY", "0", "1"]
    table = str(Table([result(held=True), result(held=False), result(held=True)]))
    assert table.splitlines()[1].split()[3:6] == ["2", "of", "3"]
