"""Make every model of a list spiking, each in a process of its own, and keep what came.

    python experiments/model_zoo.py [--models torchvision:resnet18 ...] [--imports]

Needs torch, torchvision, timm and transformers. Weights are random, batch statistics
are those of noise, each off by up to a half. A row of docs/results/model_zoo.json says
how far the imported model is from PyTorch, how many layers of neurons it has, what of
it cannot be done with spikes and is decoded, what share of its multiply-accumulates
spikes drive, and how many codes differ in float64 at T = 4. Rows that are there are
kept; one that failed, or took too long, says so and is tried again.
"""

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax import convert, from_torch, quantise, verify
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole
from bitsnn_jax.runtime.rows import Rows
from bitsnn_jax.tracing.multiplications import multiplications
from bitsnn_jax.tracing.precision import in_float64

# Each program runs once: optimising it would take longer than it saves.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
STEPS, SIDE, BATCH = 4, 64, 2
GIGABYTES = 12
NUMBERS = Path("docs/results/model_zoo.json")
# Larger pictures than SIDE, for models that halve them more often.
SIDES = {"torchvision:inception_v3": 96, "timm:xception": 96}
MODELS = """
torchvision:alexnet torchvision:vgg11_bn torchvision:vgg16 torchvision:resnet18
torchvision:resnet50 torchvision:resnext50_32x4d torchvision:wide_resnet50_2
torchvision:densenet121 torchvision:squeezenet1_1 torchvision:googlenet
torchvision:inception_v3 torchvision:mobilenet_v2 torchvision:mobilenet_v3_small
torchvision:mobilenet_v3_large torchvision:mnasnet1_0 torchvision:shufflenet_v2_x1_0
torchvision:regnet_x_400mf torchvision:regnet_y_400mf torchvision:efficientnet_b0
torchvision:efficientnet_v2_s torchvision:fcn_resnet50 torchvision:deeplabv3_resnet50
torchvision:deeplabv3_mobilenet_v3_large torchvision:lraspp_mobilenet_v3_large
timm:resnet26t timm:seresnet18 timm:skresnet18 timm:ghostnet_100 timm:repvgg_a0
timm:hrnet_w18_small timm:res2net50_14w_8s timm:dla34 timm:ese_vovnet19b_dw
timm:cspdarknet53 timm:darknet53 timm:dpn48b timm:hardcorenas_a timm:lcnet_050
timm:tinynet_e timm:mixnet_s timm:fbnetc_100 timm:semnasnet_075 timm:rexnet_100
timm:selecsls42b timm:mobilenetv4_conv_small timm:gernet_s
transformers:resnet transformers:regnet transformers:mobilenet_v1
transformers:mobilenet_v2 transformers:efficientnet
timm:convnext_atto timm:vit_tiny_patch16_224 timm:swin_tiny_patch4_window7_224
timm:mobilevit_xxs timm:poolformer_s12 transformers:vit transformers:segformer
""".split()


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--imports", action="store_true", help="import, print, end")
    parser.add_argument("--seconds", type=whole(1), default=900, help="of one model")
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    parser.add_argument("--row", metavar="NAME", help="print the row of one model")
    options = parser.parse_args()
    if options.row:
        print(json.dumps(row(options.row, imports=options.imports)))
        return
    rows = Rows(options.out, ("model",))
    for name in options.models:
        found = next((r for r in rows if r["model"] == name), None)
        if found and "failed" not in found and not options.imports:
            continue
        new = in_a_process(name, options)
        print(name, {k: v for k, v in new.items() if k not in ("model", "about")})
        if options.imports:
            continue
        if found:
            rows[rows.index(found)] = new
            rows.save()
        else:
            rows.add(new)


def in_a_process(name: str, options: Any) -> dict[str, Any]:
    """The row of a model, from a process that may take so much time and memory."""
    command = [sys.executable, __file__, "--row", name]
    command += ["--imports"] if options.imports else []
    about = about_numbers(config=name, seed=0)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=options.seconds,
            env=os.environ | {"XLA_FLAGS": FLAGS},
        )
    except subprocess.TimeoutExpired:
        failed = f"not within {options.seconds} seconds"
        return {"model": name, "failed": failed, "about": about}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return {"model": name, "failed": lines[-1][:500], "about": about}
    return json.loads(done.stdout.splitlines()[-1]) | {"about": about}


def row(name: str, *, imports: bool) -> dict[str, Any]:
    limit = GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    module, x = model(name)
    apply_fn, variables = from_torch(module, x)
    found = {"model": name, "side": x.shape[-1]}
    found["difference"] = difference(module, apply_fn, variables, x)
    if not imports:
        found |= spiking(apply_fn, variables, np.asarray(x))
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def model(name: str):
    """The module with random weights, and noise that it is shown."""
    import torch

    from bitsnn_jax.interop.torch_factories import named_module

    torch.manual_seed(0)
    module = named_module(name).module
    side = SIDES.get(name, SIDE)
    if "vit" in name or "swin" in name:
        side = 224  # its number of patches is fixed
    x = torch.randn(BATCH, 3, side, side)
    norms = [
        part
        for part in module.modules()
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        for part in norms:
            part.train().momentum = 1.0
        module(x)
        for part in norms:
            part.eval()
            part.running_mean += (
                0.5 * torch.randn_like(part.running_mean) * (part.running_var.sqrt())
            )
            part.running_var *= 0.5 + torch.rand_like(part.running_var)
    return module, x


def difference(module, apply_fn, variables, x) -> float:
    """Of the outputs in float64, relative to the largest.

    In float32 it would be that of two orders of additions, 1e-6 to 1e-5.
    """
    import torch

    with torch.no_grad():
        theirs = torch.utils._pytree.tree_leaves(module.double()(x.double()))
    with jax.enable_x64(True):
        wide = in_float64(variables), x.double().numpy()
        ours = jax.tree.leaves(jax.jit(apply_fn)(*wide))
    pairs = [(np.asarray(a), b.numpy()) for a, b in zip(ours, theirs, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def spiking(apply_fn, variables, x) -> dict[str, Any]:
    """What becomes of the network at T = 4, in float64."""
    quantised = quantise(apply_fn, variables, [x], levels=2**STEPS - 1)
    with jax.enable_x64(True):
        weights = in_float64(quantised.variables)
        wide = np.asarray(x, np.float64)
        network = (quantised.apply_fn, weights, wide)
        report = convert(*network, steps=STEPS, nonspiking="decode").report
        proof = verify(*network, steps=STEPS, nonspiking="decode")
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    counted = multiplications(quantised.apply_fn, quantised.variables, one)
    return {
        "sites": len(report.neurons),
        "decoded": sorted({each.operation for each in report.nonspiking}),
        "driven": counted.share,
        "neurons": proof.neurons,
        "differing": proof.differing,
        "exact": proof.exact,
    }


if __name__ == "__main__":
    as_script(main)
