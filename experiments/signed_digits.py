"""Bits or signed digits: the same codes, proved and counted on trained networks.

    python experiments/signed_digits.py [--networks NAME ...] [--limit 1000]

Each network is converted at T = 4 twice, with neurons that send the bits of their
codes, and with ON and OFF neurons that send them as signed digits in the non-adjacent
form, in T + 1 steps. Every code of the second is compared in float64 with that of the
network that was trained; in integers of 8 bits its codes and logits are compared with
those of one pass. The operations of both are counted from these codes, and priced.
Adds rows to docs/results/signed_digits.json; a network that is there is not run again.
"""

import dataclasses
from pathlib import Path
from typing import Any

from energy import NETWORKS, STEPS, counted
from vit import in_both

from bitsnn_jax.integers.energy import energy, profile
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.operations import Operations
from bitsnn_jax.jobs.certify import certify, exact_pair
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.jobs.sources import Network, RunSource
from bitsnn_jax.numerics.codings import CODINGS
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import (
    Distinct,
    Parser,
    a_path,
    as_script,
    filled,
    whole,
    with_huge_pages,
)
from bitsnn_jax.runtime.rows import Rows

NUMBERS = Path("docs/results/signed_digits.json")
PROFILE = "mixed"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        type=filled,
        action=Distinct,
        default=NETWORKS,
        metavar="NAME",
    )
    parser.add_argument("--limit", type=whole(1, 10**9), help="of test images")
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, ("network",))
    for name in options.networks:
        if not rows.known({"network": name}):
            network = RunSource(name).load()
            first = network.examples.first(options.limit or len(network.examples))
            network = dataclasses.replace(network, examples=first)
            about = about_numbers(config=name, seed=network.config.seed)
            found = certified(network) | in_integers(name, network)
            rows.add({"network": name, **found, "about": about})
            print(rows[-1], flush=True)


def certified(network: Network) -> dict[str, Any]:
    """Compare every code of the network of digits in float64."""
    pair = exact_pair(network, steps=STEPS)
    found = certify(pair, network, coding="signed_digits")
    return {
        "images": found.examples,
        "certificate": {
            "codes": found.neurons,
            "differing": found.differing,
            "predictions_differing": found.predictions_differing,
            "exact": found.exact,
        },
    }


def in_integers(name: str, network: Network) -> dict[str, Any]:
    """Run one pass and the steps of digits in integers; count both codings."""
    graph = lower_pixels(network.apply_fn, network.variables, network.examples)
    made = fixed_point(graph, steps=STEPS)
    found = in_both(network, made, coding="signed_digits")
    images = len(network.examples)
    neurons = found["codes"] // images
    totals = {each: counted(name, images, coding=each) for each in CODINGS}
    return {
        "neurons": neurons,
        "integers": {
            key: found[key] for key in ("codes", "differing", "logits_differing")
        },
        **{each: costs(total, neurons) for each, total in totals.items()},
    }


def costs(operations: Operations, neurons: int) -> dict[str, Any]:
    images = operations.examples
    spikes = sum(sum(n.spikes) for n in operations.nodes if n.kind == "neurons")
    return {
        "steps": operations.steps,
        "spikes_per_neuron": spikes / (neurons * images),
        "synaptic_operations": operations.total("synaptic_operations") / images,
        "nanojoules": 1e9 * energy(operations, profile(PROFILE)).total,
    }


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
