// The neurons of a layer: their membranes, and the schedule of thresholds.
//
// For each step of spikes, most significant first, and for each position:
//
//     u <- 2 u + sum of the weights of the spikes of the step
//
// so that a spike of step t counts 2^(T - t) in the end. The last step also adds the
// bias, half a threshold included. Then the neurons fire: for t = 1..T, a spike where
// u >= 2^(f + T - t), and there u <- u - 2^(f + T - t). Without spikes (SPIKES = 0) the
// numbers u >> f are sent once.
//
// The neurons of a position work side by side. Each has one adder, for weights, bias
// and thresholds.
module neurons #(
    parameter LANES = 1,  // neurons of a position
    parameter POSITIONS = 1,
    parameter WIDTH = 8,  // bits of a membrane
    parameter BITS = 8,  // of what is added, before its sign is extended
    parameter COLLECT = 4,  // steps of spikes that come in
    parameter STEPS = 4,  // T, steps of spikes that go out
    parameter SPIKES = 1,
    parameter OUT = 1,  // bits of a lane that go out
    parameter [LANES*8-1:0] FRACTIONS = 0,  // f of each lane
    parameter BIASES = 1,  // POSITIONS, or 1 for the same bias everywhere
    parameter BIAS_FILE = ""
) (
    input  logic clk,
    input  logic rst,
    output logic collecting,
    output logic [7:0] step,  // 0..COLLECT-1, or 0..STEPS-1 while firing
    input  logic loaded,
    output logic restart,
    output logic go,
    input  logic done,
    input  logic [LANES-1:0] add,
    input  logic [LANES*BITS-1:0] weights,
    input  logic negative,  // subtract: the sign of numbers in two's complement
    output logic out_valid,
    input  logic out_ready,
    output logic [LANES*OUT-1:0] out
);
  localparam PLACE_BITS = POSITIONS > 1 ? $clog2(POSITIONS) : 1;
  localparam BIAS_BITS = BIASES > 1 ? PLACE_BITS : 1;
  localparam LENGTH = LANES * WIDTH;

  logic [LENGTH-1:0] membranes[0:POSITIONS-1];
  logic [LENGTH-1:0] biases[0:BIASES-1];
  initial $readmemh(BIAS_FILE, biases);

  typedef enum logic [2:0] {WAIT, READ, START, WALK, BIAS, WRITE, FIRE} state_t;
  state_t state;
  logic firing;
  logic [PLACE_BITS-1:0] place;
  logic [LENGTH-1:0] kept, bias, u, sum;
  logic [LANES-1:0] spikes;
  wire is_last_place = place == PLACE_BITS'(POSITIONS - 1);
  wire is_last_step = step == 8'(COLLECT - 1);

  assign collecting = !firing;
  assign go = state == START && !firing;
  assign restart = state == WRITE && is_last_place;
  assign out_valid = state == FIRE;
  wire sent = out_valid && out_ready;

  always_ff @(posedge clk) begin
    kept <= membranes[place];
    bias <= biases[BIASES>1?place[BIAS_BITS-1:0] : {BIAS_BITS{1'b0}}];
    if (state == WRITE || sent) membranes[place] <= sent ? sum : u;
    if (rst) begin
      state <= WAIT;
      firing <= 0;
      place <= 0;
      step <= 0;
    end else
      case (state)
        WAIT: if (loaded) state <= READ;
        READ: state <= START;
        START: state <= firing ? FIRE : WALK;
        WALK: if (done) state <= is_last_step ? BIAS : WRITE;
        BIAS: state <= WRITE;
        default:  // WRITE, and FIRE once it has been sent
        if (state == WRITE || sent) begin
          place <= is_last_place ? {PLACE_BITS{1'b0}} : place + 1'b1;
          state <= READ;
          if (is_last_place) begin
            if (firing ? step == 8'(STEPS - 1) : is_last_step) begin
              step <= 0;
              firing <= !firing;
              if (firing) state <= WAIT;
            end else begin
              step <= step + 1'b1;
              if (!firing) state <= WAIT;
            end
          end
        end
      endcase
  end

  for (genvar l = 0; l < LANES; l++) begin : lanes
    localparam AT = l * WIDTH;
    localparam FROM = l * BITS;
    localparam TO = l * OUT;
    localparam FRACTION = FRACTIONS[8*l+:8];
    wire signed [WIDTH-1:0] mine = u[AT+:WIDTH];
    wire signed [BITS-1:0] weight = weights[FROM+:BITS];
    wire [WIDTH-1:0] threshold = {{(WIDTH - 1) {1'b0}}, 1'b1} << (FRACTION + STEPS - 1);
    // One adder: weights, the bias, or a threshold less.
    logic signed [WIDTH-1:0] addend;
    logic less;
    always_comb begin
      addend = {{(WIDTH - BITS) {weight[BITS-1]}}, weight};
      less = negative;
      if (state == BIAS) addend = bias[AT+:WIDTH];
      if (state == FIRE) addend = threshold >> step;
      if (state == BIAS) less = 0;
      if (state == FIRE) less = 1;
    end
    wire [WIDTH-1:0] other = less ? ~addend : addend;
    wire [WIDTH:0] both = {mine, 1'b1} + {other, less};
    wire signed [WIDTH-1:0] total = both[WIDTH:1];
    assign spikes[l] = !total[WIDTH-1];
    assign sum[AT+:WIDTH] = spikes[l] ? total : mine;
    always_ff @(posedge clk)
      if (state == START) begin
        if (firing) u[AT+:WIDTH] <= kept[AT+:WIDTH];
        else u[AT+:WIDTH] <= step == 0 ? {WIDTH{1'b0}} : kept[AT+:WIDTH] << 1;
      end else if ((state == WALK && add[l]) || state == BIAS) u[AT+:WIDTH] <= total;
    if (SPIKES) assign out[TO+:OUT] = spikes[l];
    else assign out[TO+:OUT] = OUT'(mine >>> FRACTION);
  end
endmodule
