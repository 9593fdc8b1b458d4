"""PyTorch modules as JAX functions, against PyTorch itself."""

import pickle
from functools import partial

import jax
import msgspec
import numpy as np
import pytest

from bitsnn_jax import convert, quantise, spiking
from bitsnn_jax.interop.torch_modules import from_torch
from bitsnn_jax.interop.torch_program import Program, TorchModule

torch = pytest.importorskip("torch")
F = torch.nn.functional


class Each(torch.nn.Module):
    """Many functions of one input, by name."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions
        self.weight = torch.nn.Parameter(normal(6, 3, 3, 3, seed=1))
        self.vector = torch.nn.Parameter(normal(6, seed=2))
        self.square = torch.nn.Parameter(normal(8, 8, seed=3))
        self.register_buffer("index", torch.tensor([2, 0, 1]))

    def forward(self, x):
        return {name: fn(self, x) for name, fn in self.functions.items()}


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def assigned(_, x):
    y = torch.zeros_like(x)
    y[:, :2] = x[:, 2:4]
    y[:, 3] = 1.0
    return y


def called(library, names):
    return {name: partial(apply, getattr(library, name)) for name in names.split()}


def apply(fn, _, x):
    return fn(x)


ACTIVATIONS = (
    called(
        F,
        "celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu "
        "logsigmoid mish relu relu6 rrelu selu sigmoid silu softplus softshrink "
        "softsign tanh tanhshrink",
    )
    | called(
        torch,
        "abs atan ceil cos erf exp expm1 floor neg round sign sin square trunc",
    )
    | {
        "clamp": lambda _, x: x.clamp(-0.5, 0.7),
        "clamp below": lambda _, x: x.clamp(min=0),
        "gelu of tanh": lambda _, x: F.gelu(x, approximate="tanh"),
        "hardtanh of 0 and 2": lambda _, x: F.hardtanh(x, 0, 2),
        "prelu": lambda m, x: F.prelu(x, m.vector),
        "prelu of one": lambda m, x: F.prelu(x, m.vector[:1]),
        "power": lambda _, x: x**2 + x.abs() ** 0.5,
        "root": lambda _, x: (x * x + 1).rsqrt() + (x * x).sqrt() + (x * x + 1).log(),
        "softplus of beta": lambda _, x: F.softplus(x, beta=2, threshold=1),
        "threshold": lambda _, x: F.threshold(x, 0.1, -2.0),
        "where": lambda _, x: torch.where(x > 0, x, 0),
    }
)
WINDOWS = {
    "conv": lambda m, x: F.conv2d(x, m.weight, m.vector, 2, 1, groups=2),
    "conv 1": lambda m, x: F.conv1d(x[:, :3, 0], m.weight[..., 0], padding=1),
    "conv 3": lambda m, x: F.conv3d(
        x[:, :3].unsqueeze(2), m.weight.unsqueeze(2), padding=(0, 1, 1)
    ),
    "conv same": lambda m, x: F.conv2d(x[:, :3], m.weight, padding="same", dilation=2),
    "conv transposed": lambda m, x: F.conv_transpose2d(
        x, m.weight, m.vector, 2, 1, 1, groups=2, dilation=2
    ),
    "max": lambda _, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max dilated": lambda _, x: F.max_pool2d(x, 2, 1, dilation=3),
    "max 1": lambda _, x: F.max_pool1d(x[:, 0], 3),
    "mean": lambda _, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "mean of insides": lambda _, x: F.avg_pool2d(x, 3, 2, 1, True, False),
    "mean divided": lambda _, x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive": lambda _, x: F.adaptive_avg_pool2d(x, (4, 1)),
    "adaptive uneven": lambda _, x: F.adaptive_avg_pool2d(x, (3, 5)),
    "adaptive max": lambda _, x: F.adaptive_max_pool2d(x, (3, 4)),
    "bilinear": lambda _, x: F.interpolate(x, size=(5, 13), mode="bilinear"),
    "bilinear at corners": lambda _, x: F.interpolate(
        x, scale_factor=1.7, mode="bilinear", align_corners=True
    ),
    "bicubic": lambda _, x: F.interpolate(x, size=(5, 11), mode="bicubic"),
    "nearest": lambda _, x: F.interpolate(x, scale_factor=2),
    "nearest uneven": lambda _, x: F.interpolate(x, size=(5, 11)),
    "nearest exact": lambda _, x: F.interpolate(x, size=(5, 11), mode="nearest-exact"),
    "reflect": lambda _, x: F.pad(x, (1, 2, 0, 3), mode="reflect"),
    "replicate": lambda _, x: F.pad(x, (1, 2, 0, 3), mode="replicate"),
    "pad": lambda _, x: F.pad(x, (1, -1, 2, 0), value=0.5),
    "pixel shuffle": lambda _, x: F.pixel_shuffle(x[:, :4], 2),
    "pixel unshuffle": lambda _, x: F.pixel_unshuffle(x, 2),
    "unfold": lambda _, x: F.unfold(x[:, :2], 2, stride=2),
}
LAYERS = {
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x @ m.square, x),
    "causal attention": lambda _, x: F.scaled_dot_product_attention(
        x, x, x, is_causal=True
    ),
    "masked attention": lambda m, x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=m.square > -1
    ),
    "batch norm": lambda m, x: F.batch_norm(
        x, m.vector, m.vector.exp(), m.vector, m.vector
    ),
    "group norm": lambda m, x: F.group_norm(x, 3, m.vector, m.vector),
    "instance norm": lambda _, x: F.instance_norm(x),
    "layer norm": lambda m, x: F.layer_norm(x, (8, 8), m.square, m.square),
    "linear": lambda m, x: F.linear(x, m.square, m.square[0]),
    "product": lambda m, x: torch.einsum("nchw,wk->nkch", x, m.square),
    "softmax": lambda _, x: x.softmax(1) + x.log_softmax(-1),
    "embedding": lambda m, x: F.embedding(m.index, m.square) + x.mean(),
    "norm": lambda _, x: F.normalize(x, dim=1),
}
MOVES = {
    "arithmetic": lambda m, x: (1 - x) / (x * x + 2) - 3 * torch.add(x, x, alpha=0.3),
    "assigned": assigned,
    "batch": lambda _, x: x.reshape(x.shape[0] * 2, -1).reshape(x.shape[0], 2, -1),
    "cast": lambda _, x: (x > 0).to(x.dtype) + x.long().float().to(x.dtype),
    "chunks": lambda _, x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "cumulative": lambda _, x: x.cumsum(2),
    "constants": lambda _, x: x + torch.arange(8).to(x) * torch.ones(8, 1).to(x),
    "expand": lambda _, x: x[:, :1].expand(-1, 3, 8, 8) + x.mean((2, 3), True)[:, :3],
    "flip": lambda _, x: x.flip(2).roll(1, 3),
    "index": lambda m, x: x[:, m.index] + x[:, [1, 1, 2]] + x[:, 3:6],
    "gather": lambda _, x: x.gather(3, (x > 0).long()),
    "largest": lambda _, x: x.amax((2, 3)) + x.max(3)[0].sum(2) + x.argmax(1).sum(),
    "masked": lambda _, x: x.masked_fill(x > 0.5, -1.0).tril(),
    "moved": lambda _, x: x.permute(0, 2, 3, 1).transpose(1, 3).flatten(1),
    "repeat": lambda _, x: x.repeat(1, 2, 1, 1).unsqueeze(1).squeeze(1),
    "rounded": lambda _, x: x // 0.3 + x % 0.3,
    "slices": lambda _, x: x[:, 1:, ::2, -3:],
    "stack": lambda _, x: torch.stack(x.unbind(1), -1),
    "top": lambda _, x: x.topk(3, -1)[0] + x.sort(-1)[0][..., :3],
    "variance": lambda _, x: x.var((2, 3)) + x.std(1, False).mean((1, 2))[:, None],
}


@pytest.mark.parametrize(
    "functions",
    (ACTIVATIONS, WINDOWS, LAYERS, MOVES),
    ids=("activations", "windows", "layers", "moves"),
)
def test_each_operator_is_pytorchs_in_float64_for_any_batch(functions):
    """Tolerance: sums of up to 500 numbers in another order."""
    module = Each(functions).double().eval()
    with jax.enable_x64(True):
        apply_fn, variables = from_torch(module, normal(2, 6, 8, 8))
        x = normal(3, 6, 8, 8, seed=4)
        ours = jax.jit(apply_fn)(variables, x.numpy())
    with torch.no_grad():
        theirs = {name: a.numpy() for name, a in module(x).items()}
    assert ours.keys() == functions.keys()
    wrong = {
        name: np.abs(ours[name] - theirs[name]).max()
        if ours[name].shape == theirs[name].shape
        else (ours[name].shape, theirs[name].shape)
        for name in functions
        if ours[name].shape != theirs[name].shape
        or not np.allclose(ours[name], theirs[name], rtol=1e-12, atol=1e-12)
    }
    assert not wrong


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.relu = torch.nn.ReLU()

    def forward(self, x):
        return self.relu(self.relu(self.conv(x)) - 0.5 * x)


class Network(torch.nn.Module):
    """A block that is used twice, in a list, and a function at the top."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.ReLU())
        self.layers = torch.nn.ModuleList([Block()])
        self.norm = torch.nn.BatchNorm2d(3)
        self.unused = torch.nn.Linear(2, 2)
        self.fc = torch.nn.Linear(3, 2)

    def forward(self, x):
        x = self.layers[0](self.layers[0](self.stem(x)))
        return self.fc(F.relu(self.norm(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = Network().eval()
    x = torch.rand(4, 3, 5, 5)
    return module, x, *from_torch(module, x[:1])


def test_neurons_and_variables_have_the_names_of_pytorch(network):
    module, x, apply_fn, variables = network
    names = {name for name in module.state_dict() if "num_batches" not in name}
    assert variables.keys() == {n for n in names if not n.startswith("unused")}
    quantised = quantise(apply_fn, variables, [x.numpy()])
    calls = ("", "@2", "@3", "@4")
    expected = ["stem.1", *(f"layers.0.relu{call}" for call in calls), "relu"]
    assert list(quantised.variables["theta"]) == expected


def test_an_imported_network_leaves_spiking_without_a_difference(network):
    _, x, apply_fn, variables = network
    quantised = quantise(apply_fn, variables, [x.numpy()])
    converted = convert(quantised.apply_fn, quantised.variables, x.numpy(), steps=4)
    snn_fn = jax.jit(spiking(quantised.apply_fn, steps=4))
    logits, _ = snn_fn(converted.variables, x.numpy())
    ann = quantised.apply_fn(quantised.variables, x.numpy())
    assert np.allclose(logits, ann, atol=1e-5)  # float32


def test_a_program_needs_no_code_to_be_stored(network):
    _, x, apply_fn, variables = network
    stored = msgspec.json.encode(apply_fn.program)
    again = TorchModule(msgspec.json.decode(stored, type=Program), apply_fn.constants)
    pickled = pickle.loads(pickle.dumps(apply_fn))
    for each in (again, pickled):
        assert np.array_equal(
            each(variables, x.numpy()), apply_fn(variables, x.numpy())
        )


def test_inputs_come_as_the_example_did():
    class Sum(torch.nn.Module):
        def forward(self, ids, shift=None):
            return ids.float() + shift

    ids, shift = torch.arange(6).reshape(2, 3), torch.ones(2, 1)
    expected = ids.numpy() + 1.0
    # JAX sorts keys; PyTorch takes them in any order.
    for example in ({"shift": shift, "ids": ids}, (ids, shift)):
        apply_fn, _ = from_torch(Sum().eval(), example)
        x = jax.tree.map(np.asarray, example)
        assert np.array_equal(jax.jit(apply_fn)({}, x), expected)
        message = r"takes (2 inputs \(.*\)|a dictionary of shift, ids), got (1|ndarray)"
        with pytest.raises(ValueError, match=message):
            apply_fn({}, ids.numpy())
    with pytest.raises(
        ValueError, match=r"shape \[N, 3\] of the example.*got \[2, 4\]"
    ):
        apply_fn({}, (np.ones((2, 4)), np.ones((2, 1))))


def test_a_batch_that_the_module_fixes_stays_fixed():
    class Fixed(torch.nn.Module):
        def forward(self, x):
            return x.reshape(2, 3) * 2

    apply_fn, _ = from_torch(Fixed().eval(), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"shape \[2, 3\]"):
        apply_fn({}, np.ones((4, 3)))


def test_narrow_floats_become_float32_and_layers_of_encoders_need_no_kernel():
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    module = layer.bfloat16().eval()
    apply_fn, variables = from_torch(module, torch.ones(1, 3, 8).bfloat16())
    assert {a.dtype for a in variables.values()} == {np.dtype("float32")}
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    with torch.no_grad():
        theirs = module.float()(torch.from_numpy(x)).numpy()
    assert np.allclose(apply_fn(variables, x), theirs, atol=1e-5)  # float32


class Branches(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Draws(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.inv(x) + torch.rand(1)


@pytest.mark.parametrize(
    "module, example, message",
    [
        (Network(), torch.ones(1, 3, 5, 5), r"but fc \(Linear\) is in training mode"),
        (Branches().eval(), torch.ones(1, 3), "its forward branches on data"),
        (
            Draws().eval(),
            torch.ones(2, 2, 2),
            r"without a JAX form: aten.linalg_inv_ex.default in .*, aten.rand",
        ),
        (Network().eval(), torch.ones(1, 4, 5, 5), "torch.export cannot write"),
        (Network().eval(), (), "at least one tensor, got none"),
        (Network().eval(), torch.tensor(1.0), "one batch as its first axis"),
        (lambda x: x, torch.ones(1), "must be a torch.nn.Module, got function"),
    ],
)
def test_what_cannot_be_imported_is_said_in_a_line(module, example, message):
    with pytest.raises(ValueError, match=message) as error:
        from_torch(module, example)
    assert "\n" not in str(error.value)


def test_modules_compute_what_they_do_in_torchax():
    torchax = pytest.importorskip("torchax")
    from torchax.export import exported_program_to_jax

    module = Network().eval()
    x = torch.rand(2, 3, 5, 5)
    apply_fn, variables = from_torch(module, x)
    exported = torch.export.export(module, (x,))
    weights, theirs_fn = exported_program_to_jax(exported)
    with torchax.default_env():
        [theirs] = theirs_fn(weights, (x.numpy(),))
    ours = apply_fn(variables, x.numpy())
    assert np.allclose(ours, theirs, atol=1e-6)  # float32
