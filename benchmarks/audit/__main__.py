"""Audit the ecosystem's derivatives with the gradient checker: `python -m benchmarks.audit`.

Every differentiable function that jax.numpy, jax.scipy, jax.nn, jax.lax, optax.losses and optax.projections
make public, at ordinary and at special points, by reverse and forward autodiff. The functions are found from
the modules' names, so that those of a new release are audited too; RULES says how to call the ones that need
more than arrays, LEFT_OUT why the others are not looked at.

What the checker accuses is settled by ORACLES, the same functions in mpmath's arithmetic: their slopes on
both sides of the point, from steps far below what float64 resolves. A gradient is right if it lies between
the two; infinity is right where one of them is infinite. Listed as wrong is only what an oracle confirms. An
accusation that it refutes, and a wrong derivative that passes, are faults of the checker.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.scipy
import jax.scipy.spatial.transform
import numpy as np
import optax

# The checker, and what jax returns.
from benchmarks.audit.engine import Finding, audit
from benchmarks.audit.oracles import SEEN
from benchmarks.audit.rules import named


def numbers(values: np.ndarray, where: np.ndarray) -> str:
    """A few elements as text, wrong ones first."""
    chosen = np.flatnonzero(where)[:2] if where.any() else np.arange(len(values))[:2]
    return ", ".join(f"{values[i]:.6g}" for i in chosen) + (", ..." if len(values) > len(chosen) else "")


def texts(f: Finding) -> tuple[str, str]:
    """What jax returns, by mode where they differ, and what is true."""
    wrong = [where for kind, where in f.kinds.values() if kind != "right"]
    shown = wrong[0] if wrong else np.zeros(1, bool)
    got = {mode: numbers(g, shown) if isinstance(g, np.ndarray) else g for mode, g in f.gradients.items()}
    said = "; ".join(f"{mode}: {text}" for mode, text in got.items())
    if f.truth is None:
        return said, ""
    low, high = numbers(f.truth.low, shown), numbers(f.truth.high, shown)
    same = len(set(got.values())) == 1
    return next(iter(got.values())) if same else said, low if low == high else f"{low} to {high}"


def row(f: Finding) -> str:
    got, true = texts(f)
    return f"{f.function} | {f.point} | {got} | {true} | {f.kind or ''} | {f.verdict} {f.detail}"


def table(findings: Sequence[Finding]) -> str:
    """What is wrong as a table in Markdown; functions with the same rows in one."""
    names: dict[tuple[str, ...], list[str]] = {}
    for f in findings:
        got, true = texts(f)
        here = f"here, {optax.__version__}" if f.function.startswith("optax") else f"here, {jax.__version__}"
        seen = next((text for patterns, text in SEEN.items() if named(f.function, patterns)), here)
        names.setdefault((f.point, got, true, f.how, seen), []).append(f.function)
    rows = [[", ".join(f"`{name}`" for name in found), *cells] for cells, found in names.items()]
    head = ["function", "at", "jax returns", "true", "according to", "seen since"]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *sorted(rows)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="MODULE", default="", help="only names that begin like this")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write what is wrong as a table")
    options = parser.parse_args()
    findings, left_out = audit(options.only, options.dtype)
    checked = [f for f in findings if f.verdict not in ("no derivative", "not callable")]
    functions = {f.function.split("[")[0] for f in checked}
    known = [f for f in checked if f.kind is not None]
    releases = f"jax {jax.__version__}, optax {optax.__version__}, {options.dtype}"
    summary = f"{releases}: {len(functions)} functions at {len(checked)} points, {len(known)} with an oracle"
    lists: dict[str, list[Finding]] = {
        "wrong": [f for f in known if f.kind == "wrong"],
        "wrong, yet passed by the checker": [f for f in known if f.kind == "wrong" and f.verdict == "pass"],
        "not confirmed: right by the oracle, failed by the checker": [
            f for f in known if f.verdict == "fail" and f.kind in ("right", "rounding")
        ],
        "failed by the checker, without an oracle": [
            f for f in checked if f.verdict == "fail" and f.kind is None
        ],
        "between the slopes beside a tie, not at it": [f for f in known if f.kind == "tie"],
        "off with the function's own value": [f for f in known if f.kind == "value"],
        "off by the last bits of 1": [f for f in known if f.kind == "rounding"],
        "inconclusive": [f for f in checked if f.verdict == "inconclusive"],
        "exceptions of the checker": [f for f in checked if f.verdict == "exception"],
        "no derivative": [f for f in findings if f.verdict == "no derivative"],
        "not callable as the rules say": [f for f in findings if f.verdict == "not callable"],
    }
    for name, found in lists.items():
        print(f"\n{name}: {len(found)}")
        for f in found:
            print("  " + row(f))
    print("\nleft out:")
    for reason, some in itertools.groupby(sorted(left_out, key=lambda n: left_out[n]), lambda n: left_out[n]):
        print(f"  {reason}: {', '.join(some)}")
    print(f"\n{summary}; {len(lists['wrong'])} wrong")
    if options.out:
        options.out.write_text(f"{summary}.\n\n{table(lists['wrong'])}\n")


if __name__ == "__main__":
    main()
