"""A spiking RetinaNet on scenes of garments: the paper's Table 13, run here.

    python -m bitsnn_jax.data.fashion_scenes \\
        --source /usr/share/datasets/fashion-mnist --out runs/fashion_scenes
    python experiments/detection.py [--parts float spiking ...]

Four trainings, each from the network before: `classifier`, ResNet-20 on single
garments; `relu`, a detector with ReLU, whose backbone it becomes; `qcfs`, the same with
QCFS and L = 15; and `fine_T`, a few epochs of that with L = 2^T - 1.

- float: the networks without time, as they were trained;
- spiking: `qcfs` converted for each T, as the paper does: L = 15 whatever T is;
- fine: `fine_T` converted for its T; at T = 4 that is `qcfs` above;
- calibrated: `relu` with thresholds from training pictures, without training, and
  without the certificates that the others have;
- rate: the rate-coded network of `qcfs`, by compare.py.

Average precision is COCO's, on the pictures that val holds. Runs lie in runs/detection
and are not trained twice; a row that is in docs/results/detection.json is not computed
again. `--list` prints the commands that train, and does nothing else.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitsnn_jax import convert
from bitsnn_jax.conversion.calibration import calibrate_network
from bitsnn_jax.jobs.compare_examples import calibration_inputs
from bitsnn_jax.jobs.evaluation import without_spikes
from bitsnn_jax.jobs.measure import measure_at, on_examples
from bitsnn_jax.jobs.sources import Network, RunSource
from bitsnn_jax.results.conversion import StepsResult
from bitsnn_jax.runs.loading import ann_fn, find_run
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.runtime.rows import Rows
from bitsnn_jax.tasks import task_of

RUNS = Path("runs/detection")
NUMBERS = Path("docs/results/detection.json")
CONFIG = "configs/retinanet_fashion_scenes.py"
KEYS = ("part", "network", "steps")
STEPS = (2, 4, 6, 8)
RATE_STEPS = (4, 16, 32)
TRAINED_FOR = 4  # L = 15
FINE_STEPS = tuple(t for t in STEPS if t != TRAINED_FOR)
FINE_EPOCHS, FINE_RATE = 2, 2e-4


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--parts", nargs="+", action=Distinct, choices=PARTS, default=tuple(PARTS)
    )
    parser.add_argument("--list", action="store_true", help="print commands, no more")
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    for name, command in trainings().items():
        if options.list:
            print(*command)
        elif not (RUNS / name / "result.json").exists():
            subprocess.run([sys.executable, *command], check=True)
    if not options.list:
        rows = Rows(options.out, KEYS)
        for part in options.parts:
            PARTS[part](rows)


def trainings() -> dict[str, list[str]]:
    """The command of each run, in order."""
    classifier = {
        "model.activation": "relu",
        "model.stem": "imagenet",
        "optimizer.epochs": 6,
    }
    quantised = {"optimizer.epochs": 4, "optimizer.learning_rate": 5e-4}
    fine = {"optimizer.epochs": FINE_EPOCHS, "optimizer.learning_rate": FINE_RATE}
    return {
        "classifier": _command(
            "classifier", "configs/resnet20_fashion_mnist.py", "", classifier
        ),
        "relu": _command("relu", CONFIG, "classifier", {"model.activation": "relu"}),
        "qcfs": _command("qcfs", CONFIG, "relu", quantised),
        **{
            f"fine_{t}": _command(
                f"fine_{t}",
                CONFIG,
                "qcfs",
                fine | {"steps": t, "model.levels": 2**t - 1},
            )
            for t in FINE_STEPS
        },
    }


def _command(name: str, config: str, start: str, fields: dict[str, Any]) -> list[str]:
    fields = {"name": name} | fields | ({"start_from": RUNS / start} if start else {})
    options = [f"--config.{field}={value}" for field, value in fields.items()]
    return ["train.py", "--config", config, "--workdir", str(RUNS / name), *options]


def in_float(rows: Rows) -> None:
    for name in ("relu", "qcfs", *(f"fine_{t}" for t in FINE_STEPS)):
        for key in _missing(rows, "float", name, (0,)):
            network = _float_network(name)
            found = on_examples(
                network, without_spikes(network.apply_fn), network.variables
            )
            _add(rows, key, network, {"measures": found.measures})


def spiking_for_each(rows: Rows) -> None:
    for key in _missing(rows, "spiking", "qcfs", STEPS):
        _converted(rows, key, RunSource(RUNS / "qcfs").load())


def fine_tuned(rows: Rows) -> None:
    for t in FINE_STEPS:
        for key in _missing(rows, "fine", f"fine_{t}", (t,)):
            _converted(rows, key, RunSource(RUNS / key["network"]).load())


def calibrated(rows: Rows) -> None:
    for key in _missing(rows, "calibrated", "relu", STEPS):
        found = _float_network("relu")
        model = dataclasses.replace(
            found.config.model, activation="qcfs", levels=2 ** key["steps"] - 1
        )
        config = dataclasses.replace(found.config, model=model, steps=key["steps"])
        apply_fn = ann_fn(config, found.examples.input_shape)
        run = dataclasses.replace(find_run(RUNS / "relu"), config=config)
        train = task_of(config).load(config.data, "train")
        batches = calibration_inputs(run, train, seed=0)
        variables = calibrate_network(apply_fn, found.variables, batches)
        network = dataclasses.replace(
            found, config=config, apply_fn=apply_fn, variables=variables
        )
        _converted(rows, key, network, precisions=())


def rate_coded(rows: Rows) -> None:
    missing = list(_missing(rows, "rate", "qcfs", RATE_STEPS))
    if not missing:
        return
    out, steps = RUNS / "compared", [str(key["steps"]) for key in missing]
    command = ["compare.py", "--ckpt", str(RUNS / "qcfs"), "--out", str(out)]
    command += ["--methods", "qcfs", "--steps", *steps]
    subprocess.run([sys.executable, *command], check=True)
    found = read_json(out / "compare.json", advice="remove it to measure again")
    for key in missing:
        (row,) = (r for r in found["rows"] if r["steps"] == key["steps"])
        _add(
            rows,
            key,
            RunSource(RUNS / "qcfs").load(),
            {
                "measures": {found["measure"]: row["accuracy"]},
                "spikes_per_neuron": row["spikes_per_neuron"],
                "differing": round((1 - row["agreement"]) * found["examples"]),
                "synaptic_operations": row["synaptic_operations"],
            },
        )


PARTS = {
    "float": in_float,
    "spiking": spiking_for_each,
    "fine": fine_tuned,
    "calibrated": calibrated,
    "rate": rate_coded,
}


def _missing(rows: Rows, part: str, name: str, steps: tuple[int, ...]) -> Iterator[Any]:
    for t in steps:
        key = {"part": part, "network": name, "steps": t}
        if not rows.known(key):
            yield key


def _float_network(name: str) -> Network:
    """A network as it was trained, with ReLU or QCFS."""
    run = find_run(RUNS / name)
    shape = run.metadata["image_shape"]
    return Network(
        apply_fn=ann_fn(run.config, shape),
        variables=run.variables,
        config=run.config,
        examples=task_of(run.config).load(run.config.data, "test"),
        step=run.step,
        metadata=run.metadata,
        nonspiking="decode",
    )


def _converted(
    rows: Rows,
    key: dict[str, Any],
    network: Network,
    *,
    precisions: tuple[str, ...] = ("float64",),
) -> None:
    t = key["steps"]
    spiking = convert(
        network.apply_fn, network.variables, network.placeholder, steps=t
    ).variables
    found = measure_at(
        network, spiking, steps=t, modes=("stepped",), precisions=precisions
    )
    _add(rows, key, network, _of_steps(found))


def _of_steps(found: StepsResult) -> dict[str, Any]:
    snn = found.stepped
    assert snn is not None
    facts = {
        "measures": {"AP": snn.accuracy, **snn.measures},
        "ann": found.ann_accuracy,
        "spikes_per_neuron": snn.spikes_per_neuron,
        "milliseconds": snn.milliseconds_per_example,
        "differing": snn.predictions_differing,
        "apart": {each.part: each.largest for each in snn.apart},
    }
    if found.certificate:
        proof = found.certificate["float64"]
        facts |= {
            "codes": proof.neurons,
            "codes_differing": proof.differing,
            "certified": proof.examples,
            "certified_differing": proof.predictions_differing,
            "certified_apart": {each.part: each.largest for each in proof.apart},
            "largest_output_difference": proof.largest_output_difference,
        }
    return facts


def _add(rows: Rows, key: dict[str, Any], network: Network, found: dict[str, Any]):
    config = network.config
    about = about_numbers(config=config.name, seed=config.seed)
    about["trained"] = network.metadata.get("commit")
    facts = {"pictures": len(network.examples), "epochs": config.optimizer.epochs}
    rows.add(key | facts | found | {"about": about})
    print(rows[-1], flush=True)


if __name__ == "__main__":
    as_script(main)
