"""The documentation: that it builds, holds all that is public, and names nothing that is not there."""

import base64
import contextlib
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

import jaxnet
import reference_numpy
from jaxnet.cli import parser as cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("[!_]*/*.md"))]
PAGES += sorted((ROOT / "docs").glob("*.md"))
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; building it fails at any warning."""
    pytest.importorskip("furo")
    sphinx = pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    built = subprocess.run([*command, ROOT / "docs", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    with (folder / "objects.inv").open("rb") as file:
        found = sphinx.util.inventory.InventoryFile.load(file, "", lambda base, name: name)
    return folder, {name for kind, names in found.items() if kind.startswith("py:") for name in names}


def public_names():
    """Yield every public name, as a user writes it: at the top where it is there, else in its module."""
    yield from (f"jaxnet.{name}" for name in jaxnet.__all__ if callable(getattr(jaxnet, name)))
    for _, name, _ in pkgutil.iter_modules(jaxnet.__path__):
        if not name.startswith("_") and name != "cli":
            module = importlib.import_module(f"jaxnet.{name}")
            own = [key for key, value in vars(module).items() if inspect.getmodule(value) is module]
            names = getattr(module, "__all__", [key for key in own if not key.startswith("_")])
            yield from (f"{module.__name__}.{key}" for key in names if key not in jaxnet.__all__)


def test_every_public_name_has_its_place_in_the_api(site):
    names = set(public_names())
    assert len(names) > 80
    assert names - site[1] == set()


def test_every_option_of_every_command_is_on_its_page(site):
    page = re.sub(r"<[^>]*>", "", (site[0] / "cli.html").read_text())
    (commands,) = (action for action in cli.parser()._actions if hasattr(action, "add_parser"))
    assert commands.choices
    for name, command in commands.choices.items():
        section = page[page.index(f"\njaxnet {name}¶") :].partition("\njaxnet ")
        for option in command._option_string_actions:
            assert option in section[0] + section[2].partition("¶\n")[2], (name, option)


@every_page
def test_commands_exist(path):
    """Each line of a shell block parses, names a target of make, or a file that is there."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = path.read_text()
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    lines += re.findall(r"`((?:make|jaxnet|pytest|python -m) [^`\n]+)`", text)
    for line in filter(str.strip, lines):
        program, *words = shlex.split(line.partition(" > ")[0], comments=True)
        if program == "jaxnet":
            with contextlib.suppress(SystemExit):  # of --completion and --help
                assert cli.parse(words)
                continue
            assert {"--completion", "--help", "--version"} & {*words}, line
        elif program == "make":
            assert set(word for word in words if "=" not in word) <= {*targets}, line
        elif "pytest" in line:
            assert all((ROOT / word).exists() for word in words if word.startswith(("tests/", "jaxnet/"))), (
                line
            )
        elif program == "python" and words[1].startswith("benchmarks"):
            assert importlib.util.find_spec(words[1]), line
        else:
            assert program in {"pip", "pre-commit", "export"}, line


@every_page
def test_links_and_files_exist(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / link).exists() or path.name == "index.md", link
    for name in re.findall(r"`((?:jaxnet|tests|training|gradcheck)/[\w/]+\.py)`", text):
        assert (ROOT / name).exists() or (ROOT / "jaxnet" / name).exists(), name


def test_the_files_of_the_design_exist():
    for page, folder in (("design.md", "jaxnet"), ("gradcheck.md", "jaxnet/gradcheck")):
        names = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
        files = re.findall(r"`([\w/]+\.py)`", "".join(names))
        assert len(files) > 10
        assert [name for name in files if not (ROOT / folder / name).exists()] == []


def test_the_readme_is_short_and_its_names_exist():
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") < 150
    table = text.partition("## The note's names")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 10
    for _, published, corrected, ours in rows:
        for name in re.findall(r"`(\w+)`", published + corrected):
            assert hasattr(reference_numpy, name), name
        for name in re.findall(r"`([\w.]+)`", ours):
            thing = jaxnet
            for part in name.split("."):
                thing = getattr(thing, part)


def test_the_readmes_picture_is_that_of_the_notebook():
    notebook = nbformat.read(ROOT / "notebooks" / "4.3-two-layer-network.ipynb", as_version=4)
    pictures = [
        base64.b64decode(output["data"]["image/png"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert (ROOT / "docs" / "images" / "published-softmax.png").read_bytes() in pictures


def test_there_is_one_version():
    assert version("jaxnet") == jaxnet.__version__
    for name in ("pyproject.toml", "CITATION.cff", "docs/conf.py"):
        assert jaxnet.__version__ not in (ROOT / name).read_text()


@pytest.mark.parametrize("found", ["3.10.13", "absent"])
def test_make_says_that_python_is_too_old_and_leaves_nothing(tmp_path, found):
    python = tmp_path / "python"
    if found != "absent":
        python.write_text(f"#!/bin/sh\nprintf {found}\n")
        python.chmod(0o755)
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    # Not as a part of the make that may run the tests, which would tell the folders it enters.
    makes = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CONSTRAINTS", "VENV")
    alone = {name: value for name, value in os.environ.items() if name not in makes}
    command = ["make", "demo", f"PYTHON={python}"]
    made = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)
    assert made.returncode == 2 and made.stdout == ""
    (line,) = made.stderr.splitlines()
    assert f"jaxnet needs Python 3.11 or newer and {python} is {found}: name another" in line
    assert sorted(path.name for path in folder.iterdir()) == ["Makefile", "pyproject.toml"]
