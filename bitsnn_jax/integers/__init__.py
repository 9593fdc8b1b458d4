"""The network as a graph of layers, in integers: rounded, executed, counted."""
