"""Tables of circuits: layers in SystemVerilog, simulated and synthesised."""

from pages import table


@table("verilog_layers", "verilog.json")
def verilog_layers(stored):
    yield "network", "layers", "all spikes agree", "additions as counted", "images"
    for row in stored["rows"]:
        layers = row["layers"]
        # The first layer adds for bits of pixels, which the accounting multiplies.
        spiking = [layer for layer in layers if layer["products"]]
        equal = [x for x in spiking if x.get("additions") == x["counted"]]
        yield (
            f"`{row['network']}`",
            str(len(layers)),
            str(sum("difference" not in layer for layer in layers)),
            f"{len(equal)} of {len(spiking)} fed by spikes",
            str(row["images"]),
        )


@table("verilog_cells", "verilog.json")
def verilog_cells(stored):
    yield (
        *("network", "layer", "channels", "adders of neurons", "other adders"),
        *("multipliers", "multiplexers", "register bits", "LUTs", "flip-flops"),
        *("block RAMs, 18 kbit", "additions an image", "products of the ANN"),
        "cycles an image",
    )
    for row in stored["rows"]:
        for layer in row["layers"]:
            if "xc7" not in layer:
                continue
            chip, adders = layer["xc7"], layer["adders"]
            of_neurons = adders.get(str(layer["width"] + 1), 0)
            registers = sum(int(b) * n for b, n in layer["registers"].items())
            yield (
                row["network"].split("_")[0],
                f"`{layer['layer']}`",
                str(layer["lanes"]),
                f"{of_neurons} of {layer['width']} bits",
                str(sum(adders.values()) - of_neurons),
                str(layer["multipliers"] + chip["multipliers"]),
                str(sum(layer["multiplexers"].values())),
                f"{registers:,}",
                f"{chip['luts']:,}",
                f"{chip['flip_flops']:,}",
                str(chip["ram18"] + 2 * chip["ram36"]),
                f"{layer['additions']:,.0f}",
                f"{layer['products']:,.0f}" if layer["products"] else "",
                f"{layer['cycles']:,.0f}",
            )
