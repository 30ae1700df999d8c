"""The audit itself: every function at every point, in a process that can be ended where it does not end."""

import contextlib
import functools
import multiprocessing
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

import jax
import jax.scipy
import jax.scipy.spatial.transform
import mpmath as mp
import numpy as np

from benchmarks.audit.calls import Case, automatic, compiled, floating, summed
from benchmarks.audit.oracles import oracle_of
from benchmarks.audit.rules import LEFT_OUT, RULES, Rule, named, public_functions
from benchmarks.audit.truth import DIGITS, ORACLE_PATIENCE, Kind, Truth, at_most, kind_of, truth_of
from jaxnet import check_gradients

# The checker, and what jax returns.

Verdict = Literal["pass", "fail", "inconclusive", "exception", "no derivative", "not callable"]


def judge(f: Callable[..., Any], args: tuple[Any, ...], argnums: tuple[int, ...]) -> tuple[Verdict, str]:
    """The checker's verdict on f at args, and what it says about it."""
    try:
        report = check_gradients(f, *args, argnums=argnums)
    except Exception:  # that the checker raises is what the audit looks for: listed, with its traceback
        return "exception", traceback.format_exc(limit=-2)
    return report.verdict, report.summary + (f" {report.worst.reason}" if report.worst.reason else "")


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


@functools.lru_cache(8)
def gradient(f: Callable[..., Any], mode: str, argnums: tuple[int, ...]) -> Callable[..., Any]:
    return compiled(jax.grad(f, argnums) if mode == "reverse" else jax.jacfwd(f, argnums))


def derivatives(case: Case) -> dict[str, np.ndarray | str]:
    """The gradient by each mode of autodiff, or why there is none."""
    found: dict[str, np.ndarray | str] = {}
    for mode in ("reverse", "forward"):
        try:
            found[mode] = flat(gradient(case.f, mode, case.argnums)(*case.args))
        except (TypeError, ValueError, NotImplementedError) as error:  # jax's refusals of a mode
            found[mode] = str(error).split("\n")[0]
    return found


# The audit.


class Finding(NamedTuple):
    """What came of one function at one point."""

    function: str
    """Its name, and in brackets what is special about the call."""
    point: str
    verdict: Verdict
    detail: str = ""
    """What the checker says, or the exception."""
    gradients: Mapping[str, np.ndarray | str] = {}
    truth: Truth | None = None
    how: str = ""
    """What the truth was computed with."""
    kinds: Mapping[str, tuple[Kind, np.ndarray]] = {}
    """By mode of autodiff."""

    @property
    def kind(self) -> Kind | None:
        """The worst of both modes; None where no oracle says."""
        order: tuple[Kind, ...] = ("wrong", "value", "tie", "rounding", "right")
        found = [kind for kind, _ in self.kinds.values()]
        return next((kind for kind in order if kind in found), None)


def cases(name: str, fn: Callable[..., Any], rule: Rule, dtype: str) -> Iterator[Case]:
    """A function at the points of a rule where it is finite, by the arguments that are."""
    f = summed(rule, fn)
    value_of = compiled(f)
    for point, values in rule.points.items():
        args = tuple(np.asarray(v, dtype) if floating(v) else v for v in values)
        argnums = tuple(n for n, arg in enumerate(args) if floating(arg) and np.isfinite(arg).all())
        if argnums and np.isfinite(value_of(*args)):
            yield Case(name, rule.note, point, f, args, argnums)


def ordinary(case: Case, gradients: Mapping[str, np.ndarray | str]) -> bool:
    """Whether nothing about a case is special, so that it can be checked together with others."""
    values = [abs(g) for g in gradients.values() if isinstance(g, np.ndarray)]
    numbers = all(np.ndim(arg) == 0 and floating(arg) for arg in case.args)
    return (
        numbers
        and len(case.argnums) == len(case.args)
        and all(((v > 1e-3) & (v < 1e3)).all() for v in values)
    )


def able(found: Sequence[Case]) -> tuple[set[int], str]:
    """The arguments that jax differentiates by in either mode, and what it says of the others."""
    can: set[int] = set()
    why: dict[str, None] = {}
    for case in found[:1]:
        if any(isinstance(g, np.ndarray) for g in derivatives(case).values()):
            return {n for case in found for n in case.argnums}, ""
        for n in case.argnums:
            tried = derivatives(case._replace(argnums=(n,))).values()
            if any(isinstance(g, np.ndarray) for g in tried):
                can.add(n)
            else:
                why[str(next(iter(tried)))] = None
    return can, "; ".join(why)


