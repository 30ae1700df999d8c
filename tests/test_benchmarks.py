import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import check_agreement
from benchmarks.limit import step_flops

ROOT = Path(__file__).parents[1]


@pytest.mark.rest
def test_driver_measures_two_contenders(tmp_path):
    out = tmp_path / "RESULTS.md"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "numpy", "step", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    lines = out.read_text().splitlines()
    cells = {
        line.split(" | ")[0][2:]: line.strip("| ").split(" | ") for line in lines if line.startswith("| ")
    }
    numpy, step = cells["NumPy float32 by hand"], cells["jitted step, Python loop"]
    assert numpy[2] == step[2] == "50"
    assert float(numpy[-1]) == pytest.approx(float(step[-1]), abs=1e-4)
    assert float(step[1]) > 0
    assert float(step[-3]) > float(step[-2]) > 0  # MB: the peak is above what was held before
    assert str(tmp_path) not in "".join(lines[4:])


def test_contenders_that_end_elsewhere_are_refused():
    falling = np.linspace(2.3, 0.3, 300)
    assert check_agreement({"numpy": falling, "fit_many_16": falling[:200] + 1e-5})["numpy"] < 1
    with pytest.raises(SystemExit, match="torch does not do the work of numpy"):
        check_agreement({"numpy": falling, "torch": falling + 0.01})
    with pytest.raises(SystemExit):
        check_agreement({"numpy": falling, "torch": np.full(300, np.nan)})


def test_step_flops_counts_every_product():
    rng = np.random.default_rng(0)
    x, w1, w2 = rng.random((6, 4)), rng.random((4, 3)), rng.random((3, 2))
    dz = rng.random((6, 2))
    products = [(x, w1), (x @ w1, w2), ((x @ w1).T, dz), (dz, w2.T), (x.T, dz @ w2.T)]
    assert step_flops((4, 3, 2), 6) == sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in products)
