"""Random models sent round: torch modules (see `tests.round_trip`) or ONNX files (see `tests.onnx_round_trip`).

Run by hand: ``python -m tests.bench.fuzz_round_trip --kind onnx --count 1000``; a count of 0 goes on until it is
interrupted. Prints the seeds of those that lose something; at the end, or when interrupted, the outcomes and how many
graphs each operator took part in.
"""

from __future__ import annotations

import argparse
import itertools
import random
import signal
import time
import traceback
import warnings
from collections import Counter

import onnx

from graphopt.ir import Graph
from tests.onnx_round_trip import check_model
from tests.random_onnx import random_model
from tests.random_torch import RandomModule
from tests.round_trip import check_module


class Fuzz:
    """One seed after the other.

    Attributes:
        outcomes: how far models went.
        operators: how many graphs have an operator; of the ONNX kind.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.program = ""

    def run(self, kind: str, seed: int, verbose: bool) -> None:
        """Sends the model of a seed round; whatever goes wrong is listed."""
        try:
            self.outcomes[getattr(self, kind)(seed)] += 1
        except Exception as error:  # whatever it is, it is listed
            self.outcomes["wrong"] += 1
            print(f"seed {seed}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
            if verbose:
                print(self.program)
                traceback.print_exc()

    def torch(self, seed: int) -> str:
        """Sends the module of a seed round."""
        module = RandomModule(seed, 1 + seed % 16)
        self.program = module.describe()
        return check_module(module, seed)

    def onnx(self, seed: int) -> str:
        """Sends the ONNX model of a seed round."""
        self.program = ""
        case = random_model(random.Random(seed), 1 + seed % 16)
        self.program = onnx.printer.to_text(case.model)
        self._count(case.graph)
        return check_model(case, random.Random(seed))

    def _count(self, graph: Graph) -> None:
        self.operators.update({node.op for node in graph.walk()})


def main() -> None:
    """Command line of the fuzzer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["torch", "onnx"], default="torch")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print tracebacks and programs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    fuzz, started = Fuzz(), time.perf_counter()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seeds = itertools.count(arguments.first)
    try:
        for seed in itertools.islice(seeds, arguments.count) if arguments.count else seeds:
            fuzz.run(arguments.kind, seed, arguments.verbose)
    except KeyboardInterrupt:
        print("interrupted")
    print(f"{fuzz.outcomes.total()} seeds: {dict(fuzz.outcomes)} in {time.perf_counter() - started:.0f} s")
    if fuzz.operators:
        print(f"{len(fuzz.operators)} operators: {', '.join(f'{k} {v}' for k, v in fuzz.operators.most_common())}")


if __name__ == "__main__":
    main()
