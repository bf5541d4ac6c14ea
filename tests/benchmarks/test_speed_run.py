"""Schedule, time budget, targets and page of the speed benchmark, with processes that are not run."""

import json
import sys
from argparse import Namespace
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import budget as budgets
from benchmarks import publish, run, scaling
from benchmarks.budget import Budget
from benchmarks.cases import INFER, OTHERS, SMALL, TARGETS, TRAIN, Contender, list_contenders
from benchmarks.join import join
from benchmarks.machine import kind_of
from benchmarks.processes import OUT_OF_TIME, run_job
from benchmarks.proposals import find_min_size
from benchmarks.report import results_section, to_json, to_markdown
from benchmarks.results import CaseResults, Results
from benchmarks.run import Item, list_items
from benchmarks.targets import evaluate_targets

PARTS = ("steps", "proposals", "operations", "loader", "scaling", "evaluation")
WIDE, NARROW = ["AVX2", "AVX-512", "AVX-512-BF16"], ["AVX2"]


def arguments(**changes) -> Namespace:
    defaults = {"parts": PARTS, "cases": [], "contenders": ["*"], "all": False, "engines": False, "compiled": False}
    defaults |= {"peers": False, "against": None, "threads": 2, "rounds": 2, "steps": None, "images": 100}
    return Namespace(**defaults | {"budget": 38.0, "instructions": None, "quick": False} | changes)


def machine(instructions: list[str]) -> dict:
    described = {
        "date": "2026-11-28 09:24 UTC",
        "processor": "p",
        "cores": 2,
        "threads": 2,
        "instructions": instructions,
        "load": 0,
    }
    return described | {"torch computes in": "AVX2", "versions": {"torch": "2"}, "commits": {"ours": "abc"}}


class Clock:
    """Time that passes only while a process runs."""

    def __init__(self, slowdown: float) -> None:
        self.now, self.slowdown = 0.0, slowdown


