"""Laws of the energy estimate.

Joules are of the size of the absolute tolerance that `approx` has by default: abs=0.
"""

import dataclasses
import json
from importlib.resources import files

import pytest
from test_operations import EXAMPLES, STEPS, tiny, tiny_codes

from bitsnn_jax.integers.energy import (
    MEMORY,
    bit_serial_ann,
    break_even,
    comparison,
    dense_ann,
    energy,
    float_ann,
    in_float,
    profile,
    profiles,
    rate_snn,
    silenced,
    skipping_ann,
)
from bitsnn_jax.integers.operations import COUNTS, NodeOperations, Operations, count

COSTS = (
    "add multiply shift compare weight_read membrane_read membrane_write "
    "float_add float_multiply"
).split()


@pytest.fixture(scope="module")
def operations():
    return count(tiny(), tiny_codes(), examples=EXAMPLES)


def doubled(operations):
    """All counts twice, for the same number of examples."""
    return dataclasses.replace(operations + operations, examples=operations.examples)


def test_energy_is_linear_in_the_counts(operations):
    costs = profile("sram_8k")
    once, twice = (energy(o, costs) for o in (operations, doubled(operations)))
    assert twice.total == pytest.approx(2 * once.total, rel=1e-12, abs=0)
    # Per example: two equal batches cost what one does.
    both = energy(operations + operations, costs)
    assert both.total == pytest.approx(once.total, rel=1e-12, abs=0)


def test_energy_is_linear_in_the_costs(operations):
    total = 0.0
    for field in COSTS[:7]:
        only = dict.fromkeys(COSTS, 0.0) | {field: getattr(profile("dram"), field)}
        total += energy(operations, dataclasses.replace(profile("dram"), **only)).total
    assert total == pytest.approx(
        energy(operations, profile("dram")).total, rel=1e-12, abs=0
    )


def test_energy_adds_up_over_layers_and_kinds(operations):
    estimate = energy(operations, profile("sram_32k"))
    layers = sum(map(estimate.layer, estimate.nodes))
    assert layers == pytest.approx(estimate.total, rel=1e-12, abs=0)
    parts = estimate.compute + estimate.memory
    assert parts == pytest.approx(estimate.total, rel=1e-12, abs=0)
    assert set(MEMORY) < set(COUNTS)
    assert f"{1e9 * estimate.total:,.3f}" in str(estimate).splitlines()[-1]


def test_costs_of_zero_are_no_energy(operations):
    free = dataclasses.replace(profile("dram"), **dict.fromkeys(COSTS, 0.0))
    assert energy(operations, free).total == 0
    with pytest.raises(ValueError, match="costs nothing"):
        break_even(operations, dense_ann(operations), free)


def test_energy_of_a_node_counted_by_hand():
    node = NodeOperations(
        "a",
        "neurons",
        entries=1,
        spikes=(1, 0, 1, 0),
        synaptic_operations=10,
        multiply_accumulates=3,
        bias_additions=4,
        shifts=5,
        compares=4,
        resets=2,
        code_multiply_accumulates=7,
    )
    costs = profile("sram_8k")
    estimate = energy(Operations((node,), 1, 4), costs)
    # add 0.1, multiply 0.2 (0.1 by four bits), shift 0.13, compare 0.08
    compute = 10 * 0.1 + 3 * 0.3 + 7 * 0.2 + 4 * 0.1 + 5 * 0.13 + 4 * 0.08 + 2 * 0.1
    # 20 weights; 20 + 4 + 4 reads and 20 + 4 + 2 writes of membranes
    memory = 20 * 1.25 + 28 * 5 + 26 * 5
    assert estimate.compute == pytest.approx(compute * 1e-12, abs=0)
    assert estimate.memory == pytest.approx(memory * 1e-12, abs=0)


def test_an_ann_that_skips_zeros_does_no_more_than_a_dense_one(operations):
    dense, skipping = dense_ann(operations), skipping_ann(operations)
    for node in dense.nodes:
        assert all(getattr(node, c) >= getattr(skipping[node.name], c) for c in COUNTS)
    for name in profiles():
        costs = profile(name)
        assert energy(skipping, costs).total < energy(dense, costs).total
    # Bits that are set are at least as many as codes that are not 0.
    for node in operations.nodes:
        assert node.nonzero_paths <= node.synaptic_operations <= STEPS * node.paths


