"""What training on ImageNet or GLUE would take, and what limits it: counted, not run.

    pip install -e '.[tpu]'        # XLA for TPUs; it compiles without one
    python benchmarks/cost.py [--costs costs.json] [--machines] [--dtype bfloat16]
    python benchmarks/cost.py --networks resnet34 --stem cifar --batch 64
    python benchmarks/cost.py --networks bert_base_sst2 bert_base_qqp --traced
    python benchmarks/cost.py --multiply_adds     # needs no XLA for TPUs

The step of `train.py`, with batch 256 of 224x224 pixels, or that of a config of GLUE
with QCFS, is compiled for the eight chips of a TPU v5e-8, which takes minutes for each
network. Its operations are counted in the program as written, its memory and its
traffic to memory in the compiled one.
With --traced nothing is compiled, which takes seconds: the memory and the traffic are
then those of weights and momenta alone, without activations. With --costs the counts
are kept in a file and read from it. With --machines they are
set against data sheets:

    seconds = max(operations / (peak u), bytes / (bandwidth v)) + all-reduce / links

The utilisations u and v are assumptions, given as ranges; see docs/scaling.md. With
--stem the stem is another than that of the config, and with --batch fewer images are
compiled for, where 256 do not fit; what they need is scaled to 256. --multiply_adds
counts the operations of both stems by tracing alone.
"""

import dataclasses
import math
import os
import runpy
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from datasheets import MACHINES, Machine
from jax.experimental import topologies
from jax.extend.core import jaxprs_in_params

from bitsnn_jax.config import Data, DType, Stem, read_config
from bitsnn_jax.data.augment import augment
from bitsnn_jax.data.examples import Examples
from bitsnn_jax.data.images import decode
from bitsnn_jax.runs.provenance import about_numbers, store_numbers
from bitsnn_jax.runtime.cli import (
    Distinct,
    Parser,
    a_path,
    as_script,
    whole,
    with_huge_pages,
)
from bitsnn_jax.runtime.devices import AXIS, data_parallel
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training.optimizer import make_optimizer
from bitsnn_jax.training.step import State, step_of

ROOT = Path(__file__).parents[1]
STEMS = ("imagenet", "cifar")  # the first is that of the configs
SIZE = 224


class Work(NamedTuple):
    """What a network is trained for."""

    config: str
    batch: int
    epochs: int
    examples: int  # of an epoch
    example_bytes: int  # of an input
    momenta: int  # arrays of the optimiser as large as the weights


# The last 10,000 examples, or a tenth, are the validation split.
_IMAGENET = (256, 300, 1_281_167 - 10_000, 4 * 3 * SIZE**2, 1)
_IMAGES = ("resnet34", "mobilenetv2", "vgg16")
WORK = {name: Work(f"{name}_imagenet", *_IMAGENET) for name in _IMAGES} | {
    f"bert_base_{task}": Work(
        f"bert_base_{task}", 32, 3, examples, 4 * 3 * max_length, 2
    )
    for task, examples, max_length in (
        ("sst2", 67_349 - 6_734, 64),
        ("qqp", 363_846 - 10_000, 128),
        ("qnli", 104_743 - 10_000, 128),
    )
}
TOPOLOGY = "v5e:2x4"

# Of the peak of matrix units and of memory, worst and best. NVIDIA's own ResNet-50 is
# at 15 % of an A100's TF32 peak and at 19 % of its half-precision peak over the whole
# step (DeepLearningExamples, 938 and 2470 images/s); convolutions alone do better.
COMPUTE = 0.2, 0.5
MEMORY = 0.4, 0.8


