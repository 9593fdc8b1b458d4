"""The parts of `device_check.py`: what each measures, and about how long it takes."""

import importlib.metadata
import math
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, NamedTuple

import fixed_point
import jax
import numpy as np
import timings
from simulate import compile_pass, float_passes, interleaved, network
from train_step import jax_step

from bitsnn_jax import config, convert, data, spiking
from bitsnn_jax.data.examples import InMemory
from bitsnn_jax.integers.carriers import CARRIERS
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point as in_integers
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.jobs.certify import certify, exact_pair
from bitsnn_jax.jobs.evaluation import evaluate, without_spikes
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.jobs.sources import Network, RunSource
from bitsnn_jax.runs.loading import ann_fn

TRAINED = "resnet20_fashion_mnist"
STEPS = 4
# The types that GPUs have matrix units for first; XLA may lack int32 convolutions.
_ORDER = ("int8", "float32", "bfloat16", "int32")


class Part(NamedTuple):
    """A part of the check.

    Attributes:
      name: of its row.
      seconds: about what it takes on an H200, compilation included; guessed.
      run: gives its numbers, for JSON.
    """

    name: str
    seconds: int
    run: Callable[[], dict[str, Any]]


class Shape(NamedTuple):
    """A network of random weights, and what it is shown."""

    model: str
    batch: int
    size: int


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
      images: of the certificates and the codes.
      steps: T of the certificates.
      passes: networks whose passes are timed.
      train: whose training step is timed.
      evaluate: that all devices evaluate; its batch is of one device.
      rounds: of timed passes.
    """

    images: int
    steps: tuple[int, ...]
    passes: tuple[Shape, ...]
    train: Shape
    evaluate: Shape
    rounds: int


FULL = Sizes(
    images=512,
    steps=(4, 8),
    passes=(Shape("resnet20", 256, 32), Shape("resnet34", 32, 224)),
    train=Shape("resnet34", 256, 224),
    evaluate=Shape("resnet20", 1024, 32),
    rounds=10,
)
QUICK = Sizes(
    images=4,
    steps=(2,),
    passes=(Shape("small", 4, 8),),
    train=Shape("small", 4, 8),
    evaluate=Shape("small", 4, 8),
    rounds=2,
)


def parts(sizes: Sizes) -> list[Part]:
    """All parts, what matters most first, what may not work at all last."""
    first, *others = [
        Part(f"certificate, T = {t}", 10 + 8 * t, partial(certificate, sizes.images, t))
        for t in sizes.steps
    ]
    codes = {
        c: Part(f"codes, {c}", 40, partial(codes_of, sizes.images, c)) for c in CARRIERS
    }
    passes = {
        (number, kind): Part(
            f"passes of {shape.model}, {kind}",
            25 if number == 0 else 90,
            partial(float_times, shape, sizes)
            if kind == "float"
            else partial(integer_times, shape, sizes, kind),
        )
        for number, shape in enumerate(sizes.passes)
        for kind in ("float", *CARRIERS)
    }
    quick = [c for c in _ORDER if c in CARRIERS and c != "int32"]
    found = [first, *(codes[c] for c in quick)]
    found += [part for (_, kind), part in passes.items() if kind == "float"]
    found.append(passes[0, "int8"])
    found.append(Part("training step", 60, partial(training, sizes)))
    found.append(Part("evaluation", 40, partial(evaluation, sizes)))
    found += others
    rest = [p for p in (*passes.values(), *codes.values()) if p not in found]
    return [*found, *sorted(rest, key=lambda part: "int32" in part.name)]


def facts() -> dict[str, Any]:
    """The devices and versions that numbers are from."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "devices": len(devices),
        "platform_version": devices[0].client.platform_version,
        "jaxlib": importlib.metadata.version("jaxlib"),
    }


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says.

    >>> one_line(ValueError("no such thing\\n  at all"))
    'ValueError: no such thing'
    """
    said = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said.strip():.300}"


@cache
def trained(images: int) -> tuple[Network, str]:
    """The package's ResNet-20 with images, and what these are; noise without data."""
    source = RunSource(TRAINED, limit=images)
    try:
        found = source.load()
        return found, found.config.data.name
    except (OSError, ValueError):  # no data here
        run = source.run()
        shape: tuple[int, int, int] = tuple(run.metadata["image_shape"])
    found = Network(
        apply_fn=ann_fn(run.config, shape),
        variables=run.variables,
        config=run.config,
        examples=noise(images, shape),
    )
    return found, "noise"


def noise(count: int, shape: tuple[int, int, int]) -> InMemory:
    """Images of random pixels."""
    rng = np.random.default_rng(0)
    channels = shape[-1]
    return InMemory(
        image_shape=shape,
        num_classes=10,
        white=255,
        mean=np.full(channels, 0.5, np.float32),
        std=np.full(channels, 0.25, np.float32),
        images=rng.integers(0, 256, (count, *shape)).astype(np.uint8),
        labels=rng.integers(10, size=count).astype(np.int32),
    )


def certificate(images: int, steps: int) -> dict[str, Any]:
    network, origin = trained(images)
    found = certify(exact_pair(network, steps=steps), network)
    return {
        "images": found.examples,
        "of": origin,
        "codes": found.neurons,
        "differing": found.differing,
        "exact": found.exact,
    }