def examine(
    name: str, fn: Callable[..., Any], dtype: str, skip: set[str], say: Callable[[str], None]
) -> Iterator[Finding]:
    """Check one function everywhere; say what begins, and skip what has not ended before."""
    rules: list[Rule] = [rule for rule in RULES if named(name, rule.names)]
    if all(rule.note for rule in rules):
        auto = automatic(name, fn)
        if isinstance(auto, str) and not rules:
            raise NotImplementedError(auto)
        rules += [] if isinstance(auto, str) else auto
    for rule in rules:
        full = name + f"[{rule.note}]" * bool(rule.note)
        say(f"{rule.note} values")
        try:
            all_cases = list(cases(name, fn, rule, dtype))
        except (TypeError, ValueError, NotImplementedError) as error:  # another release takes other arguments
            yield Finding(full, "", "not callable", str(error).split("\n")[0])
            continue
        can, why = able(all_cases)
        if why:
            yield Finding(full, "", "no derivative", why)
        found = {
            case.point: (case, derivatives(case))
            for case in (
                case._replace(argnums=tuple(n for n in case.argnums if n in can)) for case in all_cases
            )
            if case.argnums
        }
        usual = {point: case for point, (case, gradients) in found.items() if ordinary(case, gradients)}
        if (what := f"{rule.note} ordinary points") in skip:
            usual = {}
        elif usual:
            say(what)
            columns = tuple(
                np.stack(column) for column in zip(*(case.args for case in usual.values()), strict=True)
            )
            if judge(jax.vmap(summed(rule, fn)), columns, tuple(range(len(columns))))[0] != "pass":
                usual = {}
        for point, (case, gradients) in found.items():
            if (what := f"{rule.note} {point}") in skip:
                yield Finding(full, point, "exception", f"does not end in {PATIENCE} s", gradients)
                continue
            say(what)
            verdict, detail = judge(case.f, case.args, case.argnums) if point not in usual else ("pass", "")
            yield Finding(full, point, verdict, detail, gradients, *settled(case, gradients, rule, dtype))


def settled(
    case: Case, gradients: Mapping[str, np.ndarray | str], rule: Rule, dtype: str
) -> tuple[Truth | None, str, dict[str, tuple[Kind, np.ndarray]]]:
    """What the oracle says of a case: the truth, what it was computed with, and what the gradients are."""
    oracle, how = oracle_of(case.function, rule)
    if oracle is None:
        return None, "", {}
    try:
        with at_most(ORACLE_PATIENCE):
            truth = truth_of(oracle, case)
            if np.isnan(truth.low).all():
                return None, "", {}  # nor known
            arrays = {mode: g for mode, g in gradients.items() if isinstance(g, np.ndarray)}
            return truth, how, {mode: kind_of(g, truth, case, oracle, dtype) for mode, g in arrays.items()}
    except (TimeoutError, TypeError, AttributeError, OverflowError):
        return None, "", {}  # not for these arguments


PATIENCE = 60  # seconds for one check: a loop may never end at a point that the checker tries


def serve(connection: Connection, dtype: str) -> None:
    """Examine the functions whose names arrive, in a process that can be ended when one does not end."""
    warnings.simplefilter("ignore")
    mp.mp.dps = DIGITS
    functions, served = dict(public_functions()), 0
    with jax.enable_x64(dtype == "float64"), np.errstate(all="ignore"):
        while True:
            name, skip = connection.recv()
            try:
                found = list(examine(name, functions[name], dtype, skip, connection.send))
                connection.send(found)
            except Exception as error:  # sent, with its traceback, to the parent process, which lists it
                connection.send(
                    error
                    if isinstance(error, NotImplementedError)
                    else RuntimeError(traceback.format_exc(limit=-3))
                )
            served += 1
            if served % 20 == 0:
                jax.clear_caches()


def audit(only: str, dtype: str) -> tuple[list[Finding], dict[str, str]]:
    """Every case of every function, and why the others were left out."""
    findings: list[Finding] = []
    left_out: dict[str, str] = {}
    context = multiprocessing.get_context("spawn")
    start = time.perf_counter()
    child = None
    for name, _ in public_functions():
        reason = next((reason for reason, names in LEFT_OUT.items() if named(name, names)), "")
        if reason:
            left_out[name] = reason
        if reason or not name.startswith(only):
            continue
        begin, skip, found = time.perf_counter(), set[str](), None
        while found is None:
            if child is None:
                connection, theirs = context.Pipe()
                child = context.Process(target=serve, args=(theirs, dtype), daemon=True)
                child.start()
                theirs.close()
            connection.send((name, skip))
            what = ""
            with contextlib.suppress(EOFError):  # the child has died
                while found is None and connection.poll(PATIENCE):
                    message = connection.recv()
                    if isinstance(message, str):
                        what = message
                    else:
                        found = message
            if found is None:
                print(f"{name}: {what} does not end, or its process died", flush=True)
                skip.add(what)
                child.kill()
                child = None
                if len(skip) > 3 or what.endswith("values"):
                    found = RuntimeError(f"does not end: {', '.join(sorted(skip))}")
        seconds = f"{time.perf_counter() - begin:.1f} s"
        if isinstance(found, list):
            findings += found
            counts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(f.verdict for f in found).items())
            counts += f", {wrong} wrong" if (wrong := sum(f.kind == "wrong" for f in found)) else ""
        else:
            left_out[name] = counts = str(found)
        print(
            f"{time.perf_counter() - start:5.0f} s  {name}: {counts or 'finite nowhere'} ({seconds})",
            flush=True,
        )
    if child is not None:
        child.kill()
    return findings, left_out
