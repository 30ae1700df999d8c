"""The command line of jaxnet: one file a command, which is loaded once its options are read."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from importlib import import_module
from typing import NoReturn

import jaxnet
from jaxnet.cli import signals
from jaxnet.cli.options import COMMANDS, Formatter, Parser

_DESCRIPTION = """\
Small networks with gradients you can trust.

  jaxnet train --data digits    1,797 handwritten digits, a few seconds, nothing to download

Exit codes: 0 done, 1 a check failed, 2 an error, 3 inconclusive, 130 Ctrl-C, 143 SIGTERM.
JAXNET_DATA_DIR names a folder that holds mnist/ and fashion-mnist/, which are downloaded else."""


def entry() -> NoReturn:
    """Run the command of this process and end it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for the life of the process
        getattr(sys, name).reconfigure(errors="replace")  # a terminal that has no ± gets a question mark
    code = main()
    if code not in (130, 143):
        sys.exit(code)
    # No finalization of the interpreter: it can crash in a compilation that a signal cut short.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 (fails), 2 (error), 3 (inconclusive), 130 (Ctrl-C) or 143 (SIGTERM)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    started = time.perf_counter()
    options = _parser().parse_args(argv)
    with signals.handled() as came:
        code = _run(options, argv, started)
        return 143 if code == 130 and signal.SIGTERM in came else code


def _run(options: argparse.Namespace, argv: list[str], started: float) -> int:
    expected = ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError
    try:
        if getattr(options, "resume", False):
            options = _resumed(options, argv)
        _check_device()
        options.started = started
        with ExitStack() as silent:
            if getattr(options, "quiet", False):
                silent.enter_context(redirect_stdout(silent.enter_context(open(os.devnull, "w"))))
            code: int = import_module(f"{__name__}.{options.command}").run(options)
        return code
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("jaxnet: interrupted", file=sys.stderr)
        return 130
    except (*expected, _jax_error()) as error:
        print(f"jaxnet {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _jax_error() -> type[Exception]:
    import jax

    error: type[Exception] = jax.errors.JaxRuntimeError
    return error


def _check_device() -> None:
    import jax

    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # the one for an absent CUDA, the other for the rest
        reason = str(error) or f"none of {jax.config.values['jax_platforms']}"
        raise ValueError(f"JAX finds no usable device: {reason}") from None


def _resumed(options: argparse.Namespace, argv: list[str]) -> argparse.Namespace:
    """Return the options of the run to resume, checked as the command line's, which come after them."""
    from jaxnet.cli import run_folder

    known = set(vars(_parser().parse_args([options.command])))
    path, saved = run_folder.saved_arguments(options, known)
    try:
        _parser(_Saved).parse_args([options.command, *saved])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return _parser().parse_args([options.command, *saved, *argv[1:]])


class _Saved(Parser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser(kind: type[Parser] = Parser) -> Parser:
    parser = kind(prog="jaxnet", description=_DESCRIPTION, allow_abbrev=False, formatter_class=Formatter)
    parser.add_argument("--version", action="version", version=f"jaxnet {jaxnet.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.help,
            description=command.help,
            epilog="\n  ".join(
                ["examples:", *(f"jaxnet {name} {line}".strip() for line in command.examples)]
            ),
            allow_abbrev=False,
            formatter_class=Formatter,
        )
        command.add_options(sub.add_argument)
    return parser
