"""Rival methods on a trained transformer: accuracy, and agreement with its ANN, by T.

    python experiments/transformer_rivals.py runs/minilm_reviews_qcfs --limit 500

Runs this project's network, the rate network of QCFS by either rule for the values of
trains, and SpikeZIP-TF on the first test examples, and finds the step at which the last
one has every code of the ANN. `docs/results/transformer_rivals.json` has every number.
What is in there is not computed again, so that a stopped call goes on.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from msgspec import structs

from bitsnn_jax.comparators import METHODS, Method, SumNeuron, simulate, st_bif
from bitsnn_jax.comparators.decomposition import whole_train
from bitsnn_jax.comparators.qcfs import neuron as rate_neuron
from bitsnn_jax.comparators.structure import structure
from bitsnn_jax.integers.energy import profile
from bitsnn_jax.jobs.compare_examples import batches
from bitsnn_jax.jobs.compare_networks import load_source
from bitsnn_jax.jobs.compare_rows import Case
from bitsnn_jax.runs.loading import find_run
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import (
    STEPS,
    Distinct,
    Parser,
    a_path,
    as_script,
    filled,
    whole,
)
from bitsnn_jax.runtime.rows import Rows
from bitsnn_jax.tasks import task_of
from bitsnn_jax.tracing.fan_out import fan_out

NUMBERS = Path("docs/results/transformer_rivals.json")
LAYERS = dataclasses.replace(
    METHODS["qcfs"],
    name="qcfs_layers",
    title="QCFS rate SNN, layer by layer",
    neuron=lambda steps: whole_train(rate_neuron()),
)
CHOICE: dict[str, Method] = {
    method.name: method
    for method in (METHODS["bit_serial"], METHODS["qcfs"], LAYERS, METHODS["st_bif"])
}
SETTLED = "settled"  # the row with the step at which nothing is sent any more


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("run", type=filled, metavar="RUN", help="trained with QCFS")
    parser.add_argument(
        "--steps",
        type=whole(1, STEPS),
        action=Distinct,
        nargs="+",
        default=[2, 4, 8, 16, 32, 64],
        metavar="T",
        help="time steps (default: %(default)s)",
    )
    parser.add_argument(
        "--methods",
        action=Distinct,
        nargs="+",
        choices=[*CHOICE, SETTLED],
        default=[*CHOICE, SETTLED],
        metavar="NAME",
        help="of %(choices)s (default: all)",
    )
    parser.add_argument(
        "--batch", type=whole(1), default=10, metavar="N", help="examples at a time"
    )
    parser.add_argument(
        "--settle",
        type=whole(1),
        default=50,
        metavar="N",
        help="first examples that are run until nothing is sent (default: %(default)s)",
    )
    parser.add_images()
    parser.add_argument("--out", type=a_path, default=NUMBERS, metavar="FILE")
    options = parser.parse_args()
    bench = Bench(options.run, options)
    rows = Rows(options.out, ("network", "method", "steps", "examples"))
    for name in options.methods:
        for row in bench.rows(name, rows):
            row = bench.common | row
            rows.add(row | {"about": about_numbers(config=bench.name, seed=bench.seed)})
            print({k: v for k, v in row.items() if k != "title"}, flush=True)


class Bench:
    """A trained network, and the examples that it is shown."""

    def __init__(self, source: str, options: Any):
        run = find_run(source)
        config = run.config
        if options.data is not None:
            there = dataclasses.replace(config.data, directory=options.data)
            config = dataclasses.replace(config, data=there)
        test: Any = task_of(config).load(config.data, "test").first(options.limit)
        self.name, self.seed, self.options = config.name, config.seed, options
        self.task = task_of(config).on(test)
        self.shown = partial(batches, self.task, config.data, test, size=options.batch)
        self.ann = load_source(run, source, run, self.task, self.shown, ())
        self.common = {
            "network": config.name,
            "examples": len(test),
            "ann_accuracy": self.ann.summary.accuracy,
        }
        example = self.task.placeholder(test.input_shape)
        network = self.ann.network
        self.counted = network.apply_fn, network.variables, example
        self.structure = structure(*self.counted, nonspiking="decode")

    def rows(self, name: str, there: Rows) -> Iterator[dict]:
        """Measure what is not there."""

        def missing(method, steps):
            row = self.common | {"method": method, "steps": steps}
            return not there.known(row)

        if name == SETTLED:
            if missing(SETTLED, 0):
                yield {"method": SETTLED, "steps": 0, **self.settled()}
            return
        method = CHOICE[name]
        todo = [
            t
            for t in sorted(self.options.steps)
            if missing(name, t) and not method.can(t)
        ]
        if not todo:
            return
        both = isinstance(method.neuron(1), SumNeuron)
        synapses = fan_out(*self.counted, both=both, nonspiking="decode")
        case = Case(
            method, self.ann, self.structure, synapses, profile("mixed"), self.task
        )
        for row, about in case.rows(todo, seed=0, calibration=(), shown=self.shown):
            # Functions that no neuron computes: once, or at each step.
            at_once = name in ("bit_serial", "qcfs_layers")
            functions = self.structure.functions * (1 if at_once else row.steps)
            kept = structs.asdict(row)
            dropped = ("seed", "nanojoules", "ann_passes", "commit", "machine", "run")
            for field in dropped:
                del kept[field]
            yield {**kept, "title": about.title, "functions": functions}

    def settled(self) -> dict[str, Any]:
        """Run SpikeZIP-TF until nothing is sent: all codes are those of the ANN."""
        network, steps = self.ann.network, 256
        run = simulate(
            network.apply_fn, st_bif.neuron(), steps=steps, nonspiking="decode"
        )
        one = jax.jit(lambda v, x: sum(run(v, x).spikes.values()))
        last: list[int] = []
        for inputs, batch in self.shown():
            for i in range(len(batch["mask"])):
                if len(last) == self.options.settle:
                    break
                spikes = np.asarray(one(network.variables, inputs[i : i + 1]))
                last.append(int(np.flatnonzero(spikes)[-1]) + 1)
        if max(last) == steps:
            raise ValueError(f"expected silence within {steps} steps")
        return {"last_spike": sorted(last)}


if __name__ == "__main__":
    as_script(main)
