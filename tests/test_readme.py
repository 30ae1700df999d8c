import re
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_of_the_readme_runs_and_its_gradients_agree():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    assert names["result"].history.loss.shape == (5_000,)
    assert names["result"].history.test["accuracy"][-1] > 0.95
    for one, other in (("by_jax", "by_hand"), ("by_jax", "numerical")):
        for a, b in zip(jax.tree.leaves(names[one]), jax.tree.leaves(names[other]), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)


def test_the_python_of_the_page_on_training_runs():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/training.md").read_text(), re.DOTALL):
        exec(block, names)
    assert names["flax"].history.test["accuracy"][-1] > 0.9
    assert names["rare"].history.test["accuracy"][-1] > 0.85
    assert float(names["folds"].mean["loss"]) < 0.55
    assert names["equinox"].params(names["images"][0]).shape == (10,)
    for run in ("equinox", "recurrent", "vae"):
        loss = names[run].history.loss
        assert loss[-10:].mean() < 0.8 * loss[:10].mean()
    assert names["vae"].history.aux["kl"].shape == names["vae"].history.loss.shape
