"""Turn a trained network into a spiking one, check that both are equal, and report.

    bitsnn-convert --ckpt runs/digits_resnet [--steps 1 2 3 4 6 8] [--mode both]

In a clone of the repository, `python convert.py` does the same. It writes to RUN/snn:
`variables` (the spiking network, which `bitsnn_jax.runs.loading` loads by itself),
`conversion.json` (every number) and `report/index.html`. With --fixed-point it also
writes `fixed_point`, the network in integers (docs/format.md).

    bitsnn-convert --torch FILE --model mobilenetv2 --calibrate DIR

reads a checkpoint of a torchvision network, finds thresholds with the images of DIR,
and compares the spiking network with the imported one. It writes runs/MODEL_torch: a
run for --ckpt, `ann` in it to fine-tune from, and `import.json`.

    bitsnn-convert --torch timm:NAME [--weights FILE] --calibrate DIR

does the same for any PyTorch module: torchvision:NAME, timm:NAME, transformers:NAME, or
package.module:function, a function of your own that returns one and that is run. It
writes runs/NAME_timm: `quantised`, which `load_imported` reads, and `import.json`.

    bitsnn-convert --onnx FILE --calibrate DIR

does the same for a network of an ONNX file, and writes runs/FILE_onnx.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitsnn_jax.conversion.calibration import METHODS
from bitsnn_jax.integers import qat
from bitsnn_jax.integers.carriers import CARRIERS
from bitsnn_jax.integers.targets import targets
from bitsnn_jax.interop.torch_factories import FORMS, is_named
from bitsnn_jax.interop.torch_networks import TORCHVISION
from bitsnn_jax.jobs.convert import ConvertOptions, convert_source
from bitsnn_jax.jobs.import_network import ImportOptions, import_network
from bitsnn_jax.jobs.integers import ROUNDINGS, IntegerOptions
from bitsnn_jax.jobs.module_sources import ModuleSource
from bitsnn_jax.jobs.onnx_sources import OnnxSource
from bitsnn_jax.jobs.sources import ImportSource, RunSource, TorchSource
from bitsnn_jax.numerics.codings import CODINGS
from bitsnn_jax.runtime import hosts
from bitsnn_jax.runtime.cli import (
    Distinct,
    Parser,
    between,
    filled,
    one_line,
    only_our_errors,
    own_process,
    whole,
)

MODES = {"stepped": ("stepped",), "fused": ("fused",), "both": ("fused", "stepped")}
PRECISIONS = {
    "none": (),
    "float32": ("float32",),
    "float64": ("float64",),
    "both": ("float64", "float32"),
}
STEPS = (1, 2, 3, 4, 6, 8)
TORCH_STEPS = (4, 6, 8)  # without training, smaller T cost accuracy
EPOCHS, SIDE = 100_000, 4096  # at most
_MOMENTS = {"mean": "mean", "std": "deviation"}


@one_line()
def main(argv: list[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(argv)
    only_our_errors()
    command = " ".join(["python convert.py", *(argv or sys.argv[1:])])
    kind = _kind(parser, options)
    with hosts.together(
        distributed=options.distributed,
        coordinator=options.coordinator,
        num_hosts=options.num_hosts,
        host=options.host,
        timeout=options.host_timeout,
    ):
        kind.start(options, command)


@dataclass(frozen=True)
class _Kind:
    """A kind of source.

    Attributes:
      shown: the option that names one.
      start: the job, from what was given and the command.
      own: options that are of no use to every kind.
      needed: those of them that have no default.
    """

    shown: str
    start: Callable[[Namespace, str], object]
    own: str
    needed: tuple[str, ...] = ()


def _convert(options: Namespace, command: str) -> None:
    source = RunSource(
        options.ckpt,
        directory=options.data,
        vocabulary=options.vocabulary,
        limit=options.limit,
        nonspiking=options.nonspiking,
    )
    if options.fixed_point is None and options.qat_epochs:
        raise ValueError("qat_epochs needs fixed-point: it fine-tunes those weights")
    if options.fixed_point is None and options.rounding:
        raise ValueError("rounding needs fixed-point: it says how to round weights")
    if options.fixed_point is None and options.carriers:
        raise ValueError(
            "carriers needs fixed-point: it says what integers are held in"
        )
    if options.fixed_point is None and options.tie_skips:
        raise ValueError("tie-skips needs fixed-point: it ties thresholds of integers")
    if options.fixed_point is None and options.target:
        raise ValueError("target needs fixed-point: it is compared with those integers")
    integers = None
    if options.fixed_point is not None:
        integers = IntegerOptions(
            bits=options.fixed_point,
            rounding=options.rounding,
            carriers=options.carriers or [None],
            qat_epochs=options.qat_epochs,
            qat_learning_rate=options.qat_learning_rate,
            tie_skips=options.tie_skips,
            targets=options.target or (),
        )
    convert_source(
        source,
        ConvertOptions(
            out=Path(options.out or source.folder),
            steps=options.steps or STEPS,
            modes=MODES[options.mode],
            precisions=PRECISIONS[options.certificate],
            integers=integers,
            coding=options.coding,
            command=command,
        ),
    )


def _import_file(options: Namespace, command: str) -> None:
    source = TorchSource(
        options.torch,
        model=options.model,
        pictures=options.pictures or options.calibrate,
        size=224 if options.size is None else options.size,
        limit=options.limit,
    )
    _import(source, options, command)


def _import_module(options: Namespace, command: str) -> None:
    source = ModuleSource(
        options.torch,
        weights=options.weights,
        pictures=options.pictures or options.calibrate,
        strip_prefix=options.strip_prefix or (),
        size=options.size,
        mean=options.mean,
        std=options.std,
        limit=options.limit,
    )
    _import(source, options, command)


def _import_onnx(options: Namespace, command: str) -> None:
    source = OnnxSource(
        options.onnx,
        pictures=options.pictures or options.calibrate,
        size=options.size,
        mean=options.mean,
        std=options.std,
        limit=options.limit,
    )
    _import(source, options, command)


def _import(source: ImportSource, options: Namespace, command: str) -> None:
    import_network(
        source,
        ImportOptions(
            out=Path(options.out or source.folder),
            calibrate=options.calibrate,
            steps=options.steps or TORCH_STEPS,
            method=options.method or "mse",
            per_channel=options.per_channel,
            sequential=options.sequential,
            correct_biases=options.correct_biases,
            precisions=PRECISIONS[options.certificate],
            coding=options.coding,
            command=command,
        ),
    )


_PICTURES = "calibrate pictures size method per_channel sequential correct_biases"
_KINDS = {
    "ckpt": _Kind(
        "--ckpt",
        _convert,
        own="mode nonspiking fixed-point rounding carriers tie-skips target "
        "qat_epochs qat_learning_rate "
        "data vocabulary distributed coordinator num_hosts host host_timeout",
    ),
    "torch": _Kind(
        "--torch",
        _import_file,
        own=f"model {_PICTURES}",
        needed=("model", "calibrate"),
    ),
    "module": _Kind(
        "--torch LIBRARY:NAME",
        _import_module,
        own=f"weights strip_prefix mean std {_PICTURES}",
        needed=("calibrate",),
    ),
    "onnx": _Kind(
        "--onnx", _import_onnx, own=f"mean std {_PICTURES}", needed=("calibrate",)
    ),
}


def _kind(parser: Parser, options: Namespace) -> _Kind:
    """Tell the kind of source that was given.

    Raises:
      ValueError: an option that another kind has for itself, or one that is missing.
    """
    if options.ckpt is not None:
        given = _KINDS["ckpt"]
    elif options.onnx is not None:
        given = _KINDS["onnx"]
    else:
        given = _KINDS["module" if is_named(options.torch) else "torch"]
    for other in _KINDS.values():
        for name in set(other.own.split()) - set(given.own.split()):
            field = name.replace("-", "_")
            if getattr(options, field) != parser.get_default(field):
                raise ValueError(f"--{name} belongs to {other.shown}: leave it out")
    for name in given.needed:
        if getattr(options, name) is None:
            raise ValueError(f"{given.shown} needs --{name}")
    return given


def _listed(numbers):
    return " ".join(map(str, numbers))


def _parser() -> Parser:
    parser = Parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--ckpt",
        type=filled,
        metavar="RUN",
        help="folder of a training run, or the name of a network of the package",
    )
    source.add_argument(
        "--torch",
        type=filled,
        metavar="FILE|NAME",
        help="a checkpoint of PyTorch, or a module by name, see below",
    )
    source.add_argument(
        "--onnx", type=filled, metavar="FILE", help="a network of an ONNX file"
    )
    parser.add_argument(
        "--steps",
        type=whole(1),
        action=Distinct,
        nargs="+",
        metavar="T",
        help=f"time steps to simulate (default: {_listed(STEPS)}; with --torch "
        f"and --onnx, {_listed(TORCH_STEPS)})",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="both",
        help="stepped simulates every spike, fused computes their codes at once",
    )
    parser.add_argument(
        "--coding",
        choices=CODINGS,
        default="bits",
        help="of the spikes: bits, or digits of -1, 0 and 1 with fewer spikes and a "
        "step more (default: %(default)s)",
    )
    parser.add_argument(
        "--certificate",
        choices=PRECISIONS,
        default="both",
        help="precision in which ANN and SNN are compared code by code",
    )
    parser.add_argument(
        "--nonspiking",
        choices=("decode", "error"),
        default="decode",
        help="operations without a spiking form, such as softmax: compute them outside "
        "the spiking network and say so, or refuse them (default: %(default)s)",
    )
    _add_integers(parser)
    parser.add_images()
    parser.add_argument(
        "--vocabulary",
        type=filled,
        metavar="FILE",
        help="vocab.txt of a network of sentences, if not where the run had it",
    )
    parser.add_argument(
        "--out",
        type=filled,
        metavar="DIR",
        help="default: RUN/snn, runs/NAME/snn; with --torch, runs/MODEL_torch or "
        "runs/NAME_LIBRARY; with --onnx, runs/FILE_onnx",
    )
    _add_torch(parser)
    _add_hosts(parser)
    return parser


def _add_integers(parser: Parser) -> None:
    parser.add_argument(
        "--fixed-point",
        type=whole(2, 8),
        nargs="?",
        const=8,
        metavar="BITS",
        help="the network in integers too, with weights of 2 to 8 bits (default: 8)",
    )
    parser.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        help="of those weights: to the nearest, or so that errors on training images "
        "make up for each other (default: gptq, where these images are)",
    )
    parser.add_argument(
        "--carriers",
        action=Distinct,
        nargs="+",
        choices=CARRIERS,
        help="what the integers are computed in (default: the fastest, here int8 on "
        "CPUs and float32 elsewhere)",
    )
    parser.add_argument(
        "--tie-skips",
        action="store_true",
        help="tie thresholds along skip connections by powers of two, so that no code "
        "is multiplied there; with --fixed-point",
    )
    parser.add_argument(
        "--target",
        action=Distinct,
        nargs="+",
        choices=[*targets()],
        help="chips whose published limits those integers are compared with",
    )
    parser.add_argument(
        "--qat_epochs",
        type=whole(0, EPOCHS),
        default=0,
        metavar="N",
        help="fine-tune the weights for that rounding, on the training split; with "
        "--fixed-point (default: %(default)s)",
    )
    parser.add_argument(
        "--qat_learning_rate",
        type=between(0, 1),
        default=qat.LEARNING_RATE,
        metavar="RATE",
        help="of fine-tuning, as a part of the largest weight (default: %(default)s)",
    )


def _add_torch(parser: Parser) -> None:
    torch = parser.add_argument_group(
        f"PyTorch: a checkpoint, .pth or .safetensors, or {FORMS}"
    )
    torch.add_argument("--model", choices=TORCHVISION, help="what the checkpoint is of")
    torch.add_argument(
        "--weights",
        type=filled,
        metavar="FILE",
        help="of the module, .pth or .safetensors (default: those it is built with)",
    )
    torch.add_argument(
        "--strip_prefix",
        type=filled,
        nargs="+",
        metavar="PREFIX",
        help="of the names in that file, such as model.",
    )
    pictures = parser.add_argument_group("a network of PyTorch or ONNX, and pictures")
    pictures.add_argument(
        "--calibrate",
        type=filled,
        metavar="DIR",
        help="images to find thresholds with",
    )
    pictures.add_argument(
        "--pictures",
        type=filled,
        metavar="DIR",
        help="images to compare on (default: the same)",
    )
    pictures.add_argument(
        "--size",
        type=whole(32, SIDE),  # these networks halve it five times
        metavar="PIXELS",
        help="side of images (default: what the library or file says, or 224)",
    )
    for name in ("mean", "std"):
        pictures.add_argument(
            f"--{name}",
            type=between(0, 1, low_too=name == "mean", high_too=True),
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"{_MOMENTS[name]} of the pixels from 0 to 1 (default: what the "
            "library says, or ImageNet's)",
        )
    pictures.add_argument(
        "--method", choices=METHODS, help="of finding thresholds (default: mse)"
    )
    pictures.add_argument(
        "--per_channel", action="store_true", help="a threshold for each channel"
    )
    pictures.add_argument(
        "--sequential",
        action="store_true",
        help="find thresholds in the order of firing, behind quantised layers",
    )
    pictures.add_argument(
        "--correct_biases",
        action="store_true",
        help="add what the mean of each channel lacks",
    )


def _add_hosts(parser: Parser) -> None:
    several = parser.add_argument_group("several hosts, the same command on each")
    several.add_argument(
        "--distributed", action="store_true", help="found by SLURM or as TPUs do"
    )
    several.add_argument(
        "--coordinator",
        type=filled,
        metavar="ADDRESS:PORT",
        help="of host 0, open to the others",
    )
    several.add_argument("--num_hosts", type=int, metavar="N", help="how many")
    several.add_argument("--host", type=int, metavar="I", help="this one, from 0")
    several.add_argument(
        "--host_timeout",
        type=int,
        default=hosts.TIMEOUT,
        metavar="SECONDS",
        help="to wait for all of them to come (default: %(default)s)",
    )


@one_line()
def run() -> None:
    """Run the command in a process of its own."""
    own_process()
    main()
