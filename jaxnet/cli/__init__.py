"""The command line of jaxnet: one file a command, which is loaded once its options are read."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from importlib import import_module
from typing import Any, NoReturn

from jaxnet.cli import parser, signals
from jaxnet.cli.settings import COMMANDS, Training


def entry() -> NoReturn:
    """Run the command of this process and end it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the process
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        getattr(sys, name).reconfigure(errors="replace")  # a terminal that has no ± gets a question mark
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C ends the process at once until there is a run: an exception in an import of JAX's can crash.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = main()
    _part(code)
    if code not in (4, 130, 143):
        sys.exit(code)
    # No finalization of the interpreter: it can crash in a compilation that a signal cut short, and would
    # wait for a process that is lost.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _part(code: int) -> None:
    """Leave the other processes of a run, where there are any, once all have come here."""
    if "jax" in sys.modules and code != 4:
        import jax

        if jax.distributed.is_initialized():
            jax.distributed.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, as the help tells them."""
    command, given = parser.parse(sys.argv[1:] if argv is None else argv)
    try:
        import_module("jax")
    except (ImportError, RuntimeError) as error:  # the latter where jaxlib is of another release
        return _told(command, error)
    with signals.handled() as came:
        code = _run(command, given)
        return 143 if code == 130 and signal.SIGTERM in came else code


def _expected() -> tuple[type[Exception], ...]:
    """Return the errors of which one line tells; what else is raised is a fault of ours, told in full."""
    of_python = ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError
    return (*of_python, sys.modules["jax"].errors.JaxRuntimeError) if "jax" in sys.modules else of_python


def _run(command: str, given: dict[str, Any]) -> int:
    try:
        options = parser.complete(command, given)
        if getattr(options, "print_config", False):
            print(parser.as_toml(command, options))
            return 0
        with ExitStack() as context:
            if folder := getattr(options, "data_dir", None):
                os.environ["JAXNET_DATA_DIR"] = str(folder)
            if isinstance(options, Training):
                options = _together(options)
            import jax

            context.enter_context(jax.enable_x64(getattr(options, "dtype", None) == "float64"))
            context.enter_context(jax.default_device(_device(getattr(options, "device", None))))
            if getattr(options, "quiet", False):
                context.enter_context(redirect_stdout(context.enter_context(open(os.devnull, "w"))))
            code: int = import_module(f"{__name__}.{command}").run(options)
        return code
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("jaxnet: interrupted", file=sys.stderr)
        return 130
    except _expected() as error:
        return _told(command, error)


def _told(command: str, error: Exception) -> int:
    """Tell of an error in one line; return the exit code."""
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in message.lower():
        sizes = {"max_networks": "--max-networks", "hidden": "--hidden", "batch_size": "--batch-size"}
        own = [flag for name, flag in sizes.items() if hasattr(COMMANDS[command], name)]
        message += f" (what decides is {', '.join(own) or 'the size of the data'})"
    print(f"jaxnet {command}: error: {message}", file=sys.stderr)
    return int(getattr(error, "exit_code", 2))


def _together(options: Training) -> Training:
    """Connect to the other processes of a run, of which the first alone prints; return its own settings."""
    from jaxnet.cli import machines

    machines.connect(options)
    import jax

    is_other = jax.distributed.is_initialized() and jax.process_index() > 0
    return replace(options, quiet=options.quiet or is_other)


def _device(name: str | None) -> object:
    """Return the device of this name, None for JAX's choice; ValueError, with JAX's reason, if none."""
    import jax

    platform, _, index = (name or "").partition(":")
    try:
        if platform == "cpu":  # before JAX takes the memory of a GPU
            jax.config.update("jax_platforms", platform)
        found = [device for device in jax.devices(platform or None) if index in ("", str(device.id))]
    except (AssertionError, RuntimeError) as error:  # the one for an absent CUDA, the other for the rest
        reason = str(error) or f"none of {jax.config.values['jax_platforms']}"
        raise ValueError(f"JAX finds no usable device: {reason}") from None
    if not found:
        raise ValueError(f"--device must be one of {', '.join(map(str, jax.devices(platform)))}, got {name}")
    return found[0] if name else None
