// The synapses of one term of a layer: they bring the weights of spikes.
//
// The spikes of a step arrive position by position and are kept in `memory`. Then each
// `go` walks over the lines of WALK that belong to the next position of the layer. A
// line names a position that has sent spikes and the rows of weights they go through.
// Each spike takes one cycle and brings one row, to be added; a line without spikes
// takes one cycle too. `done` comes with the last row. Nothing is multiplied.
module synapses #(
    parameter SOURCES = 1,  // positions that send spikes
    parameter CHANNELS = 1,  // of such a position, one bit each
    parameter LANES = 1,  // neurons of a position of the layer
    parameter FAN = 1,  // weights of a row: lanes that one spike reaches
    parameter BITS = 8,  // of a weight, sign included
    parameter ROWS = 1,
    parameter LINES = 1,
    parameter AT_ONCE = 0,  // 1: all spikes of a position in one cycle, a lane for each
    parameter [LANES*16-1:0] WIRES = 0,  // at once: the channel of each lane
    parameter WALK_FILE = "",
    parameter ROWS_FILE = ""
) (
    input  logic clk,
    input  logic rst,
    input  logic enable,  // the term takes part in this step
    input  logic spikes_valid,
    output logic spikes_ready,
    input  logic [CHANNELS-1:0] spikes,
    output logic loaded,  // all spikes of the step are here
    input  logic restart,  // forget them: the step is over
    input  logic go,
    output logic done,
    output logic [LANES-1:0] add,  // lanes that add their weight
    output logic [LANES*BITS-1:0] weights
);
  localparam SOURCE_BITS = SOURCES > 1 ? $clog2(SOURCES) : 1;
  localparam ROW_BITS = ROWS > 1 ? $clog2(ROWS) : 1;
  localparam CHANNEL_BITS = CHANNELS > 1 ? $clog2(CHANNELS) : 1;
  localparam LINE_BITS = $clog2(LINES + 1);
  localparam ROW_LENGTH = FAN * BITS;
  localparam GROUP = AT_ONCE ? 1 : CHANNELS * FAN / LANES;  // channels of a group

  logic [CHANNELS-1:0] memory[0:SOURCES-1];
  logic [SOURCE_BITS+ROW_BITS+1:0] walk[0:LINES-1];  // last, used, first row, source
  logic [ROW_LENGTH-1:0] rows[0:ROWS-1];
  initial $readmemh(WALK_FILE, walk);
  initial $readmemh(ROWS_FILE, rows);

  // Keep the spikes of the step.
  logic [SOURCE_BITS-1:0] filled;
  assign spikes_ready = enable && !loaded && !rst;
  always_ff @(posedge clk) begin
    if (rst || restart) begin
      filled <= 0;
      loaded <= 0;
    end else if (spikes_valid && spikes_ready) begin
      filled <= filled + 1'b1;
      loaded <= filled == SOURCE_BITS'(SOURCES - 1);
    end
    if (spikes_valid && spikes_ready) memory[filled] <= spikes;
  end

  // Three stages, which advance together: fetch a line, fetch its spikes, send these.
  logic [LINE_BITS-1:0] next;
  logic [SOURCE_BITS+ROW_BITS+1:0] line;
  logic [CHANNELS-1:0] word, pending, lowest, rest;
  logic [ROW_BITS-1:0] word_row, row;
  logic word_used, word_last, last, line_valid, word_valid, valid, walking;
  assign lowest = pending & (~pending + 1'b1);
  assign rest = AT_ONCE ? {CHANNELS{1'b0}} : pending & ~lowest;
  wire leave = walking && valid && rest == 0;
  wire advance = leave || !valid;
  always_ff @(posedge clk) begin
    if (rst || restart) begin
      next <= 0;
      line_valid <= 0;
      word_valid <= 0;
      valid <= 0;
    end else if (advance) begin
      line_valid <= loaded && next < LINE_BITS'(LINES);
      if (loaded && next < LINE_BITS'(LINES)) next <= next + 1'b1;
      word_valid <= line_valid;
      valid <= word_valid;
    end
    if (advance) begin
      line <= walk[next];
      word <= memory[line[SOURCE_BITS-1:0]];
      {word_last, word_used, word_row} <= line[SOURCE_BITS+:ROW_BITS+2];
      pending <= word_used ? word : {CHANNELS{1'b0}};
      row <= word_row;
      last <= word_last;
    end else if (walking) pending <= rest;
    walking <= !rst && (go || (walking && !(leave && last)));
    done <= !rst && leave && last;
  end

  // A spike of channel c brings row + c.
  logic [ROW_BITS-1:0] channel;
  always_comb begin
    channel = 0;
    for (int c = 0; c < CHANNELS; c++)
      if (!AT_ONCE && lowest[c]) channel = channel | ROW_BITS'(c);
  end
  logic [ROW_LENGTH-1:0] brought;
  always_ff @(posedge clk) brought <= rows[row+channel];

  for (genvar l = 0; l < LANES; l++) begin : lanes
    localparam CHANNEL = WIRES[16*l+:16];
    localparam FIRST = (l / FAN) * GROUP;
    localparam FROM = (l % FAN) * BITS;
    localparam TO = l * BITS;
    wire reached;
    if (!AT_ONCE) assign reached = |lowest[FIRST+:GROUP];
    else if (CHANNEL < CHANNELS) assign reached = pending[CHANNEL_BITS'(CHANNEL)];
    else assign reached = 1'b0;
    always_ff @(posedge clk) add[l] <= walking && valid && reached;
    assign weights[TO+:BITS] = brought[FROM+:BITS];
  end
endmodule
