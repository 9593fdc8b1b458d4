"""Tables of docs/scaling.md."""

from pages import table

# Multiply-adds of an inference as published, in 1e9.
_PUBLISHED = {"resnet34": "3.66", "mobilenetv2": "0.30", "vgg16": "15.5"}


def span(values) -> str:
    """
    >>> span([13.75, 27.5])
    '14-28'
    """
    return "-".join(f"{float(f'{x:.2g}'):g}" for x in values)


@table("costs", "machines.json", "costs.json")
def costs(machines, counted):
    yield (
        *("network", "parameters, 1e6", "multiply-adds of inference, 1e9", "published"),
        *("of a step, 1e9", "traffic an image, MB", "temporaries an image, MB"),
        "state, MB",
    )
    for key, row in machines["about"]["networks"].items():
        assert key in counted
        usual = "stem" not in key
        yield (
            key.removesuffix(", float32"),
            f"{row['parameters']:.1f}",
            f"{row['multiply_adds'] / 1e3:.2f}",
            _PUBLISHED[row["network"]] if usual else "–",
            f"{row['multiply_adds_of_a_step'] / 1e3:.2f}",
            f"{row['traffic']:,.0f}",
            f"{row['temporaries']:,.0f}",
            f"{row['state']:,.0f}",
        )


@table("machines", "machines.json")
def machines(stored):
    yield (
        *("machine", "host, h", "network", "devices, h", "limit", "$", "memory, GB"),
    )
    for row in stored["rows"]:
        yield (
            row["machine"],
            span(row["host_hours"]),
            row["network"],
            span(row["device_hours"]),
            row["limit"],
            span(row["dollars"]) if row["dollars"] else "p",
            f"{row['gigabytes']:.1f} of {row['of_gigabytes']}",
        )


@table("stems", "stems.json")
def stems(stored):
    yield (
        *("network", "multiply-adds of inference, 1e9, 7x7 stem", "3x3 stem", "ratio"),
        *("of a step, 1e9, 7x7 stem", "3x3 stem"),
    )
    found = {(row["network"], row["stem"]): row for row in stored["rows"]}
    for network in dict.fromkeys(name for name, _ in found):
        usual, full = (found[network, stem] for stem in ("imagenet", "cifar"))
        yield (
            network,
            f"{usual['inference'] / 1e9:.2f}",
            f"{full['inference'] / 1e9:.1f}",
            f"{full['inference'] / usual['inference']:.1f}",
            f"{usual['step'] / 1e9:.2f}",
            f"{full['step'] / 1e9:.1f}",
        )
