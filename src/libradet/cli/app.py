"""Entry point of the command line: parser, error handling and exit codes."""

import io
import os
import sys
from collections.abc import Sequence

from libradet.cli import analyze, convert, data, evaluate, export, models, predict, reproduce
from libradet.cli.options import Parser
from libradet.errors import UserError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0, 2 on bad input, or 128 + the number of the signal that stopped it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # File names may contain bytes that the terminal's encoding cannot represent.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(argv)
    except UserError as error:
        return _report(error)
    except KeyboardInterrupt:
        print("libradet: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the process that reads our output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> Parser:
    """Return the parser of all commands but ``train``, whose options come from the configuration classes."""
    description = "Train, evaluate and deploy object detectors with balanced learning (Libra R-CNN)."
    parser = Parser(prog="libradet", description=description)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser("train", help="train a detector on your dataset (libradet train --help)", add_help=False)
    for command in (evaluate, predict, convert, export, analyze, reproduce, data, models):
        command.add_parser(commands)
    return parser


def _run(argv: list[str]) -> int:
    if argv[:1] == ["train"]:
        from libradet.cli import train

        return train.run(argv[1:])
    args = build_parser().parse_args(argv)
    return args.run(args)


def _report(error: UserError) -> int:
    # All processes of a distributed run stop with the same error: only the first prints it, and the others return 0
    # so that the launcher does not report them as failed.
    shared = getattr(error, "shared", False)
    if shared and os.environ.get("LOCAL_RANK", "0") != "0":
        return 0
    code = getattr(error, "exit_code", 2)
    prefix = "libradet: error: " if code == 2 else "libradet: "
    print(f"{prefix}{error}", file=sys.stderr)
    return code


def _version() -> str:
    from libradet import __version__

    return f"libradet {__version__}"
