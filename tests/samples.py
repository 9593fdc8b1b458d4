"""Results as commands write them, made up: of a conversion and of a comparison."""

import math

import numpy as np

LAYERS = ["stem/act"] + [
    f"stage{stage}_block{block}/act{act}"
    for stage in range(3)
    for block in range(3)
    for act in (1, 2)
]

EXECUTIONS = ("one-shot", "stepped")

THREE = [
    [0, 2, 9, 15, 14, 9, 3, 0],
    [0, 4, 13, 8, 9, 16, 8, 0],
    [0, 0, 0, 6, 14, 15, 3, 0],
    [0, 0, 0, 11, 14, 2, 0, 0],
    [0, 0, 0, 2, 15, 11, 0, 0],
    [0, 0, 0, 0, 2, 15, 4, 0],
    [0, 1, 5, 6, 13, 16, 6, 0],
    [0, 2, 12, 12, 13, 11, 0, 0],
]


def certificate(rng, *, differing):
    """A certificate over 360 images, whose differing codes sit in the last layers."""
    neurons = [360 * n for n in neuron_counts()]
    per_layer = [0] * (len(LAYERS) - 2) + [differing // 3, differing - differing // 3]
    rounding = 1e-6 if differing else 1e-15
    return {
        "exact": differing == 0,
        "examples": 360,
        "examples_differing": min(2, differing),
        "neurons": sum(neurons),
        "differing": differing,
        "largest_output_difference": rounding,
        "outputs_agree": True,
        "layers": [
            {
                "path": path,
                "neurons": n,
                "differing": d,
                "largest_membrane_difference": rounding * rng.uniform(1, 9),
            }
            for path, n, d in zip(LAYERS, neurons, per_layer, strict=True)
        ],
    }


def neuron_counts():
    return [1024] + [1024] * 6 + [512] * 6 + [256] * 6


def steps_row(rng, steps, accuracy):
    fades = 0.28 * np.exp(-np.arange(steps)[::-1] / 2.5)  # high bits are rare
    spikes = [rng.uniform(0.5, 1.4) * fades for _ in LAYERS]
    mean = float(np.average(np.sum(spikes, axis=1), weights=neuron_counts()))
    run = {"accuracy": accuracy, "spikes_per_neuron": mean, "predictions_differing": 0}
    return {
        "steps": steps,
        "levels": 2**steps - 1,
        "requantised": steps != 4,
        "ann_accuracy": accuracy,
        "fused": run | {"milliseconds_per_example": 0.12, "compile_seconds": 1.1},
        "stepped": run
        | {
            "milliseconds_per_example": 0.11 * steps + 0.07,
            "compile_seconds": 3.0,
        },
        "layers": [
            {"path": path, "neurons": n, "spikes": [float(x) for x in s]}
            for path, n, s in zip(LAYERS, neuron_counts(), spikes, strict=True)
        ],
        "certificate": {
            "float64": certificate(rng, differing=0),
            "float32": certificate(rng, differing=13),
        },
    }


def integers(accuracies):
    """The network in integers, in two carriers."""
    executions = [f"{c}, {e}" for c in ("int8", "int32") for e in EXECUTIONS]
    times = {"ANN": (0.7123, 1.0)} | {
        name: (0.2345 + i, 0.3292 + i) for i, name in enumerate(executions)
    }
    return {
        "bits": 8,
        "folder": "fixed_point",
        "steps": [
            {
                "steps": steps,
                "accuracy": accuracy - 0.0028,
                "spikes_per_neuron": 0.505,
                "codes": 4_239_360,
                "differing": 0,
                "outputs_differing": 0,
                "bound": 123_456,
                "executions": executions,
            }
            for steps, accuracy in accuracies.items()
        ],
        "times": [
            {"name": name, "milliseconds_per_example": each, "ratio": ratio}
            for name, (each, ratio) in times.items()
        ],
        "timed_at": 4,
        "hardware": [hardware()],
    }


def hardware():
    """Two layers, on a chip that holds them and on one that does not."""
    layer = {
        **{"kind": "neurons", "neurons": 1024, "weight_bits": 11, "weights": 2320},
        **{"distinct_weights": 102, "memory_bits": 18_608, "connections": 147_456},
        **{"fan_in": 145, "fan_out": 144, "input_bits": 0, "message_bits": 1},
        **{"bound": 102_033, "low": -52_845, "high": 49_188, "accumulator_bits": 17},
        "largest": 16_464,
    }
    unmet = {"layer": LAYERS[0], "limit": "accumulator_bits", "needed": 17}
    membranes = {
        **{"bits": 16, "overflow": "wrap", "accuracy": 0.4321, "codes": 4_239_360},
        **{"codes_differing": 54_321, "outputs": 3600, "outputs_differing": 7},
        **{"predictions_differing": 3, "overflowing": [LAYERS[0]]},
    }
    narrow = {
        **{"name": "narrow", "title": "Narrow chip", "fires": False, "fitting": 1},
        **{"unmet": [unmet | {"available": 16}], "unpublished": []},
        **{"words": "membrane bits 17 > 16 (1 layer)", "membranes": membranes},
    }
    wide = {
        **{"name": "wide", "title": "Wide chip", "fires": True, "fitting": 2},
        **{"unmet": [], "unpublished": ["fan_in"], "words": ""},
    }
    layers = [{"name": name, **layer} for name in LAYERS[:2]]
    return {"steps": 4, "layers": layers, "targets": [narrow, wide]}


def conversion():
    """Results as of a ResNet-20 on the digits."""
    rng = np.random.default_rng(0)
    curve = {1: 0.6111, 2: 0.9306, 3: 0.9833, 4: 0.9889, 6: 0.9917, 8: 0.9917}
    return {
        "run": {
            "name": "digits_resnet",
            "model": "resnet20",
            "dataset": "digits",
            "checkpoint_step": 1240,
            "seed": 7,
            "steps": 4,
            "levels": 15,
            "version": "0.1.0",
            "commit": "abc1234",
            "config": {"name": "digits_resnet", "optimizer": {"learning_rate": 0.02}},
        },
        "machine": {
            "jax": "0.10.2",
            "device": "cpu",
            "num_devices": 1,
            "time": "2026-11-23T20:00:00",
        },
        "examples": 360,
        "ann": {"accuracy": 0.9889},
        "steps": [steps_row(rng, steps, accuracy) for steps, accuracy in curve.items()],
        "conversion": {
            "changed": [
                {
                    "path": "params/" + path.replace("act", "norm") + "/bias",
                    "largest_change": float(rng.uniform(0.1, 0.6)),
                }
                for path in LAYERS[1:]
            ],
            "neurons": [
                {
                    "path": path,
                    "shape": [8, 8, 16],
                    "theta": float(rng.uniform(2, 5)),
                    "levels": 15,
                }
                for path in LAYERS
            ],
            "nonspiking": [],
            "analog": [],
            "bias_shift": "parameters",
        },
        "fixed_point": integers(curve),
        "raster": {
            "example": 7,
            "label": 3,
            "prediction": 3,
            "image": THREE,
            "steps": 4,
            "layers": [
                {
                    "path": path,
                    "neurons_total": n,
                    "spikes": (
                        rng.random((32, 4))
                        < rng.beta(0.6, 1, (32, 1)) * [0.15, 0.3, 0.6, 0.7]
                    )
                    .astype(int)
                    .tolist(),
                }
                for path, n in zip(LAYERS, neuron_counts(), strict=True)
            ],
            "logits": (rng.normal(0, 2, 10) + 9 * (np.arange(10) == 3)).tolist(),
        },
    }


def attention():
    """What results of a network of words have besides, of 7 places at most."""
    heads = [{"path": path, "spikes": [0.25, 1.5, 0.5]} for path in ("q", "q@2", "p")]
    spikes = {
        **{"steps": 4, "place": "word", "places": 7, "filled": 3.5},
        **{"spikes_per_place": 1234.4, "empty_share": 0.125, "heads": heads},
    }
    return {"noun": "sentences", "attention": spikes}


DEPTH, NEURONS, WORK = 19, 188_416, 40_800_000
# title, network, scale of the steps, warm-up, layer by layer, spikes/neuron at 8 steps
METHODS = {
    "qcfs": ("QCFS rate SNN", "qcfs", 2.4, 0, False, 1.6),
    "bit_serial": ("Bit-serial SNN", "qcfs", 0.55, 0, True, 1.1),
    "opi": ("OPI", "clipped_relu", 3.4, 0, False, 1.5),
    "srp": ("SRP", "qcfs", 1.1, 4, False, 2.3),
    "cos": ("COS (offset spikes)", "qcfs", 0.9, 4, True, 2.1),
    "snnc_light": ("SNNC, light calibration", "relu", 4.5, 0, False, 1.3),
    "snnc_advanced": ("SNNC, potential calibration", "relu", 3.6, 0, False, 1.35),
    "rnl": ("Rate norm layers", "relu", 9.0, 0, False, 0.9),
    "snm": ("SNM", "relu", 7.5, 0, False, 1.8),
    "fast_snn": ("Fast-SNN (signed IF)", "qcfs", 1.4, 0, True, 1.7),
    "pascal": ("PASCAL", "qcfs", 0.8, 15, True, 2.6),
    "parallel": ("Parallel inference", "qcfs", 1.0, 0, True, 1.6),
    "ltb": ("Local threshold balancing", "relu", 6.0, 2, False, 1.2),
    "radix": ("Radix encoding", "qcfs", 0.8, 0, True, 1.0),
    "phase": ("Phase code", "relu", 1.3, 0, True, 1.25),
    "ttfs": ("Time to first spike", "qcfs", 5.0, 0, True, 0.55),
}
ANNS = {"qcfs": 0.9412, "relu": 0.9455, "clipped_relu": 0.9437}


def method_row(rng, name, steps, seed):
    _, network, half, warm_up, waits, spikes = METHODS[name]
    gap = math.exp(-0.9 * (steps / half) ** 1.1) + 0.002 * rng.random()
    accuracy = 0.1 + (ANNS[network] - 0.1) * (1 - gap) + 0.001 * rng.normal()
    window = steps + warm_up
    spikes = spikes * (window / 8) ** 0.8
    operations = spikes * WORK * 1.07
    return {
        "method": name,
        "steps": steps,
        "window": window,
        "until_output": window * DEPTH if waits else window,
        "seed": seed,
        "accuracy": float(np.clip(accuracy, 0.1, 0.95)),
        "agreement": float(np.clip(accuracy + 0.03, 0, 0.995)),
        "spikes_per_neuron": spikes,
        "synaptic_operations": operations,
        "nanojoules": 1e-3 * (0.1 * operations + 0.18 * window * NEURONS + 3.1 * 4e5),
        "milliseconds": 0.2 * window + 0.4 * rng.random(),
        "commit": f"abc{seed}",
        "machine": "2 cores of a CPU",
        "ann_passes": 0.3 * window,
    }


def comparison():
    """Results of sixteen methods, three of them with three seeds."""
    rng = np.random.default_rng(0)
    seeds = {"snnc_light": 3, "snnc_advanced": 3, "cos": 3}
    return {
        "run": {
            "name": "resnet20_fashion_mnist",
            "model": "resnet20",
            "dataset": "fashion_mnist",
            "checkpoint_step": 70_200,
            "seed": 7,
            "version": "0.1.0",
            "commit": "abc1234",
            "command": "python compare.py --ckpt resnet20_fashion_mnist --seeds 0 1 2",
        },
        "machine": {
            "jax": "0.10.2",
            "device": "cpu",
            "num_devices": 1,
            "time": "2026-11-25T20:00:00",
        },
        "examples": 10_000,
        "neurons": NEURONS,
        "depth": DEPTH,
        "profile": "mixed",
        "networks": {
            name: {
                "accuracy": accuracy,
                "milliseconds": 0.41,
                "from": f"resnet20_fashion_mnist_{name}",
            }
            for name, accuracy in ANNS.items()
        },
        "methods": {
            name: {
                "title": title,
                "source": f"Authors of {title}, Optimal conversion of deep networks "
                "into spiking ones at low latency, Some Conference, 2023",
                "trained_with": network,
                "seconds": 12.5,
            }
            for name, (title, network, *_) in METHODS.items()
        },
        "rows": [
            method_row(rng, name, steps, seed)
            for name in METHODS
            for steps in (1, 2, 4, 8, 16, 32)
            for seed in range(seeds.get(name, 1))
            if not (name in ("radix", "bit_serial") and steps > 8)
        ],
        "failed": [
            {"method": "radix", "steps": 16, "error": "codes have 8 bits at most"},
            {"method": "dietcode", "steps": None, "error": "a ReLU network is missing"},
        ],
    }


def remove(results, path):
    """Take a part out of nested results, as `rows[0].steps`; return its name."""
    *parents, last = path.replace("[0]", ".0").split(".")
    part = results
    for name in parents:
        part = part[int(name) if name.isdigit() else name]
    del part[last]
    return last
