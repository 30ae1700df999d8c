import re
from pathlib import Path

import jax
import numpy as np

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_python_of_the_readme_runs_and_its_gradients_agree():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    assert names["result"].history.loss.shape == (5_000,)
    assert names["result"].history.test["accuracy"][-1] > 0.95
    for one, other in (("by_jax", "by_hand"), ("by_jax", "numerical")):
        for a, b in zip(jax.tree.leaves(names[one]), jax.tree.leaves(names[other]), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)