@dataclasses.dataclass(frozen=True)
class Cost:
    """One step on one device with `rows` of the batch; bytes, if not said otherwise."""

    network: str
    dtype: str
    rows: int
    parameters: int  # how many
    forward: float  # multiply-adds of an image in inference
    multiply_adds: float  # of an image in a step
    traffic: float  # to and from memory, in the compiled program
    state: float  # parameters, running statistics, momenta
    temporaries: float  # most of it activations that wait for the backward pass
    about: dict  # where the counts come from

    @property
    def work(self):
        return WORK[self.network]

    @property
    def weights(self):
        return 4 * self.parameters

    def memory(self, rows):
        """Bytes with other rows: gradients are there once, the rest is in each row."""
        each = (self.temporaries - self.weights) / self.rows
        return self.state + self.weights + rows * (each + self.work.example_bytes)

    @property
    def fixed_traffic(self):
        # However many rows, weights are read in both passes, gradients written and
        # read, weights and momenta read and written.
        return (6 + 2 * self.work.momenta) * self.weights

    def bytes_moved(self, rows):
        fixed = self.fixed_traffic
        return fixed + rows * (self.traffic - fixed) / self.rows


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--networks", nargs="+", action=Distinct, choices=list(WORK), default=_IMAGES
    )
    parser.add_argument("--dtype", choices=get_args(DType), default="float32")
    parser.add_argument("--stem", choices=STEMS, default=STEMS[0])
    parser.add_argument("--batch", type=whole(8, 2**17), help="by default the config's")
    parser.add_argument("--costs", type=a_path, help="file that keeps what was counted")
    parser.add_argument("--traced", action="store_true", help="compile nothing")
    parser.add_argument("--machines", action="store_true")
    parser.add_argument("--multiply_adds", action="store_true")
    parser.add_argument(
        "--out", type=a_path, help="JSON file that keeps --machines or --multiply_adds"
    )
    options = parser.parse_args()
    if options.multiply_adds:
        compare_stems(options)
        return
    known = {} if options.traced else read(options.costs)
    costs = []
    for network in options.networks:
        key = f"{network}, {options.dtype}"
        if options.stem != STEMS[0]:
            key += f", stem {options.stem}"
        if key not in known:
            batch = options.batch or WORK[network].batch
            counted = traced if options.traced else count
            known[key] = counted(network, options.dtype, options.stem, batch)
            if options.costs and not options.traced:
                kept = {k: dataclasses.asdict(c) for k, c in known.items()}
                replace_json(options.costs, kept)
        costs.append(known[key])
    for cost in costs:
        print(summary(cost))
    if options.machines:
        pictures = any(cost.network in _IMAGES for cost in costs)
        decoded = host_rate() if pictures else math.nan
        rows = machine_rows(costs, decoded)
        print(*rows, sep="\n")
        facts: dict[str, Any] = {"decoded_a_second": decoded} if pictures else {}
        print(facts)
        if options.out:
            facts["networks"] = {
                key: summary(c) for key, c in known.items() if c in costs
            }
            config = ", ".join(c.network for c in costs)
            store_numbers(options.out, rows, config=config, seed=0, **facts)


def read(path: Path | None) -> dict[str, Cost]:
    if path is None or not path.exists():
        return {}
    advice = "remove it, and everything is counted again"
    try:
        return {k: Cost(**v) for k, v in read_json(path, advice=advice).items()}
    except TypeError as error:
        raise ValueError(f"{path} is not whole ({error}): {advice}") from error


def compare_stems(options) -> None:
    """Count the multiply-adds of each network with each stem."""
    rows = []
    for network in options.networks:
        for stem in STEMS if network in _IMAGES else STEMS[:1]:
            found = trace(
                network, options.dtype, stem, rows=1, devices=jax.devices()[:1]
            )
            counts = {"inference": found.forward, "step": found.multiply_adds}
            rows.append({"network": network, "stem": stem} | counts)
            print(rows[-1], flush=True)
    if options.out:
        store_numbers(options.out, rows, config=", ".join(options.networks), seed=None)


class Traced(NamedTuple):
    """A training step and the shapes of its arguments; multiply-adds of an image."""

    step: Any
    shapes: tuple
    state: State
    forward: float
    multiply_adds: float


def count(network: str, dtype: DType, stem: Stem, batch_size: int) -> Cost:
    """What the step of a config needs, by tracing and compiling; nothing is run."""
    # Else libtpu asks the cloud which machine this is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        devices = topologies.get_topology_desc(TOPOLOGY, platform="tpu").devices
    except RuntimeError as error:
        raise ImportError(f"{error}; pip install -e '.[tpu]'") from error
    rows = batch_size // len(devices)
    found = trace(network, dtype, stem, rows=rows, devices=devices)
    compiled = found.step.lower(*found.shapes).compile()
    counted, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return Cost(
        network=network,
        dtype=dtype,
        rows=rows,
        parameters=sum(x.size for x in jax.tree.leaves(found.state.params)),
        forward=found.forward,
        multiply_adds=found.multiply_adds,
        traffic=counted["bytes accessed"],
        state=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found.state)),
        temporaries=memory.temp_size_in_bytes,
        # XLA's estimate of seconds is left out: what it has no model of takes -1 there.
        about=about_numbers(config=_described(network, stem), seed=None),
    )


