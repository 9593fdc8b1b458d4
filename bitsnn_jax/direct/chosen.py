"""From the fields of a config to a method, and to the network that it trains."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from bitsnn_jax.config import Config, Direct
from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.methods import METHODS
from bitsnn_jax.direct.neurons import Neuron
from bitsnn_jax.direct.surrogates import SURROGATES
from bitsnn_jax.direct.through_time import Replace, ThroughTime


def method_of(settings: Direct) -> Method:
    """Return the method of a config, with the surrogate that was asked for.

    Raises:
      ValueError: unknown method or surrogate, or one for neurons without any.
    """
    if settings.method not in METHODS:
        raise ValueError(
            f"direct.method must be one of {', '.join(sorted(METHODS))}; got "
            f"{settings.method!r}"
        )
    method, name = METHODS[settings.method], settings.surrogate
    if not name:
        return method
    if name not in SURROGATES:
        raise ValueError(
            f"direct.surrogate must be one of {', '.join(sorted(SURROGATES))}, or '' "
            f"for that of the method; got {name!r}"
        )
    if not hasattr(method.neuron(1.0), "spike"):
        raise ValueError(
            f"direct.surrogate must be '' for direct.method={method.name}, whose "
            f"neurons have a gradient of their own; got {name!r}"
        )

    def neuron(progress: Any) -> Neuron:
        own: Any = method.neuron(progress)
        return dataclasses.replace(own, spike=SURROGATES[name])

    return dataclasses.replace(method, neuron=neuron)


def trained_directly(config: Config, network: Callable[..., nn.Module]) -> nn.Module:
    """Return the network of a config, run through time if it is trained so.

    With QCFS in the place of `spiking` it is the same network for one step, whose sites
    have the paths of its neurons. It is not trained: synapses are counted on it.

    Args:
      config: of the run.
      network: makes it, with `layers=` that are put in the place of its own.
    """
    if not config.direct.method:
        return network()
    settings = config.direct
    if config.model.activation == "qcfs":
        method = method_of(settings)
        block = method.counts_as or method.block
        return network(layers=lambda own: own | ({"block": block} if block else {}))

    def with_layers(replace: Replace) -> nn.Module:
        return network(layers=replace)

    return ThroughTime(
        with_layers,
        method_of(settings),
        config.steps,
        unroll=settings.unroll,
        remat=settings.remat == "step",
    )
