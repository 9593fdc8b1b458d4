"""SEW ResNet: residual blocks that join spikes with spikes.

    z = g(act(norm(conv(act(norm(conv x))))), x)

with g(y, x) = y + x, y x or x (1 - y): see `models.sew`. Neurons are IF with threshold
1 and a hard reset that passes no gradient on. Fang et al., Deep residual learning in
spiking neural networks, NeurIPS 2021, and their public code. Differs from the paper,
whose networks have the "imagenet" stem with a maximum: `model.stem` and `model.pool`
say what there is. Their code averages what the last layer is fed with over time, which
is the same as the mean of its outputs here. The surrogate is that of the paper.
"""

from functools import partial
from typing import get_args

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import IntegrateAndFire
from bitsnn_jax.direct.surrogates import SURROGATES
from bitsnn_jax.models.sew import Connect, SEWBlock

NEURON = IntegrateAndFire(spike=SURROGATES["arctan"], detached=True)

METHODS = tuple(
    Method(
        name=f"sew_{connect}",
        title=f"SEW ResNet, {connect.upper()}",
        source="Fang et al., Deep residual learning in spiking neural networks, "
        "NeurIPS 2021",
        neuron=lambda progress: NEURON,
        block=partial(SEWBlock, connect=connect),
        counts_as=partial(SEWBlock, connect="add"),
        models=("resnet18", "resnet20", "resnet34"),
    )
    for connect in get_args(Connect)
)
