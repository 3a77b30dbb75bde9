"""Random modules sent round: torch -> graph -> ONNX -> graph -> torch (see `tests.round_trip`).

Run by hand: ``python -m tests.bench.fuzz_round_trip --count 1000``. Prints the seeds of those that lose something.
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from collections import Counter

from tests.generators import RandomModule
from tests.round_trip import check_module


def main() -> None:
    """Command line of the fuzzer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print tracebacks and programs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    started, outcomes = time.perf_counter(), Counter[str]()
    for seed in range(arguments.first, arguments.first + arguments.count):
        module = RandomModule(seed, 1 + seed % 16)
        try:
            outcomes[check_module(module, seed)] += 1
        except Exception as error:  # whatever it is, it is listed
            outcomes["wrong"] += 1
            print(f"seed {seed}: {type(error).__name__}: {' '.join(str(error).split())[:240]}", flush=True)
            if arguments.verbose:
                print(module.describe())
                traceback.print_exc()
    print(f"{dict(outcomes)} in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
