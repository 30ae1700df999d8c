import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
IMPORTS = {"jax", "jaxnet", "numpy", "optax", "pathlib", "pytest", "reference_numpy", "tempfile"}
# What a loss, a softmax, a layer or a derivative would be made of; passing np.exp on as a subject is fine.
MATHS = {"exp", "expm1", "log", "log1p", "logaddexp", "dot", "matmul", "einsum", "tanh", "gradient"}
MACHINE = re.compile(r"/(?:tmp|work|home|root|Users)/|[A-Z]:\\|0x[0-9a-f]{6}")
MAX_BYTES = 300_000

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _read(path):
    notebook = nbformat.read(path, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def _images(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_there_is_one_notebook_per_section():
    assert [path.stem[:3] for path in NOTEBOOKS if path.stem[1] == "."] == ["4.1", "4.2", "4.3", "4.4"]


@every_notebook
def test_committed_outputs_are_those_of_one_whole_run(path):
    notebook, cells = _read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < MAX_BYTES
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(map(_images, cells))
    for cell in cells:
        assert not cell.metadata  # of execution times, above all
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
            assert not MACHINE.search(output.get("text", "") + output.get("data", {}).get("text/plain", ""))
        if "plots." in cell.source:
            assert _images(cell) == 1, "the figure is not shown"
        if "print(" in cell.source:
            assert any(output.get("name") == "stdout" for output in cell.outputs)


@every_notebook
def test_defines_no_maths_of_its_own(path):
    _, cells = _read(path)
    source = re.sub(r"^%.*$", "", "\n".join(cell.source for cell in cells), flags=re.MULTILINE)
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)), node.name
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)), ast.unparse(node)
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= IMPORTS
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in IMPORTS
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            library = ast.unparse(node.func.value)
            assert not (library in ("np", "jnp") and node.func.attr in MATHS), ast.unparse(node)


# Other releases of the Jupyter packages warn of their own coming changes. What the notebook itself warns of
# is in its outputs, checked below.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@every_notebook
def test_runs_in_a_fresh_kernel(path):
    committed, _ = _read(path)
    fresh, cells = _read(path)
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    NotebookClient(fresh, timeout=120, kernel_name="python3").execute()  # raises where a cell does
    for old, new in zip(committed.cells, fresh.cells, strict=True):
        if old.cell_type == "code":
            assert _images(new) == _images(old)
            printed = "".join(output.get("text", "") for output in new.outputs)
            # Where MNIST is to be downloaded, pooch's tqdm misses ipywidgets: no matter.
            assert not re.search(r"\b(?!Tqdm)\w+Warning:", printed), printed
