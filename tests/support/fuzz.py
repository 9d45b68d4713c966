"""Call the public API with bad input: ``python -m tests.support.fuzz --cases 10000``.

A case makes good arguments for one of ``TARGETS``, spoils one or two of them, and calls. What comes back must agree with a slow oracle, or an error
of ours that names the argument must be raised; the arguments stay as they were, and nothing hangs. A case follows from its number:
``--only 1234`` repeats one.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from feataug.errors import FeatAugError
from tests.support.fuzz_targets import TARGETS as QUICK
from tests.support.fuzz_targets_training import TRAINING
from tests.support.spoiling import spoil

SECONDS = 20
TARGETS = QUICK | TRAINING
# What trains takes its share of the time, not of the cases.
OFTEN = {name: 1 if name in TRAINING else 3 for name in TARGETS}


class Hangs(Exception):
    """A call took longer than it may."""


def _ring(*_: Any) -> None:
    raise Hangs


def same(before: Any, after: Any) -> bool:
    """Whether an argument was left as it was."""
    if isinstance(before, Tensor):
        if before.device.type == "meta":
            return True
        if before.is_sparse:
            before, after = before.to_dense(), after.to_dense()
        return before.shape == after.shape and torch.equal(before.detach().nan_to_num(7e7) if before.is_floating_point() else before,
                                                           after.detach().nan_to_num(7e7) if after.is_floating_point() else after)  # fmt: skip
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(same(a, b) for a, b in zip(before, after, strict=True))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)
    return True


def copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    return {key: copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def case(number: int, seed: int) -> tuple[str, str]:
    """One case: how it ended (``agrees``, ``error`` or what is wrong), and a description."""
    rng = random.Random(f"{seed} {number}")
    (name,) = rng.choices(list(TARGETS), [OFTEN.get(name, 1) for name in TARGETS])
    target = TARGETS[name]
    arguments = target.good(rng)
    spoilt = rng.sample(list(arguments), min(len(arguments), rng.choice((1, 1, 1, 2))))
    for key in spoilt:
        arguments[key] = spoil(arguments[key], rng)
    text = f"case {number}: {name}, spoilt: " + ", ".join(f"{key}={_show(arguments[key])}" for key in spoilt)
    before = copied(arguments)
    signal.alarm(SECONDS)
    try:
        found = target.call(**arguments)
        if not same(before, arguments):
            return "writes to its input", text
        target.oracle(found, **arguments)
        return "agrees", text
    except FeatAugError as error:
        if not same(before, arguments):
            return "writes to its input", text
        words = [word for key in spoilt for word in target.words.get(key, (key,))]
        if not any(word in str(error) for word in words):
            return "names no argument", f"{text}\n{error}"
        return "error", text
    except Hangs:
        return "hangs", text
    except AssertionError as error:
        return "disagrees", f"{text}\n{error}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "another error", f"{text}\n{type(error).__name__}: {str(error)[:300]}\n  at {last.filename}:{last.lineno}"
    finally:
        signal.alarm(0)


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {value.dtype} {value.device}"
    if isinstance(value, (list, tuple)):
        return type(value).__name__ + "(" + ", ".join(_show(item) for item in value[:4]) + ")"
    return repr(value)[:80]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case's number")
    parser.add_argument("--show", type=int, default=40, help="how many bad cases are printed")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _ring)
    counts: Counter[str] = Counter()
    shown = 0
    began = time.monotonic()
    for number in range(args.cases) if args.only is None else [args.only]:
        outcome, text = case(number, args.seed)
        counts[outcome] += 1
        if args.only is not None or (outcome not in ("agrees", "error") and shown < args.show):
            print(f"{outcome}: {text}\n", flush=True)
            shown += 1
    bad = sum(count for outcome, count in counts.items() if outcome not in ("agrees", "error"))
    print(f"{sum(counts.values())} cases in {time.monotonic() - began:.0f} s: {dict(counts)}; {bad} bad")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