def codes_of(images: int, carrier: str) -> dict[str, Any]:
    """All executions in a carrier, compared with a pass in int32 on the host's CPU."""
    integers, pixels, expected = on_the_host(images)
    rows = []
    for name, make in fixed_point.EXECUTIONS.items():
        row: dict[str, Any] = {"execution": name}
        try:
            found = jax.jit(make(integers, carrier=carrier))(pixels)
            row["differing"] = _unequal(expected.codes, found.codes)
            row["logits_differing"] = _unequal(expected.outputs, found.outputs)
        except Exception as error:  # whatever a compiler raises
            row["error"] = one_line(error)
        rows.append(row)
    codes = sum(code.size for code in expected.codes.values())
    return {"codes": codes, "executions": rows}


@cache
def on_the_host(images: int) -> tuple[IntegerNetwork, Any, Any]:
    """The network in integers, pixels, and what a CPU makes of them in int32."""
    network, _ = trained(images)
    graph = lower_pixels(network.apply_fn, network.variables, network.examples)
    integers = in_integers(graph, steps=STEPS)
    batches = data.eval_batches(
        network.config.data, network.examples, batch_size=images
    )
    pixels = next(iter(batches))["image"]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        expected = jax.jit(one_shot(integers, carrier="int32"))(pixels)
    return integers, pixels, jax.tree.map(np.asarray, expected)


def _unequal(ours, theirs) -> int:
    return sum(int(np.sum(ours[name] != np.asarray(theirs[name]))) for name in ours)


def float_times(shape: Shape, sizes: Sizes) -> dict[str, Any]:
    """The spiking network in float32, beside its ANN at two precisions."""
    apply_fn, variables, x = network(*shape)
    passes = float_passes(apply_fn, variables, x, steps=STEPS)

    def all_bits(variables, x):
        with jax.default_matmul_precision("highest"):
            return apply_fn(variables, x)

    passes["ann, all bits"] = (all_bits, variables)
    return _timed(passes, x, sizes.rounds)


def integer_times(shape: Shape, sizes: Sizes, carrier: str) -> dict[str, Any]:
    """The network in integers, beside its ANN."""
    apply_fn, variables, images = network(*shape)
    of_pixels = fixed_point.network_of_pixels(apply_fn)
    integers, _ = fixed_point.rounded(of_pixels, variables, images.shape, steps=STEPS)
    pixels = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8)
    passes: dict[str, Any] = {"ann": (of_pixels, variables)}
    for name, make in fixed_point.EXECUTIONS.items():
        run = fixed_point.logits_of(make(integers, carrier=carrier))
        passes[name] = (run, ())
    return _timed(passes, pixels, sizes.rounds)


def _timed(passes, x, rounds) -> dict[str, Any]:
    """Time passes in turns; one that does not compile or run has its error."""
    compiled, failed = {}, []
    for name, (fn, variables) in passes.items():
        try:
            compiled[name] = compile_pass(fn, variables, x)
            compiled[name].run()
        except Exception as error:  # whatever a compiler raises
            compiled.pop(name, None)
            failed.append({"pass": name, "error": one_line(error)})
    if "ann" not in compiled:
        raise RuntimeError(f"the ANN: {failed[0]['error']}")
    rows = timings.rows(interleaved(compiled, rounds), reference="ann")
    for row in rows:
        row["compile_seconds"] = compiled[row["pass"]].compile_seconds
    return {"batch": list(x.shape), "steps": STEPS, "passes": rows + failed}


def training(sizes: Sizes) -> dict[str, Any]:
    """The step of `train.py`, with QCFS, in float32, on one device."""
    shape = sizes.train
    rng = np.random.default_rng(0)
    images = rng.normal(size=(shape.batch, shape.size, shape.size, 3))
    batch = {
        "image": images.astype(np.float32),
        "label": rng.integers(10, size=shape.batch).astype(np.int32),
    }
    stem = "cifar" if shape.model == "small" else "imagenet"
    step, megabytes = jax_step(batch, network=config.Model(name=shape.model, stem=stem))
    step(), step()  # warms up
    seconds = float(np.median([step() for _ in range(sizes.rounds)]))
    return {
        **shape._asdict(),
        "milliseconds": 1e3 * seconds,
        "images_per_second": shape.batch / seconds,
        "megabytes": None if math.isnan(megabytes) else megabytes,
    }


def evaluation(sizes: Sizes) -> dict[str, Any]:
    """How many images all devices evaluate in a second, counted in one batch."""
    shape, devices = sizes.evaluate, jax.device_count()
    apply_fn, variables, x = network(shape.model, 1, shape.size)
    converted, _ = convert(apply_fn, variables, x, steps=STEPS)
    examples = noise(shape.batch * devices, (shape.size, shape.size, 3))
    settings = config.Data(eval_batch_size=len(examples))
    forms: Iterable[tuple[str, Any, Any]] = (
        ("ann", without_spikes(apply_fn), variables),
        ("fused", spiking(apply_fn, steps=STEPS, mode="fused"), variables),
        ("stepped", spiking(apply_fn, steps=STEPS), converted),
    )
    rows = []
    for name, fn, weights in forms:
        found = evaluate(fn, weights, settings, examples, repeats=sizes.rounds)
        rate = 1e3 / found.milliseconds_per_example
        rows.append({"pass": name, "images_per_second": rate})
    return {**shape._asdict(), "devices": devices, "steps": STEPS, "passes": rows}
