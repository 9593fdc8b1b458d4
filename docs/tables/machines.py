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


@table("costs_bert", "machines_bert.json")
def costs_bert(machines):
    yield (
        *("config", "pieces", "parameters, 1e6", "multiply-adds of inference, 1e9"),
        *("of a step, 1e9", "state, MB"),
    )
    for row in machines["about"]["networks"].values():
        yield (
            row["network"],
            str(row["example_bytes"] // 12),
            f"{row['parameters']:.1f}",
            f"{row['multiply_adds'] / 1e3:.2f}",
            f"{row['multiply_adds_of_a_step'] / 1e3:.2f}",
            f"{row['state']:,.0f}",
        )


@table("machines_bert", "machines_bert.json")
def machines_bert(stored):
    yield ("machine", "config", "minutes", "limit", "memory, GB")
    for row in stored["rows"]:
        yield (
            row["machine"],
            row["network"],
            span([60 * hours for hours in row["device_hours"]]),
            row["limit"],
            f"{row['gigabytes']:.1f} of {row['of_gigabytes']}",
        )


@table("bert_base_step", "bert_base_step.json")
def bert_base_step(stored):
    yield (
        *("config", "width", "devices", "pieces", "parameters, 1e6"),
        *("arrays that moved", "loss", "peak memory, GB"),
    )
    for row in stored["rows"]:
        assert row["equal_on_all_devices"]
        yield (
            row["config"],
            f"{row['width']:g}",
            str(row["devices"]),
            str(row["tokens"][-1]),
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['arrays_that_moved']} of {row['arrays']}",
            f"{row['loss']:.3f}",
            f"{row['peak_gigabytes']:.1f}",
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
