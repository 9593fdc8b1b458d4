"""Which layers of neurons a loss or a head looks at, by their paths."""

from collections.abc import Mapping

from bitsnn_jax.direct.neurons import Fired


def outside_blocks(layers: Mapping[str, Fired]) -> dict[str, Fired]:
    """Return the layers that no block hides, in the order of firing.

    A layer in the network itself counts. Of those in one block, the last does: it is
    what the block sends on.

    >>> layers = dict.fromkeys(["stem_act", "block_0/act_1", "block_0/act_2", "act"])
    >>> list(outside_blocks(layers))
    ['stem_act', 'block_0/act_2', 'act']
    """
    last = {path.partition("/")[0]: path for path in layers}
    return {path: layers[path] for path in last.values()}
