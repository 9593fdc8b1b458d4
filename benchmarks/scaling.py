"""What devices say to each other in a step of training: the collectives, by purpose.

    python benchmarks/scaling.py [--config configs/digits_resnet.py] [--devices 4]

The step of a config is compiled for N virtual CPU devices, and nothing is run: the
cores of one machine, shared by N devices, tell nothing about the time on N real ones.
What carries over is the structure: how many collectives there are, and their bytes.

The limit is one all-reduce of as many bytes as parameters, running statistics and
metrics have, and, because batch norm is that of the whole batch, one of [mean, mean
square] for each norm on the way there and one of their gradients on the way back. Those
wait for each other, so they cannot be joined; XLA lets gradients ride along with them.
"""

import math
import os
import re
from collections import Counter
from pathlib import Path

from bitsnn_jax.config import read_config
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole
from bitsnn_jax.training.validation import validate

BYTES = {"pred": 1, "u8": 1, "s32": 4, "u32": 4, "f32": 4, "bf16": 2, "f64": 8}
COLLECTIVE = re.compile(
    r"= (?P<shapes>.*?) (?P<kind>all-reduce|all-gather|all-to-all|reduce-scatter|"
    r"collective-permute|collective-broadcast)(-start)?\("
)
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def main() -> None:
    parser = Parser(__doc__)
    root = Path(__file__).parents[1]
    parser.add_argument(
        "--config", type=a_path, default=root / "configs" / "digits_resnet.py"
    )
    parser.add_argument("--devices", type=whole(1, 1024), default=4)
    parser.add_argument(
        "--rows", type=whole(1, 2**17), default=2, help="of each device"
    )
    parser.add_argument("--image", type=whole(1, 4096), nargs=3, default=[8, 8, 1])
    options = parser.parse_args()
    config = read_config(options.config)
    validate(config)
    # Before JAX looks at its devices.
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={options.devices} "
        "--xla_backend_optimization_level=0"
    )
    text, sizes = compiled_step(config, options.devices, options.rows, options.image)
    found = list(collectives(text))
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(k for k, _ in found).items())
    print(
        f"{Path(options.config).stem}, {options.devices} CPU devices, one step: {kinds}"
    )
    sent = Counter()
    for _, arrays in found:
        for purpose, size in arrays:
            sent[purpose] += size
    expected = {
        "batch norm": 2 * sizes.pop("batch norm"),
        "all else": sum(sizes.values()),
    }
    print(f"\n{'':12} {'bytes sent':>12} {'expected':>12}")
    for purpose, size in expected.items():
        print(f"{purpose:12} {sent[purpose]:12,} {size:12,}")
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    print(f"\nall else is {parts}; XLA sends equal arrays once")


def compiled_step(config, devices, rows, image_shape):
    """The compiled program as text, and the bytes of what could be sent."""
    import jax
    import jax.numpy as jnp

    from bitsnn_jax.runtime.devices import AXIS, data_parallel
    from bitsnn_jax.tasks import task_of
    from bitsnn_jax.training.optimizer import sgd
    from bitsnn_jax.training.step import State, step_of
    from bitsnn_jax.training.stop import with_votes

    task = task_of(config)
    model = task.build(config, tuple(image_shape), axis_name=AXIS)
    optimizer = sgd(config.optimizer, steps_per_epoch=100)

    def init(key):
        variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
        params, stats = variables["params"], variables["batch_stats"]
        return State(jnp.int32(0), params, stats, optimizer.init(params))

    def everywhere(shape, dtype):
        return jax.ShapeDtypeStruct((devices, *shape), dtype)

    key = jax.random.key(0)
    state = jax.eval_shape(init, key)
    batch = {
        "image": everywhere((rows, *image_shape), jnp.float32),
        "label": everywhere((rows,), jnp.int32),
    }
    step = data_parallel(
        with_votes(step_of(config, task, model, optimizer)),
        in_axes=(0, 0, None, 0),
        donate_argnums=0,
    )
    replicas = jax.tree.map(lambda x: everywhere(x.shape, x.dtype), state)
    votes = everywhere((), jnp.float32)
    compiled = step.lower(replicas, batch, key, votes).compile()
    (_, metrics), _ = jax.eval_shape(step, replicas, batch, key, votes)

    def size(tree):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    return compiled.as_text(), {
        "batch norm": size(state.batch_stats),
        "parameters": size(state.params),
        "running statistics": size(state.batch_stats),
        "metrics and votes": 4 * len(jax.tree.leaves(metrics)) + 4,
    }


def collectives(text):
    """(kind, [(purpose, bytes) of each array]) of each collective of a program."""
    for line in text.splitlines():
        if found := COLLECTIVE.search(line):
            yield found["kind"], [_array(*a) for a in ARRAY.findall(found["shapes"])]


def _array(dtype, dims):
    shape = [int(n) for n in dims.split(",") if n]
    # Flax sends [mean, mean square] of the channels; nothing else is two by many.
    purpose = "batch norm" if len(shape) == 2 and shape[0] == 2 else "all else"
    return purpose, BYTES[dtype] * math.prod(shape)


if __name__ == "__main__":
    as_script(main)
