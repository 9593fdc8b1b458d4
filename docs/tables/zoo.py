"""The table of the models that were made spiking."""

from pages import table


@table("model_zoo", "model_zoo.json")
def model_zoo(rows):
    yield (
        *("model", "difference to PyTorch", "layers of neurons", "without spikes"),
        *("driven by spikes", "differing codes", "seconds"),
    )
    for row in rows:
        yield (f"`{row['model']}`", *_cells(row))


def _cells(row):
    if "failed" in row:
        return (*("–",) * 2, f"failed: {row['failed']}", *("–",) * 3)
    decoded = ", ".join(f"`{name}`" for name in row["decoded"])
    return (
        f"{row['difference']:.0e}",
        str(row["sites"]),
        decoded or "nothing",
        f"{row['driven']:.1%}",
        f"{row['differing']} of {row['neurons']:,}",
        f"{row['seconds']:.0f}",
    )
