"""The documentation's build: `make docs`."""

import argparse
import html
from collections.abc import Iterator
from typing import Any

import jaxnet
from jaxnet.cli.parser import parser

project, author, release = "jaxnet", "the jaxnet authors", jaxnet.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme, html_title = "furo", f"jaxnet {release}"
html_theme_options = {"navigation_with_keys": True}

# What a notebook shows is what is committed with it: the tests run them.
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
default_role = "code"  # the docstrings' `name`
smartquotes = False  # of --steps
html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": True}
python_maximum_signature_line_length = 88  # a long signature has a line for each argument


def options_of(command: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the Markdown of one command: what it does, and each option with its meaning."""
    yield f"{command.description}\n\n"
    formatter = command._get_formatter()
    for action in command._actions:
        names = ", ".join(action.option_strings) or action.dest
        value = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
        told = html.escape(formatter._expand_help(action) if action.help else "")
        yield f"`{f'{names} {value}'.strip().replace(',', ', ').replace(',  ', ', ')}`\n: {told}\n\n"


def commands_of() -> Iterator[str]:
    """Yield the Markdown of every command, from its parser."""
    (commands,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        yield f"\n## jaxnet {name}\n\n{''.join(options_of(command))}"


def _fill_in(app: Any, name: str, source: list[str]) -> None:
    if name == "cli":
        source[0] = source[0].replace("COMMANDS", "".join(commands_of()))


def _shorten(app: Any, kind: str, name: str, thing: Any, options: Any, *signature: str | None) -> Any:
    return tuple(text and text.replace("jaxlib._jax.Array", "Array") for text in signature)


def _leave_out_aliases(app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    if lines and lines[0].startswith("Alias for field number"):  # of a NamedTuple, by Python
        lines.clear()


def setup(app: Any) -> None:
    """Tell Sphinx what writes the page of the command line, and how arrays are named."""
    app.connect("source-read", _fill_in)
    app.connect("autodoc-process-signature", _shorten)
    app.connect("autodoc-process-docstring", _leave_out_aliases)