def _described(network, stem):
    config = WORK[network].config
    return f"{config}, stem {stem}" if network in _IMAGES else f"{config}, qcfs"


def traced(network: str, dtype: DType, stem: Stem, batch_size: int) -> Cost:
    """What the step of a config needs at least: activations take and move nothing."""
    found = trace(network, dtype, stem, rows=1, devices=jax.devices()[:1])
    parameters = sum(x.size for x in jax.tree.leaves(found.state.params))
    least = Cost(
        network=network,
        dtype=dtype,
        rows=1,
        parameters=parameters,
        forward=found.forward,
        multiply_adds=found.multiply_adds,
        traffic=0.0,
        state=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found.state)),
        temporaries=4 * parameters,
        about=about_numbers(config=_described(network, stem), seed=None),
    )
    return dataclasses.replace(least, traffic=least.fixed_traffic)


def trace(network: str, dtype: DType, stem: Stem, *, rows: int, devices) -> Traced:
    """Trace the step of a config, with so many rows of the batch on each device."""
    config = read_config(ROOT / "configs" / f"{WORK[network].config}.py")
    config.model.dtype = dtype
    task, label = task_of(config), jax.ShapeDtypeStruct((rows,), jnp.int32)
    if network in _IMAGES:
        config.model.stem = stem
        shape, name, stored = (SIZE, SIZE, 3), "image", jnp.uint8
        task = task.on(pixels_of(shape))
    else:
        config.model.activation, config.model.per_channel = "qcfs", True
        shape, name, stored = (3, config.data.max_length), "tokens", jnp.int32
    model = task.build(config, shape, axis_name=AXIS)
    optimizer = make_optimizer(config.optimizer, steps_per_epoch=100)
    example = task.placeholder(shape)
    inputs = jax.ShapeDtypeStruct((rows, *example.shape[1:]), example.dtype)

    def init(key):
        zeros = jnp.zeros(example.shape, example.dtype)
        variables = model.init(key, zeros, train=False)
        params, stats = variables["params"], variables.get("batch_stats", {})
        return State(jnp.int32(0), params, stats, optimizer.init(params))

    def everywhere(tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), tree
        )

    key = jax.random.key(0)
    state = jax.eval_shape(init, key)
    batch = {name: jax.ShapeDtypeStruct((rows, *shape), stored), "label": label}
    step = data_parallel(
        step_of(config, task, model, optimizer),
        in_axes=(0, 0, None),
        donate_argnums=0,
        devices=devices,
    )
    shapes = everywhere(state), everywhere(batch), key
    forward = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))
    return Traced(
        step,
        shapes,
        state,
        forward=multiply_adds(forward(state.variables, inputs).jaxpr) / rows,
        multiply_adds=multiply_adds(jax.make_jaxpr(step)(*shapes).jaxpr) / rows,
    )


def pixels_of(shape: tuple[int, int, int]) -> Examples:
    """Nothing but a scale of pixels, which costs the same whatever it is."""
    half = np.full(3, 0.5, np.float32)
    return Examples(image_shape=shape, num_classes=1, white=255, mean=half, std=half)


def multiply_adds(jaxpr) -> int:
    """Of all convolutions and products of matrices, those with padding included.

        one output element = (size of the kernel) / (its output channels)

    XLA's own count leaves the padding out, and on a CPU takes the gradient of a
    depthwise convolution for that of a full one.
    """
    total = 0
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            total += multiply_adds(inner)
        total += _PRODUCTS.get(equation.primitive.name, lambda _: 0)(equation)
    return total


def _convolution(equation):
    kernel = equation.invars[1].aval.shape
    layout = equation.params["dimension_numbers"].rhs_spec
    out = equation.outvars[0].aval.size
    # The gradient of a strided convolution has holes in its input, where nothing is
    # multiplied; the gradient of its kernel has them in the kernel.
    holes = math.prod(equation.params["lhs_dilation"])
    return out * math.prod(kernel) // kernel[layout[0]] // holes