def run_simulated(monkeypatch, tmp_path, slowdown=1.0, instructions=WIDE, **changes) -> tuple[Results, float]:
    """Run the benchmark with processes that take their estimated time, times a factor."""
    clock, estimates = Clock(slowdown), []
    monkeypatch.setattr(budgets.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(run, "describe_machine", lambda *_: machine(instructions))

    def simulate(kind, threads, source=None, timeout=float("inf"), **job):
        if kind == "peak_flops":
            return budgets.REFERENCE_FLOPS
        needed = estimates[-1] * clock.slowdown
        clock.now += min(needed, timeout)
        if needed > timeout:
            return {"error": OUT_OF_TIME}
        if kind == "step":
            runs = {"preparation": 1.0, "first": 1.0, "before": 1.0, "peak": 100.0, "seconds": [1.0]}
            return runs | {"kernels": [1.0] if job["replay_kernels"] else [], "layout": "plain"}
        if kind in ("losses", "reference"):
            return {"same": True, "detections": 1, "proposals": {}}
        return None if kind == "weights" else []

    original = run.BenchmarkRun._run

    def record(self, name, estimate, *args, **job):
        estimates.append(estimate)
        return original(self, name, estimate, *args, **job)

    monkeypatch.setattr(run, "run_job", simulate)
    monkeypatch.setattr(run.BenchmarkRun, "_run", record)
    monkeypatch.setattr(run.BenchmarkRun, "_get_weights", lambda self, case: tmp_path / "weights.pth")
    measured = run.BenchmarkRun(arguments(**changes), tmp_path, lambda _: None)
    measured.execute()
    return measured.results, clock.now / 60


def test_targets_come_first_and_nothing_twice():
    items = list_items(arguments())
    assert items[:2] == [Item("steps", INFER), Item("steps", TRAIN)]
    assert len(set(items)) == len(items)
    names = [item.name for item in items]
    last_target = max(names.index(f"{case.name}, round 2") for case in TARGETS)
    assert last_target < min(names.index(f"{case.name}, round 1") for case in OTHERS)
    assert {item.part for item in items} == set(PARTS)
    assert items[-2:] == [Item("steps", INFER, 0, True), Item("steps", TRAIN, 0, True)]


@pytest.mark.parametrize("instructions", [WIDE, NARROW])
def test_a_run_fits_its_budget(monkeypatch, tmp_path, instructions):
    results, minutes = run_simulated(monkeypatch, tmp_path, instructions=instructions)
    assert minutes <= 38
    measured = {case.case.name for case in results.cases}
    assert {case.name for case in (*TARGETS, *OTHERS[:4])} <= measured


@pytest.mark.parametrize("slowdown", [2, 10])
def test_a_slow_machine_leaves_out_and_never_overruns(monkeypatch, tmp_path, slowdown):
    results, minutes = run_simulated(monkeypatch, tmp_path, slowdown, budget=10.0)
    assert minutes <= 10 + 1e-6
    measured = [name for name, *_ in results.processes]
    assert results.left_out
    assert len(set(results.left_out)) == len(results.left_out)
    # What was started and ended by the budget is in both lists.
    assert len(set(measured) & set(results.left_out)) <= 1
    assert any(name.startswith(f"{TRAIN.name}: ours-fp32") for name in [*measured, *results.left_out])


def test_unlimited_without_budget(monkeypatch, tmp_path):
    results, _ = run_simulated(monkeypatch, tmp_path, 10, budget=0.0)
    assert not results.left_out


def test_speed_of_the_machine_follows_the_processes():
    budget = Budget(1000, scale=1.0)
    assert budget.allows(900)
    budget.record(estimate=240, seconds=720)
    assert budget.scale == pytest.approx(840 / 360)
    assert not budget.allows(900)


def test_emulated_bf16_is_left_out():
    for case in (INFER, TRAIN, *SMALL):
        precisions = {c.precision for c in list_contenders(case, bf16=False, engines=True, compiled=True)}
        assert "bf16" not in precisions
        assert "fp32" in precisions
    assert {c.precision for c in list_contenders(INFER, bf16=True, engines=True)} == {"fp32", "bf16", "int8"}


def test_a_process_is_killed_at_the_end_of_the_budget():
    result = run_job("peak_flops", threads=1, timeout=0.05, python=sys.executable)
    assert result == {"error": OUT_OF_TIME}


def case_results(case, **seconds: float) -> CaseResults:
    runs = {
        name.replace("_", "-"): [{"seconds": [s], "peak": 100 * s, "kernels": [], "preparation": 1.0, "first": s}]
        for name, s in seconds.items()
    }
    return CaseResults(case, runs, agreement={"same": True} if case.task == "train" else None)


def verdicts(results: Results) -> dict:
    return {t.target: t.met for t in evaluate_targets(results)}


def test_verdicts_differ_by_processor():
    seconds = {"ours_fp32": 0.53, "torchvision_fp32_plain": 1.0}
    for instructions, met in ((WIDE, False), (NARROW, True)):
        case = case_results(INFER, **seconds)
        case.runs["ours-fp32"][0]["matches"] = {"same": True, "matched": 9, "near": 9}
        case.agreement = {"detections": 9, "proposals": {}}
        results = Results(machine(instructions), "bench", cases=[case])
        assert verdicts(results)["inference, best engine, fp32, vs torchvision fp32 (eager)"] is met


def test_a_round_left_out_for_time_does_not_hide_the_others():
    results = case_results(TRAIN, **{"ours-fp32": 2.0, "torchvision-fp32-plain": 3.0})
    results.runs["ours-fp32"] *= 2
    assert results.best("torchvision", "fp32") == "torchvision-fp32-plain"
    twice = case_results(TRAIN, **{"torchvision-fp32-plain": 3.0, "torchvision-fp32-channels_last": 2.0})
    twice.runs["torchvision-fp32-plain"] *= 2
    assert twice.best("torchvision", "fp32") == "torchvision-fp32-plain"


def test_faster_engine_with_other_detections_does_not_count():
    case = case_results(INFER, ours_fp32=0.6, ours_fp32_compiled=0.3, torchvision_fp32_plain=1.0)
    for name, same in (("ours-fp32", True), ("ours-fp32-compiled", False)):
        case.runs[name][0]["matches"] = {"same": same, "matched": 9, "near": 9}
    results = Results(machine(WIDE), "bench", cases=[case])
    assert verdicts(results)["inference, best engine, fp32, vs torchvision fp32 (compiled)"] is False


def test_missing_bf16_and_missing_checkout_are_named():
    targets = {t.target: t for t in evaluate_targets(Results(machine(NARROW), "bench"))}
    assert targets["training step on resnet18, fp32, / the other checkout's"].missing_reason == "needs --against"
    assert not any("bf16" in name for name in targets)


def test_steps_on_light_backbones_are_compared_with_their_kernels(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "describe_machine", lambda *_: machine(NARROW))
    monkeypatch.setattr(run, "run_job", lambda *_: 1e11)
    measured = run.BenchmarkRun(arguments(), tmp_path, lambda _: None)
    for case in SMALL:
        turn = run.Turn("ours-fp32", Contender("ours", "fp32"), case)
        assert measured._replays(Item("steps", case), turn)
        assert not measured._replays(Item("steps", case, 1), turn)
    case = case_results(SMALL[0], ours_fp32=0.9, before_fp32=1.0)
    case.runs["ours-fp32"][0]["kernels"] = [0.5, 0.6, 0.7]
    targets = {t.target: t for t in evaluate_targets(Results(machine(NARROW), "bench", cases=[case]))}
    floor = targets[f"... of its kernels alone, {SMALL[0].backbone}"]
    assert (floor.values, floor.met) == ([0.6], None)
    assert targets[f"training step on {SMALL[0].backbone}, fp32, / the other checkout's"].values == [0.9]


def test_scaling_is_reported_as_it_is_measured(monkeypatch):
    monkeypatch.setattr(scaling, "build_libradet", lambda *_: None)
    monkeypatch.setattr(scaling, "prepare_libradet", lambda *_: None)
    monkeypatch.setattr(scaling, "make_inputs", lambda *_: None)
    monkeypatch.setattr(scaling, "make_step", lambda *_: lambda: None)
    measured = scaling.measure_scaling(TRAIN, Path("weights.pth"), "fp32", 2)
    results = Results(machine(NARROW), "python -m benchmarks", scaling=json.loads(json.dumps(measured)))
    page = "\n".join(to_markdown(results))
    assert f"{TRAIN.name}, fp32: seconds of a training step per image." in page
    assert all(f"| {number} |" in page for number in (1, 8, 100))
    assert [t.target for t in evaluate_targets(results)][-1] == "time per image, 100 / 1 objects per image"


def test_page_has_a_section_for_each_kind(monkeypatch, tmp_path):
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(publish, "PAGE", tmp_path / "speed.md")
    case = case_results(TRAIN, ours_fp32=0.5, torchvision_fp32_plain=1.0)
    case.agreement = None
    results = Results(
        machine(NARROW),
        "python -m benchmarks",
        cases=[case],
        left_out=["a: x, round 1", "a: y, round 1", "a: x, round 2", "scaling"],
    )
    results.loader = [{"file": [480, 640], "bytes": 1000, "size": [480, 640], "images": 4}]
    results.loader[0]["seconds"] = {"ours": [1.0], "torchvision": [3.0]}
    page = publish.publish(results).read_text()
    assert "## AVX-512 with bf16\n\nNo results yet" in page
    assert "## AVX2 without bf16" in page
    assert "Left out:\n\n- a, round 1: x, y\n- a, round 2: x\n- scaling\n" in page
    assert "| training step, fp32, vs torchvision fp32 | 2.00x | >= 1.3 | **not met** (outputs not compared) |" in page
    assert "| loading, images per second and core at 640, vs torchvision's | 3.00x | >= 2 | met |" in page
    stored = json.loads((tmp_path / "results" / "speed_avx2.json").read_text())
    assert Results.from_json(stored).cases == [case]


def test_other_libraries_have_a_section_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(publish, "PAGE", tmp_path / "speed.md")
    own = case_results(TRAIN, ours_fp32=0.5, torchvision_fp32_plain=1.0)
    own.agreement = None
    publish.publish(Results(machine(NARROW), "python -m benchmarks", cases=[own]))
    for number, case in enumerate((TRAIN, INFER)):
        peers = case_results(case, ours_fp32=0.7, mmdetection_fp32=1.4)
        if case == INFER:
            peers.runs["rf-detr-fp32"] = peers.runs["ours-fp32"]
        peers.agreement = None
        file = tmp_path / f"{number}.json"
        results = Results(machine(NARROW), f"run {number}", left_out=[f"{case.name}: x, round 2"], cases=[peers])
        results.loader = [{"file": [480, 640], "bytes": 1000, "size": [480, 640], "images": 4}]
        results.loader[0]["seconds"] = {"ours": [1.0], "torchvision": [3.0], "ultralytics": [2.0]}
        file.write_text(to_json(results))
        page = publish.publish_peers(file).read_text()
    before, after = page.split("### Other libraries and engines\n")
    assert "| training step, fp32, vs torchvision fp32 | 2.00x" in before
    assert "mmdetection" not in before
    assert "run 0\nrun 1" in after
    assert f"- {INFER.name}, round 2: x\n" in after
    for case in (TRAIN, INFER):
        assert f"#### {case.name} with other libraries\n" in after
    assert after.count("another detector") == 1
    assert "#### Loading with other libraries\n" in after
    assert "| 480 x 640 | 4 | 1 | 2 | 3.00x |" in after
    assert "### Targets" not in after


def test_rf_detr_is_compared_on_single_images_only():
    """It is another detector, so that its losses are not the same."""
    names = {case: [c.name for c in list_contenders(case, bf16=False, peers=True)] for case in (INFER, TRAIN, *SMALL)}
    assert [case for case, contenders in names.items() if "rf-detr-fp32" in contenders] == [INFER]
    assert "mmdetection-fp32" in names[TRAIN]


def test_a_further_run_replaces_what_it_measured_and_keeps_the_rest():
    left_out = ["scaling", "loader", f"{OTHERS[1].name}: ours-fp32, round 1", "weights of mask_rcnn-480x640"]
    left_out += [f"{INFER.name}: ours-fp32-compiled, round 1"]
    cases = [case_results(TRAIN, ours_fp32=2.0), case_results(INFER, ours_fp32=1.0)]
    stored = Results(machine(NARROW), "first", 38.0, left_out, {"scaling": "no time", "bf16": "none"}, cases=cases)
    new = [case_results(INFER, ours_fp32=0.9), case_results(OTHERS[1], ours_fp32=3.0), CaseResults(OTHERS[2])]
    later = {"date": "2026-11-28 12:55 UTC", "commits": {"ours": "def"}}
    further = Results(machine(NARROW) | later, "second", 9.0, cases=new)
    further.scaling = {"batch": {}}
    joined = join(stored, further)
    assert [(c.case, c.runs["ours-fp32"][0]["seconds"]) for c in joined.cases] == [
        (TRAIN, [2.0]),
        (INFER, [0.9]),
        (OTHERS[1], [3.0]),
    ]
    assert joined.left_out == ["loader", left_out[-1]]
    assert joined.unavailable == {"bf16": "none"}
    assert (joined.command, joined.minutes, joined.scaling) == ("first\nsecond", 47.0, {"batch": {}})
    assert joined.machine["commits"]["ours"] == "abc, def"
    _title, described = islice(results_section(joined), 2)
    assert described.startswith("2026-11-28 09:24, 12:55 UTC, p, 2 cores")


def test_runs_of_different_processors_or_versions_are_not_joined():
    stored = Results(machine(NARROW), "first")
    for changes in ({"instructions": WIDE}, {"threads": 1}, {"versions": {"torch": "3"}}):
        with pytest.raises(ValueError, match=f"differ in {next(iter(changes))}"):
            join(stored, Results(machine(NARROW) | changes, "second"))


def test_minimum_side_of_proposals_lies_between_two_sides():
    sides = [1.0, 2.0, 4.0, 4.0, 8.0, 16.0]

    def count(min_size):
        return sum(side >= min_size for side in sides)

    for wanted, expected, remaining in ((1, 12, 1), (2, 6, 2), (3, 6, 2), (4, 3, 4), (5, 1.5, 5)):
        min_size = find_min_size(count, wanted, 100.0)
        assert min_size == pytest.approx(expected)
        assert count(min_size) == remaining


def test_kinds():
    assert [kind_of(names) for names in (WIDE, WIDE[:2], NARROW, [])] == ["avx512_bf16", "avx512", "avx2", "baseline"]
