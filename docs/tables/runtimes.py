"""Tables of what others make of the networks that leave."""

from pages import table


@table("litert", "litert.json")
def litert(stored):
    yield "kernels", "images", "codes", "differ", "logits", "differ"
    for row in stored["rows"]:
        yield (
            row["kernels"],
            str(row["images"]),
            *(f"{row[kind]:,}" for kind in ("codes", "codes_differing")),
            *(f"{row[kind]:,}" for kind in ("logits", "logits_differing")),
        )


@table("other_runtimes", "other_runtimes.json")
def other_runtimes(stored):
    yield "network", "reader", "compared", "images", "numbers", "differ"
    for row in stored["rows"]:
        if "writer" in row:
            what = "activations of floats"
        else:
            whole = "logits" if "layers" in row else "codes and logits"
            what = f"{whole}, T = {row['steps']}"
        yield (
            f"`{row['network']}`",
            row["reader"],
            what,
            str(row["images"]),
            f"{row['numbers']:,}",
            f"{row['differing']:,}",
        )
