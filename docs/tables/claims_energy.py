"""The paper's claims of energy, time and memory: Tables 6, 7 and 11, A.3, A.9."""

from claims import at, claims_of, of_all
from methods import means

claim = claims_of("Energy and time")


@claim(
    "Figure 5(a)",
    "Left shifts are a negligible part of the energy.",
    "energy.json",
    page="energy.md#by-kind-of-operation",
)
def shifts(stored):
    shares = [
        kinds["shifts"] / sum(kinds.values())
        for row in stored["rows"]
        for name in ("paper_8", "mixed")
        if (kinds := row["profiles"][name]["by_kind"])
    ]
    said = f"{100 * min(shares):.1f} to {100 * max(shares):.1f} % of arithmetic"
    return said, of_all([share < 0.05 for share in shares])


@claim(
    "Table 6",
    "Energies of a multiplication, an addition, a shift and a comparison at 45 nm.",
    page="energy.md",
)
def prices():
    return "taken over as profile `paper_8`; not measured", "undecided"


@claim(
    "Table 11",
    "A quantised ANN costs 4.5 to 5.7 times as much, a bit-serial one 3.1 to 4.5.",
    "energy.json",
    page="energy.md",
)
def against_anns(stored):
    kinds = ("ANN, 4 bits", "bit-serial ANN", "ANN, 4 bits, zeros skipped")
    totals = [
        {name: sum(parts.values()) for name, parts in profile["joules"].items()}
        for row in stored["rows"]
        for profile in row["profiles"].values()
        if any(parts["memory"] for parts in profile["joules"].values())
    ]
    spans = [
        [f([total[kind] / total["SNN"] for total in totals]) for f in (min, max)]
        for kind in kinds
    ]
    dense, serial, skipping = (f"{low:.1f} to {high:.1f}" for low, high in spans)
    said = f"with memory: dense {dense}, bit-serial {serial}, one that skips zeros"
    return f"{said} {skipping}", of_all([spans[0][0] >= 4.5, spans[1][0] >= 3.1])


@claim(
    "Table 7",
    "At equal accuracy it takes 7.3 times less time than QCFS at T = 32.",
    "latency.json",
    page="comparison.md#time-of-a-pass",
)
def latency(stored):
    ratios = {
        batch: at(stored["rows"], batch=batch, **{"pass": "qcfs=32"})["milliseconds"]
        / at(stored["rows"], batch=batch, **{"pass": "stepped"})["milliseconds"]
        for batch in (1, 64)
    }
    said = ", ".join(f"{ratio:.1f} times (batch {n})" for n, ratio in ratios.items())
    return f"{said}, on a CPU", of_all([ratio > 7.3 for ratio in ratios.values()])


@claim(
    "A.3",
    "Layer by layer takes less memory and less time than step by step.",
    "orders.json",
    page="speed.md#layer-by-layer-or-step-by-step",
)
def layer_by_layer(stored):
    parts, checks = [], []
    for t in sorted({row["steps"] for row in stored["rows"]}):
        step, rate, bits = (
            at(stored["rows"], steps=t, **{"pass": name})
            for name in (
                "rate, step by step",
                "rate, layer by layer",
                "bit-serial, layer by layer",
            )
        )
        memory, seconds = (
            [each[column] / step[column] for each in (rate, bits)]
            for column in ("megabytes", "milliseconds")
        )
        parts.append(
            f"T = {t}: {memory[0]:.1f} times the memory and {seconds[0]:.2f} times the "
            f"time for a rate code, {memory[1]:.1f} and {seconds[1]:.2f} for bits"
        )
        checks += [ratio < 1 for ratio in (*memory, *seconds)]
    return "; ".join(parts), of_all(checks)


@claim(
    "A.9",
    "From T = 16 to 4 accesses to membranes fall by 75 %.",
    "compare.csv",
    page="energy.md",
)
def memory(rows):
    found = means(rows)
    late, early = (found["bit_serial", t]["synaptic_operations"] for t in (16, 4))
    fallen = 1 - early / late
    said = f"those that spikes cause by {100 * fallen:.0f} %; one a step by 75 %"
    return said, of_all([fallen >= 0.75])