def _dot(equation):
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)


_PRODUCTS = {"conv_general_dilated": _convolution, "dot_general": _dot}


def summary(cost: Cost) -> dict[str, Any]:
    """In millions and megabytes; of one example, but for parameters and state."""
    return {
        "network": cost.network,
        "example_bytes": cost.work.example_bytes,
        "parameters": cost.parameters / 1e6,
        "multiply_adds": cost.forward / 1e6,
        "multiply_adds_of_a_step": cost.multiply_adds / 1e6,
        "traffic": (cost.bytes_moved(1) - cost.bytes_moved(0)) / 1e6,
        "temporaries": (cost.temporaries - cost.weights) / cost.rows / 1e6,
        "state": cost.state / 1e6,
    }


def machine_rows(costs: list[Cost], rate: float) -> list[dict[str, Any]]:
    """Hours of all epochs, what limits them, dollars, and memory of a device."""
    rows = []
    for machine in MACHINES:
        for c in costs:
            # A vCPU is half a core with two threads, which is worth 0.5 to 1 of one.
            cores = [machine.cores * share for share in (1, 0.5)]
            # Sentences are split into word pieces once.
            pictures = c.network in _IMAGES
            decoding = [hours(c.work, rate * n) for n in cores] if pictures else None
            low, high, limit = device_hours(c, machine)
            price = machine.dollars
            row = {
                "machine": machine.name,
                "host_hours": decoding,
                "network": c.network,
                "device_hours": [low, high],
                "limit": limit,
                "dollars": None if math.isnan(price) else [low * price, high * price],
                "gigabytes": c.memory(c.work.batch // machine.devices) / 1e9,
                "of_gigabytes": machine.gigabytes,
            }
            rows.append(row)
    return rows


def device_hours(cost: Cost, machine: Machine) -> tuple[float, float, str]:
    """Least and most hours of all epochs, and which term of the roofline is largest."""
    rows = cost.work.batch // machine.devices
    # A ring sends each byte twice, but for a device's own part.
    ring = 2 * (machine.devices - 1) / machine.devices
    peak = 1e12 * getattr(machine, cost.dtype)
    arithmetic = 2 * rows * cost.multiply_adds / peak
    memory = cost.bytes_moved(rows) / (1e9 * machine.bandwidth)
    links = ring * cost.weights / (1e9 * machine.links)

    def seconds(compute, share):
        return {
            "arithmetic": arithmetic / compute,
            "memory": memory / share,
            "links": links / share,
        }

    def step_hours(of):
        step = max(of["arithmetic"], of["memory"]) + of["links"]
        return hours(cost.work, cost.work.batch / step)

    (worst, best), middle = (
        [seconds(*shares) for shares in zip(COMPUTE, MEMORY, strict=True)],
        seconds(math.sqrt(math.prod(COMPUTE)), math.sqrt(math.prod(MEMORY))),
    )
    return step_hours(best), step_hours(worst), max(middle, key=lambda x: middle[x])


def hours(work: Work, examples_per_second: float) -> float:
    return work.epochs * work.examples / examples_per_second / 3600


def host_rate() -> float:
    """Images a second that a core decodes and augments, the best of five."""
    settings = Data(random_resized_crop=True, image_size=SIZE, flip=True)
    settings.color_jitter = 0.4
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        from_file("benchmarks/input_pipeline.py", "write_jpegs")(Path(folder))
        files = [path.read_bytes() for path in Path(folder, "train", "a").iterdir()]

    def work():
        for content in files:
            image = decode(content, channels=3, place="")
            augment({"image": image, "label": 0}, rng, settings=settings)

    return len(files) / _cpu_seconds(work)


def from_file(path: str, name: str):
    """What a file of this repository, which is no package, calls so."""
    return runpy.run_path(str(ROOT / path))[name]


def _cpu_seconds(fn):
    seconds = []
    for _ in range(5):
        started = time.process_time()
        fn()
        seconds.append(time.process_time() - started)
    return min(seconds)


if __name__ == "__main__":
    with_huge_pages()  # as train.py does
    as_script(main)
