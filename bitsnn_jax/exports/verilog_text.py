"""The text of circuits and testbenches in SystemVerilog, and of the files beside them.

Widths are numbers in these texts, worked out from the layer.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bitsnn_jax.exports.verilog_layers import Design, Input, hex_words


class Expected(NamedTuple):
    """What a testbench sends and waits for.

    Attributes:
      sent: for each term [words, channels] bits: examples, then steps, then positions.
      answer: [words, lanes] that must come back, in the same order.
      additions: of a weight to a membrane, in all examples.
    """

    sent: tuple[np.ndarray, ...]
    answer: np.ndarray
    additions: int


def layer_text(made: Design, name: str) -> str:
    """Write the module `name`, which connects the parts of a layer."""
    every = range(len(made.inputs))
    loaded = " && ".join(f"(loaded_{k} || !enable_{k})" for k in every)
    summed = " | ".join(f"({{BITS{{add_{k}[l]}}}} & weight_{k})" for k in every)
    parts = [_head(made, name)]
    parts += [_synapses(made, k) for k in every]
    parts.append(f"""\
  // One term after the other adds its weights.
  assign done = ended_{every[-1]};
  assign loaded = {loaded};
  assign add = {" | ".join(f"add_{k}" for k in every)};
  assign negative = {_negative(made)};
  for (genvar l = 0; l < LANES; l++) begin : lanes
    localparam TO = l * BITS;
{"".join(_weight(k, given) for k, given in enumerate(made.inputs))}\
    assign weights[TO+:BITS] = {summed};
  end
""")
    parts.append(_neurons(made))
    return "\n".join(parts) + "endmodule\n"


def _head(made: Design, name: str) -> str:
    ends = {"neurons": "spikes", "sum": "rounded sums", "output": "sums"}
    ports = "".join(
        f"""
    // The bits of {given.source}, most significant first: {given.planes} steps, each of
    // {given.routes.sources} positions with {given.routes.channels} channels.
    input  logic spikes_{k}_valid,
    output logic spikes_{k}_ready,
    input  logic [{given.routes.channels - 1}:0] spikes_{k},"""
        for k, given in enumerate(made.inputs)
    )
    return f"""\
// {made.node.name}: {ends[made.node.kind]} from the bits of \
{", ".join(given.source for given in made.inputs)}.
module {name} (
    input  logic clk,
    input  logic rst,{ports}
    // What it sends: {made.steps} steps, each of {made.positions} positions with \
{made.lanes} channels.
    output logic out_valid,
    input  logic out_ready,
    output logic [{made.lanes * made.out_bits - 1}:0] out
);
  localparam LANES = {made.lanes};
  localparam BITS = {made.weight_bits};  // of a weight
  logic collecting, loaded, restart, go, done, negative;
  logic [7:0] step;
  logic [LANES-1:0] add;
  logic [{made.lanes * made.weight_bits - 1}:0] weights;
"""


def _synapses(made: Design, k: int) -> str:
    given = made.inputs[k]
    found, first = given.routes, made.planes - given.planes
    parameters = {
        "SOURCES": found.sources,
        "CHANNELS": found.channels,
        "LANES": "LANES",
        "FAN": found.rows.shape[1],
        "BITS": given.weight_bits,
        "ROWS": len(found.rows),
        "LINES": len(found.lines),
        "AT_ONCE": int(found.at_once),
        "WALK_FILE": f'"walk_{k}.hex"',
        "ROWS_FILE": f'"rows_{k}.hex"',
    }
    if found.at_once:
        parameters["WIRES"] = _packed(found.wires & 0xFFFF, 16)
    start = f"ended_{k - 1}" if k else "go"
    return f"""\
  logic loaded_{k}, done_{k};
  logic [LANES-1:0] add_{k};
  logic [{made.lanes * given.weight_bits - 1}:0] weights_{k};
  wire enable_{k} = collecting{f" && step >= {first}" if first else ""};
  wire ended_{k} = enable_{k} ? done_{k} : {start};
{_instance("synapses", parameters, f"synapses_{k}")}
      .clk, .rst, .restart,
      .enable(enable_{k}), .loaded(loaded_{k}),
      .spikes_valid(spikes_{k}_valid), .spikes_ready(spikes_{k}_ready),
      .spikes(spikes_{k}),
      .go({start} && enable_{k}), .done(done_{k}), .add(add_{k}), .weights(weights_{k})
  );
