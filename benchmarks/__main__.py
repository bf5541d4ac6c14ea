"""Benchmark libradet against torchvision on this machine.

python -m benchmarks                                   cases of the performance targets and others, within 38 minutes
python -m benchmarks --all --output runs/bench_all     every detector, size, batch size, precision and library, hours
python -m benchmarks --cases 'infer/*/800x1344/*' --parts steps --engines
python -m benchmarks --against ../older/src            also the libradet of another checkout
python -m benchmarks --publish                         also update docs/results/speed.md
python -m benchmarks --instructions avx2               as on a processor without AVX-512 and bf16
"""

import argparse
import os
import tempfile
from pathlib import Path

PARTS = ("steps", "proposals", "operations", "loader", "scaling", "evaluation")
BUDGET_MINUTES = 38.0
INSTRUCTIONS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--cases", nargs="+", default=[], metavar="PATTERN", help="select step cases by name")
    parser.add_argument("--contenders", nargs="+", default=["*"], metavar="PATTERN", help="such as 'ours-bf16*'")
    parser.add_argument("--all", action="store_true", help="all cases, engines and installed libraries")
    parser.add_argument("--engines", action="store_true", help="libradet's other engines in all cases of inference")
    parser.add_argument("--compiled", action="store_true", help="compiled training in all cases")
    text = "also libraries in environments of their own (see python -m benchmarks.peers)"
    parser.add_argument("--peers", action="store_true", help=text)
    parser.add_argument("--list", action="store_true", help="print the names of all cases and exit")
    parser.add_argument("--against", type=Path, metavar="SRC", help="folder with another libradet, run in turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="processes per contender")
    parser.add_argument("--steps", type=int, help="timed steps per process (default: 7 for inference, 3 for training)")
    parser.add_argument("--images", type=int, default=5000, help="number of images for the evaluation")
    text = (
        f"minutes after which nothing is measured, 0: unlimited (default: {BUDGET_MINUTES:g}; 0 with --all or --cases)"
    )
    parser.add_argument("--budget", type=float, metavar="MINUTES", help=text)
    text = "use no wider vector instructions"
    parser.add_argument("--instructions", choices=INSTRUCTIONS, help=text)
    parser.add_argument("--quick", action="store_true", help="smoke test: tiny images, one round")
    text = "report, written to OUTPUT.md and OUTPUT.json (default: runs/bench)"
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help=text)
    text = "write the results to benchmarks/results and docs/results/speed.md, in place of those of the same processors"
    parser.add_argument("--publish", action="store_true", help=text)
    args = parser.parse_args()
    if args.budget is None:
        args.budget = 0.0 if args.all or args.cases else BUDGET_MINUTES
    return args


def main() -> None:
    """Measure, write the report after each item, and print the targets."""
    args = parse_arguments()
    # Before torch is imported.
    os.environ.update(INSTRUCTIONS.get(args.instructions, {}))
    from benchmarks.cases import ALL
    from benchmarks.publish import publish
    from benchmarks.report import group_left_out, target_row, write_report
    from benchmarks.run import BenchmarkRun, log
    from benchmarks.targets import evaluate_targets

    if args.list:
        log("\n".join(case.name for case in ALL))
        return
    with tempfile.TemporaryDirectory() as folder:
        # Engines compile and convert in the first round, whatever earlier runs have left.
        os.environ |= {"LIBRADET_CACHE_DIR": f"{folder}/engines", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        run = BenchmarkRun(args, Path(folder), lambda results: write_report(results, args.output))
        log(", ".join(f"{key} {value}" for key, value in run.results.machine.items()))
        for name, reason in run.results.unavailable.items():
            log(f"{name}: {reason}")
        run.execute()
    log(f"\n{run.results.minutes:.1f} minutes")
    if run.results.left_out:
        log("left out for time:\n" + "\n".join(f"  {line}" for line in group_left_out(run.results.left_out)) + "\n")
    for target, value, wanted, outcome in map(target_row, evaluate_targets(run.results)):
        log(f"{target:70} {value:>24}  {wanted:16} {outcome}")
    log(f"\n{args.output.with_suffix('.md')}, {args.output.with_suffix('.json')}")
    if args.publish:
        log(f"{publish(run.results)}")


if __name__ == "__main__":
    main()
