"""What a conversion changed and found, as it is written down."""

from collections.abc import Sequence

from bitsnn_jax.conversion.bias_shift import Report
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.jobs.ties import theta_result
from bitsnn_jax.results.conversion import (
    AnalogLayer,
    ChangedBias,
    Changes,
    NeuronLayer,
    NonspikingOperation,
    ProductOfCurrents,
    RowsOutside,
    Work,
)
from bitsnn_jax.tracing.multiplications import multiplications
from bitsnn_jax.tracing.outside import Rows, rows_outside


def changes_of(network: Network, report: Report) -> Changes:
    """Put in the form of results what a conversion did and found.

    Args:
      network: that was converted.
      report: of it.
    """
    of = (network.apply_fn, network.variables, network.placeholder)
    counted = multiplications(*of)
    return Changes(
        changed=tuple(ChangedBias(**shift._asdict()) for shift in report.changed),
        neurons=tuple(
            NeuronLayer(
                path=layer.path,
                shape=layer.shape[1:],
                theta=theta_result(layer.theta),
                levels=layer.levels,
            )
            for layer in report.neurons
        ),
        nonspiking=tuple(
            NonspikingOperation(**operation._asdict())
            for operation in report.nonspiking
        ),
        analog=tuple(
            AnalogLayer(**layer._replace(shape=layer.shape[1:])._asdict())
            for layer in report.analog
        ),
        products=tuple(ProductOfCurrents(**p._asdict()) for p in report.products),
        bias_shift="parameters",
        work=Work(
            driven=counted.driven,
            multiplications=counted.total,
            outside=_together(rows_outside(*of)),
        ),
    )


def _together(rows: Sequence[Rows]) -> tuple[RowsOutside, ...]:
    """Put operations of one kind, on rows of one length, together."""
    kinds: dict[tuple[str, int], list[Rows]] = {}
    for each in rows:
        kinds.setdefault((each.operation, each.length), []).append(each)
    return tuple(
        RowsOutside(
            operation=operation,
            paths=tuple(dict.fromkeys(each.path for each in same)),
            times=len(same),
            rows=sum(each.rows for each in same),
            length=length,
        )
        for (operation, length), same in kinds.items()
    )