"""


def _weight(k: int, given: Input) -> str:
    bits, shift = given.weight_bits, given.routes.shift
    return f"""\
    localparam FROM_{k} = l * {bits};
    wire signed [{bits - 1}:0] lane_{k} = weights_{k}[FROM_{k}+:{bits}];
    wire signed [BITS-1:0] weight_{k} = BITS'(lane_{k}){f" <<< {shift}" * bool(shift)};
"""


def _negative(made: Design) -> str:
    parts = [
        f"(step == {made.planes - given.planes} && |add_{k})"
        for k, given in enumerate(made.inputs)
        if given.is_signed
    ]
    return " || ".join(parts) or "1'b0"


def _neurons(made: Design) -> str:
    parameters = {
        "LANES": "LANES",
        "POSITIONS": made.positions,
        "WIDTH": made.width,
        "BITS": "BITS",
        "COLLECT": made.planes,
        "STEPS": made.steps,
        "SPIKES": int(made.has_spikes),
        "OUT": made.out_bits,
        "FRACTIONS": _packed(made.fractions, 8),
        "BIASES": len(made.biases),
        "BIAS_FILE": '"bias.hex"',
    }
    return f"""\
{_instance("neurons", parameters, "neurons")}
      .clk, .rst, .collecting, .step, .loaded, .restart, .go, .done, .add, .weights,
      .negative, .out_valid, .out_ready, .out
  );
"""


def bench_text(made: Design, name: str, test: Expected) -> str:
    """Write a testbench: it ends well, or with $fatal and the first difference."""
    feeds, ports = "", ""
    for k, (given, sent) in enumerate(zip(made.inputs, test.sent, strict=True)):
        ports += f"      .spikes_{k}_valid, .spikes_{k}_ready, .spikes_{k},\n"
        feeds += f"""
  // The bits of {given.source}.
  logic [{given.routes.channels - 1}:0] given_{k}[0:{len(sent) - 1}];
  initial $readmemh("spikes_{k}.hex", given_{k});
  int sent_{k} = 0;
  wire spikes_{k}_ready;
  wire spikes_{k}_valid = sent_{k} < {len(sent)} && !hold;
  wire [{given.routes.channels - 1}:0] spikes_{k} = given_{k}[sent_{k}];
  always @(posedge clk)
    if (spikes_{k}_valid && spikes_{k}_ready) sent_{k} <= sent_{k} + 1;
"""
    words, last = len(test.answer), made.lanes * made.out_bits - 1
    return f"""\
// Sends test vectors to {name}, and compares what comes back.
module testbench;
  logic clk = 0;
  logic rst = 1;
  always #1 clk = !clk;
  initial #10 rst = 0;

  // With +stalls nothing is sent or taken in about half of the cycles.
  bit stalls = 0;
  logic hold = 0;
  initial stalls = $test$plusargs("stalls") != 0;
  always @(posedge clk) hold <= stalls && $urandom_range(1) == 1;
{feeds}
  // What must come back, and how many weights must be added on the way.
  logic [{last}:0] expected[0:{words - 1}];
  initial $readmemh("expected.hex", expected);
  localparam longint ADDITIONS = {test.additions};
  int got = 0;
  longint additions = 0, cycles = 0, idle = 0;
  logic out_valid;
  logic [{last}:0] out;
  {name} layer (
      .clk, .rst,
{ports}      .out_valid, .out_ready(!hold), .out
  );
  always @(posedge clk) if (!rst) begin
    cycles <= cycles + 1;
    idle <= out_valid && !hold ? 0 : idle + 1;
    additions <= additions + longint'($countones(layer.add));
    if (idle > {_patience(made)}) $fatal(1, "{name}: no word after %0d", got);
    if (out_valid && !hold) begin
      if (out !== expected[got])
        $fatal(1, "{name}: word %0d: expected %h, got %h", got,
               expected[got], out);
      got <= got + 1;
      if (got == {words - 1}) begin
        if (additions != ADDITIONS)
          $fatal(1, "{name}: expected %0d additions, got %0d",
                 ADDITIONS, additions);
        $display("{name}: {words} words agree, %0d additions, %0d cycles",
                 additions, cycles);
        $finish;
      end
    end
  end
