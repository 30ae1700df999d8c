import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import network, training

ROOT = Path(__file__).parent.parent


def blocks_of(name):
    """Return the Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_python_of_the_readme_runs_and_its_gradients_agree():
    names = {}
    for block in blocks_of("README.md"):
        exec(block, names)
    assert names["result"].history.loss.shape == (5_000,)
    assert names["result"].history.test["accuracy"][-1] > 0.95
    for one, other in (("by_jax", "by_hand"), ("by_jax", "numerical")):
        for a, b in zip(jax.tree.leaves(names[one]), jax.tree.leaves(names[other]), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)


def numbers(text):
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", text)]


def sentence(start, end):
    """Return README's words between two others."""
    text = " ".join((ROOT / "README.md").read_text().split())
    return re.search(re.escape(start) + "(.*?)" + re.escape(end), text)[1]


def test_the_speed_in_the_readme_is_the_measured_one():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    [on_the_cpu] = re.findall(r"^## CPU: (.*?)(?:^## GPU|\Z)", results, re.M | re.S)
    rows = re.findall(r"^\| (.+?) \| [\d.]+ \| \d+ \| (\d+) \(", on_the_cpu, re.M)
    measured = {name: float(microseconds) for name, microseconds in rows}
    fit, many, shared, separate = numbers(sentence("takes `fit` ", " on separate ones"))
    assert many == 16
    assert fit == measured["`fit`"]
    assert shared == measured["`fit_many`, 16 on shared batches"]
    assert separate == measured["`fit_many`, 16 on separate batches"]
    peers = (
        "NumPy float32 by hand",
        "scikit-learn MLPClassifier",
        "PyTorch by hand",
        "PyTorch eager",
        "Flax NNX",
    )
    others = [measured[name] for name in (*peers, "jitted step, Python loop")]
    assert numbers(sentence("and a jitted step take ", ".")) == [min(others), max(others)]
    limit = re.search(r"so (\d+) us a step", on_the_cpu)[1]
    assert numbers(sentence("matrix products alone take ", " us")) == [float(limit)]


def test_what_the_readme_says_of_checkers_is_what_was_measured():
    told = (ROOT / "benchmarks" / "CHECKERS.md").read_text()
    ours, jaxs, torchs = (
        [float(number) for number in re.search(rf"^{name} +(\d+)/(\d+) +(\d+)/(\d+)", told, re.M).groups()]
        for name in ("jaxnet", "jax check_grads", "torch gradcheck")
    )
    assert numbers(sentence("a catalogue of ", " right gradients")) == [ours[1], ours[3]]
    assert numbers(sentence("caught, false alarms | jaxnet ", "; `check_grads`")) == [ours[0], ours[2]]
    assert numbers(sentence("; `check_grads` ", "; torch")) == jaxs
    assert numbers(sentence("torch `gradcheck` ", " |")) == torchs
    seconds, times = re.search(
        r"^network.numerical_gradient: ([\d.]+) s, the reference [\d.]+ s: (\d+) x", told, re.M
    ).groups()
    assert numbers(sentence("all 39,760 central differences | ", " the note's loop")) == [
        float(seconds),
        float(times),
    ]
    heavy = [float(number) for number in re.findall(r"its own gradient [\d.]+ s: ([\d.]+) x", told)]
    assert numbers(sentence("an adaptive ODE) | ", " times")) == [min(heavy), max(heavy)]


@pytest.mark.rest
def test_the_models_of_the_page_on_training_train():
    names = {}
    for block in blocks_of("docs/training.md")[:-3]:
        exec(block, names)
        assert len([line for line in block.splitlines() if line.strip()]) <= 15, block
    (x, t), flax = names["test"], names["flax"]
    variables = {"params": flax.params, **flax.model_state}
    assert (names["Net"]().apply(variables, x, train=False).argmax(axis=1) == t).mean() > 0.9
    assert names["rare"].history.test["accuracy"][-1] > 0.85
    assert float(names["folds"].mean["loss"]) < 0.55
    assert names["equinox"].params(names["images"][0]).shape == (10,)
    for run in ("equinox", "recurrent", "vae"):
        loss = names[run].history.loss
        assert loss[-10:].mean() < 0.8 * loss[:10].mean()
    assert names["vae"].history.aux["kl"].shape == names["vae"].history.loss.shape


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs" / "guides").glob("*.md")))
def test_the_python_of_the_guides_runs(name):
    blocks = blocks_of(f"docs/guides/{name}")
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)  # they hold their own assertions


def losses_of_a_loop(loss, params, x, t):
    """Return the losses of 50 steps of Adam in plain Python, on the batches that `fit` draws."""
    rule = optax.adam(0.01)
    state, losses = rule.init(params), []
    rows = training.draw_batches(jax.random.key(0), 0, 50, 100, len(x))
    step = jax.jit(jax.value_and_grad(loss))
    for batch in np.asarray(rows):
        value, grads = step(params, jnp.asarray(x[batch], float), jnp.asarray(t[batch]))
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return losses


def outputs(params, x):
    (w1, b1), (w2, b2) = params
    return jax.nn.sigmoid(x @ w1 + b1) @ w2 + b2


@pytest.mark.rest
def test_the_examples_of_metrics_run_and_are_plain_loops():
    unbalanced, regression, estimators = blocks_of("docs/training.md")[-3:]
    names = {}
    exec(unbalanced, names)
    x, t = names["train"]
    weights = jnp.asarray(len(t) / (2 * np.bincount(t)), jnp.float32)  # scikit-learn's "balanced"

    def weighted(params, x, t):
        each = optax.softmax_cross_entropy_with_integer_labels(outputs(params, x), t)
        return (weights[t] * each).sum() / weights[t].sum()

    expected = losses_of_a_loop(weighted, network.init(jax.random.key(0), (64, 20, 2)), x, t)
    np.testing.assert_allclose(names["result"].history.loss[:50], expected, rtol=0, atol=1e-6)
    last = {name: values[-1] for name, values in names["result"].history.validation.items()}
    assert list(last) == ["precision", "recall", "f1", "roc_auc"] and last["recall"] > 0.85 < last["roc_auc"]

    exec(regression, names)
    x, t, mean, std, shift, scale = (names[name] for name in ("x", "t", "mean", "std", "shift", "scale"))

    def squared(params, x, t):
        return ((outputs(params, x)[:, 0] - t) ** 2).mean()

    start = network.init(jax.random.key(0), (10, 20, 1))
    expected = losses_of_a_loop(squared, start, (x - mean) / std, (t - shift) / scale)
    np.testing.assert_allclose(names["result"].history.loss[:50], expected, rtol=0, atol=1e-6)
    assert names["r2"] > 0.4

    exec(estimators, names)
    assert names["scores"].min() > 0.3
