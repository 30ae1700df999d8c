"""The second catalogue: functions as people write them, each with its right gradient and a wrong one."""

import jax
import numpy as np
import pytest
from people import CASES, right_gradient, wrong_gradient

from jaxnet import check_gradients


def test_the_catalogue_is_large():
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)


LONG = "diffrax"  # half a minute each, compiled without optimization; test_kinds and test_locate have some


def marked(case):
    return pytest.param(case, id=case.name, marks=[pytest.mark.rest] if case.name.startswith(LONG) else [])


@pytest.mark.sampled(10)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_the_right_gradient_passes_beside_a_wrong_one_that_fails(case, dtype):
    f, args = case.build(dtype)
    candidates = {"right": right_gradient(case, dtype), "wrong": wrong_gradient(case, dtype)}
    report = check_gradients(f, *args, argnums=case.argnums, candidates=candidates, locate=False)
    failed = {name for leaf in report.leaves for name in leaf.failed}
    if case.expect == "inconclusive":
        assert failed <= {"wrong"}, str(report)
    else:
        assert report.verdict == "fail" and failed == {"wrong"}, str(report)
    assert not jax.config.jax_enable_x64