endmodule
"""


def _patience(made: Design) -> int:
    """Return more cycles than the layer collects in, with all bits set and stalls."""
    step = sum(
        given.routes.sources + len(given.routes.lines) * (1 + given.routes.channels)
        for given in made.inputs
    )
    return 1000 + 4 * (step + 8 * made.positions) * made.planes


def makefile_text(names: Sequence[str]) -> str:
    """Write a Makefile: `make` simulates all layers, `make NAME` one of them."""
    return f"""\
# make                simulates all layers on their test vectors, with Verilator 5
# make NAME           one of them; fails if a word differs
# make FLAGS=+stalls  the same, while senders and receivers stop at random
# make NAME/cells     lists its adders, registers and multiplexers, with yosys
VERILATOR ?= verilator
YOSYS ?= yosys
OPTIONS := --timing -Wno-fatal -O3 --Mdir build -o simulate --top-module testbench
RUNTIME := runtime/build/simulate
LAYERS := {" ".join(names)}

all: $(LAYERS)

$(LAYERS): %: %/build/simulate
\tcd $@ && ./build/simulate $(FLAGS)

%/build/simulate: %/layer.sv %/testbench.sv neurons.sv synapses.sv | $(RUNTIME)
\tcd $* && $(VERILATOR) --cc --exe --main $(OPTIONS) \\
\t  testbench.sv layer.sv ../neurons.sv ../synapses.sv
\tcp runtime/build/verilated*.o $*/build
\t$(MAKE) -C $*/build -f Vtestbench.mk

# Verilator's own part is the same in all simulations, so it is compiled once.
$(RUNTIME):
\tmkdir -p runtime
\techo 'module testbench; initial #1 $$finish; endmodule' > runtime/testbench.sv
\tcd runtime && $(VERILATOR) --binary $(OPTIONS) testbench.sv

CELLS = hierarchy -top $*; proc; flatten; opt; tee -o cells stat -width
%/cells:
\tcd $* && $(YOSYS) -q -f 'verilog -sv -defer' -p '$(CELLS)' \\
\t  ../neurons.sv ../synapses.sv layer.sv

.PHONY: all $(LAYERS)
"""


def readme_text(
    designs: Sequence[Design], names: Sequence[str], unfit: Sequence[str]
) -> str:
    """Write what the folder holds, with a line for each layer."""
    rows = "".join(
        f"| `{name}` | {made.node.name} | {made.lanes} | {made.positions} | "
        f"{made.width} | {made.planes} | {made.steps} |\n"
        for made, name in zip(designs, names, strict=True)
    )
    missing = "".join(f"* {line}\n" for line in unfit)
    if missing:
        missing = f"\nThese layers have no circuit:\n\n{missing}"
    return f"""\
# Layers of a spiking network in SystemVerilog

`make` runs the test vectors of each layer in Verilator 5. It fails if a spike differs,
or if a layer adds more or fewer weights than its spikes have connections.
`make NAME/cells` counts the parts of a layer with yosys.

Each folder is a layer: `layer.sv`, its memories as `.hex`, and `testbench.sv` with what
it sends and expects. `neurons.sv` and `synapses.sv` are shared, and say how they work.

A layer takes the bits of its sources step by step, the most significant first: each
step position by position, with all channels of a position as one word. It sends its
spikes in the same way. `valid` and `ready` work as in AXI streams.

| folder | layer | channels | positions | bits of a membrane | steps in | steps out |
|---|---|---|---|---|---|---|
{rows}{missing}"""


def _packed(values: np.ndarray, bits: int) -> str:
    """Write values as one constant, the first in the lowest bits."""
    return f"{len(values) * bits}'h{hex_words(values[None], bits).strip()}"


def _instance(module: str, parameters: Mapping[str, object], name: str) -> str:
    given = ",\n".join(f"      .{key}({value})" for key, value in parameters.items())
    return f"  {module} #(\n{given}\n  ) {name} ("