def test_without_zeros_skipping_changes_nothing():
    codes = {name: code * 0 + 5 for name, code in tiny_codes().items()}
    full = count(tiny(), codes, examples=EXAMPLES)
    assert skipping_ann(full) == dense_ann(full)


def test_with_all_bits_set_a_bit_serial_ann_adds_what_the_snn_adds():
    codes = {name: code * 0 + 7 for name, code in tiny_codes().items()}
    full = count(tiny(), codes, examples=EXAMPLES)
    serial = bit_serial_ann(full)
    for node in full.nodes:
        assert serial[node.name].synaptic_operations == node.synaptic_operations


def test_a_float_ann_has_the_products_of_the_dense_one(operations):
    floats, dense = float_ann(operations), dense_ann(operations)
    assert floats.total("accumulations") == dense.total("accumulations")
    assert floats.total("code_multiply_accumulates") == 0
    costs = in_float(profile("sram_8k"))
    assert (costs.weight_read, costs.membrane_read) == (5.0, 5.0)  # 32 of 64 bits
    assert energy(floats, costs).total > energy(dense, profile("sram_8k")).total


def test_a_rate_network_with_the_measured_spikes_sends_them(operations):
    rate = rate_snn(operations, steps=16, spikes_per_neuron=1.5)
    neurons = [node for node in rate.nodes if node.kind == "neurons"]
    assert rate.spikes_per_neuron == pytest.approx(1.5)
    assert all(len(node.spikes) == 16 for node in neurons)
    paths = operations.total("paths")
    assert rate.total("synaptic_operations") == pytest.approx(1.5 * paths, abs=3)
    assert rate.total("compares") == 16 * 120 * EXAMPLES
    with pytest.raises(ValueError, match="0 to 16"):
        rate_snn(operations, steps=16, spikes_per_neuron=17)


@pytest.mark.parametrize("name", ["mixed", "sram_8k", "dram"])
@pytest.mark.parametrize("rival", [dense_ann, skipping_ann, bit_serial_ann])
def test_at_break_even_both_cost_the_same(operations, name, rival):
    costs, other = profile(name), rival(operations)
    found = break_even(operations, other, costs)
    # The straight line through a silent network and the measured one.
    idle = energy(silenced(operations), costs).total
    active = energy(operations, costs).total - idle
    at = idle + active * found.spikes_per_neuron / found.measured
    theirs = energy(other, costs).total
    assert at == pytest.approx(theirs, rel=1e-9, abs=0)
    assert found.wins == (energy(operations, costs).total < theirs)
    assert found.floor <= found.measured <= STEPS * found.floor


def test_reuse_divides_what_goes_to_memory(operations):
    once, often = (
        energy(dense_ann(operations, reuse=r), profile("dram")) for r in (1, 9)
    )
    assert often.compute == once.compute
    weights = [estimate.of("weight_reads") for estimate in (once, often)]
    assert weights[1] == pytest.approx(weights[0] / 9, rel=0.01, abs=0)
    with pytest.raises(ValueError, match="reuse"):
        dense_ann(operations, reuse=0)


def test_more_memory_costs_more_and_every_profile_says_where_it_is_from(operations):
    text = files("bitsnn_jax.integers").joinpath("energy_profiles.json").read_text()
    assert list(json.loads(text)) == list(profiles())
    totals = [
        energy(operations, profile(name)).total
        for name in ("mixed", "sram_8k", "sram_32k", "sram_1m")
    ]
    assert totals == sorted(totals)
    for known in profiles().values():
        assert "Table 6" in known.source or "Horowitz" in known.source
        assert min(getattr(known, cost) for cost in COSTS) >= 0


def test_an_unknown_profile_is_an_error_that_lists_the_names():
    with pytest.raises(ValueError, match="paper_8, paper_32, mixed.*'loihi'"):
        profile("loihi")


def test_no_examples_have_no_energy(operations):
    with pytest.raises(ValueError, match="no example"):
        energy(dataclasses.replace(operations, examples=0), profile("mixed"))


def test_the_comparison_has_a_row_for_each_rival(operations):
    rows = comparison(operations, profile("sram_8k")).splitlines()
    assert [row.split("  ")[0] for row in rows[1:]] == [
        "this SNN",
        "ANN, zeros skipped",
        "ANN, dense",
        "ANN, bit-serial",
        "ANN, float32",
    ]
    assert rows[1].endswith("1.00")
