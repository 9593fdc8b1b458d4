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
