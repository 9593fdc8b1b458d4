"""The comparison: every method on one checkpoint, row by row, stopped and gone on with.

What is fair is decided here. Each method starts from the network its authors train,
with the same architecture and data; the steps it needs before its output may be read
are counted; accuracy is that on the same test examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from bitsnn_jax import comparators
from bitsnn_jax.comparators.layer import SumNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.structure import Structure, structure
from bitsnn_jax.direct import METHODS as DIRECT
from bitsnn_jax.integers.energy import Profile, profile
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.jobs.compare_direct import DirectCase, direct_runs
from bitsnn_jax.jobs.compare_examples import BATCH, batches, calibration_inputs
from bitsnn_jax.jobs.compare_integers import (
    INTEGERS,
    IntegerCase,
    IntegerMethod,
    Pixels,
    RoundedNetworks,
)
from bitsnn_jax.jobs.compare_networks import SUFFIXES, Ann, load_source, other_runs
from bitsnn_jax.jobs.compare_rows import Case
from bitsnn_jax.jobs.compare_store import ComparisonStore
from bitsnn_jax.jobs.numbers import of_examples
from bitsnn_jax.jobs.sources import RunSource
from bitsnn_jax.jobs.training_cost import (
    QCFS,
    ROUNDS,
    Trainee,
    step_costs,
    trained_run,
    trainee,
)
from bitsnn_jax.reports.scores import with_unit
from bitsnn_jax.results.comparison import (
    ComparisonResult,
    Failure,
    MethodRow,
    TrainedRun,
)
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.runs.loading import ann_fn, check_qcfs
from bitsnn_jax.runs.provenance import about_machine, about_run
from bitsnn_jax.runtime.locks import work_folder
from bitsnn_jax.tasks import task_of
from bitsnn_jax.tracing.fan_out import fan_out

_TRAINING = "cost of training"  # in the list of what failed
_NO_SOURCE = "no method starts from this one"
_TOGETHER = 4  # runs whose steps of training are timed in turns

# Rival methods, ours, and ours in integers.
METHODS: dict[str, Method | IntegerMethod] = comparators.METHODS | INTEGERS


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What to compare, and where to write it.

    Attributes:
      out: folder, for `compare.json`.
      methods: names in `METHODS`; all of them by default.
      steps: the T's, warm-up not counted.
      sources: activation -> run or name of the same network trained with it; by default
        that of the source + one of `SUFFIXES`, where there is such a one.
      direct: runs that were trained directly, to stand beside the methods.
      training_rounds: steps of these and of the source that are timed; 0 for none.
      seeds: of the calibration examples, for methods that depend on them.
      batch: how many examples at a time, over all devices: milliseconds depend on it.
      profile: of `energy.profile`: what operations cost.
      command: that was given, for the report.

    Raises:
      ValueError: an unknown method or profile, steps or batch out of range.
    """

    out: Path
    methods: Sequence[str] = ()
    steps: Sequence[int] = (1, 2, 4, 8, 16, 32)
    sources: Mapping[str, str] = field(default_factory=dict)
    direct: Sequence[str] = ()
    training_rounds: int = ROUNDS
    seeds: Sequence[int] = (0,)
    batch: int = BATCH
    profile: str = "mixed"
    command: str = ""

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            trained = [name for name in unknown if name in DIRECT]
            raise ValueError(
                f"methods must be of {', '.join(METHODS)}; got {', '.join(unknown)}"
                + (
                    f": give runs of {', '.join(trained)} as --direct"
                    if trained
                    else ""
                )
            )
        if not self.steps or min(self.steps) < 1:
            raise ValueError(f"steps must be at least 1, got {list(self.steps)}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.training_rounds < 0:
            raise ValueError(
                f"training_rounds must be at least 0, got {self.training_rounds}"
            )
        profile(self.profile)

    @property
    def chosen(self) -> list[Method | IntegerMethod]:
        """The methods."""
        return [METHODS[name] for name in self.methods or METHODS]


def compare(source: RunSource, options: CompareOptions) -> ComparisonResult:
    """Run methods on one checkpoint, at each T, and write down what they reach.

    Rows that are in `options.out` already are reused, if they are of the same networks
    and examples. A method that fails is written down with its error; the others go on.

    Args:
      source: a network trained with QCFS.
      options: what to do.

    Returns:
      What is in `compare.json`.

    Raises:
      ValueError: networks that do not belong together; CheckpointError: a network that
        a method needs is missing.
      OSError: data that cannot be read, or a folder that cannot be written, or that
        another process works in.
    """
    with work_folder(options.out, replaces=("compare.json",)):
        return _compare(source, options)


def _compare(source: RunSource, options: CompareOptions) -> ComparisonResult:
    bench = _Bench(source, options)
    store = ComparisonStore(options.out / "compare.json", bench.begun())
    for each in bench.direct:
        store.check_run(each.method.name, each.steps, each.seed, each.source)
    print(_head(bench.task.score), flush=True)
    for method in options.chosen:
        store.begin(method.name, bench.missing)
        case = bench.case(method)
        if case is None:
            print(f"{method.name:14} {store.results.failed[-1].error}", flush=True)
            continue
        for seed in options.seeds if method.seeds else options.seeds[:1]:
            _add_rows(case, options.steps, seed, bench, store)
    names = [each.method.name for each in bench.direct]
    for name in dict.fromkeys(names):
        store.begin(name, ())
    for each in bench.direct:
        _add_rows(bench.direct_case(each), [each.steps], each.seed, bench, store)
    if bench.direct and options.training_rounds:
        _add_costs(bench, store)
    return store.finish([*METHODS, *names])


def _add_costs(bench: "_Bench", store: ComparisonStore) -> None:
    """Measure what steps of training cost that were not measured yet."""
    runs = {each.source: each.run for each in bench.direct}
    trained = store.results.trained
    missing = [name for name in runs if trained[name].cost is None]
    store.begin(_TRAINING, ())
    # Few at a time, so that a stopped comparison keeps what it has measured.
    for i in range(0, len(missing), _TOGETHER):
        names = missing[i : i + _TOGETHER]
        print(f"times steps of training of {', '.join(names)}", flush=True)
        try:
            trainees = {name: bench.trainee(runs[name]) for name in names}
            trainees[QCFS] = bench.trainee(bench.main)
            costs = step_costs(trainees, rounds=bench.options.training_rounds)
        except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            text = " ".join(str(error).split())
            error_of = f"{', '.join(names)}: {text}"
            store.fail(Failure(method=_TRAINING, error=error_of))
            print(f"training failed: {text}", flush=True)
            continue
        costs[bench.name] = costs.pop(QCFS)
        store.add_costs(costs)


def _add_rows(
    case: Case | IntegerCase | DirectCase,
    steps: Sequence[int],
    seed: int,
    bench: "_Bench",
    store: ComparisonStore,
) -> None:
    """Measure what is missing of a method and a seed; one must not stop the rest."""
    method = case.method
    try:
        calibration = bench.calibration(seed)
        todo = []
        for t in sorted(set(steps)):
            if store.has(method.name, t, seed):
                continue
            if reason := case.can(t):
                store.fail(Failure(method=method.name, steps=t, error=reason))
            else:
                todo.append(t)
        if not todo:
            return
        rows = case.rows(todo, seed=seed, calibration=calibration, shown=bench.shown)
        for row, about in rows:
            store.add(row, about)
            print(_line(row, bench.task.score), flush=True)
    except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        store.fail(Failure(method=method.name, error=text))
        print(f"{method.name:14} failed: {text}", flush=True)


class _Bench:
    """The networks and examples that all methods have in common."""

    def __init__(self, source: RunSource, options: CompareOptions):
        self.options, self.main = options, source.run()
        main, chosen, name = self.main, options.chosen, str(source.path)
        self.name = name.rstrip("/") or name
        given = main.config.model.activation
        advice = f"give this one as --{given}" if given in SUFFIXES else _NO_SOURCE
        check_qcfs(main, name, advice=advice)
        self.direct = direct_runs(options.direct, main)
        settings, task = main.config.data, task_of(main.config)
        self.test: Any = task.load(settings, "test").first(source.limit)
        self.task = task.on(self.test)
        self.structure, self.synapses = self._counted()
        others, self.missing = other_runs(
            main,
            name,
            options.sources,
            chosen,
            required=bool(options.methods),
            has_relus=not self.structure.products,
        )
        self.train = task.load(settings, "train")
        self.calibration = cache(
            lambda seed: calibration_inputs(main, self.train, seed=seed)
        )
        self.shown = partial(
            batches, self.task, settings, self.test, size=options.batch
        )
        self.anns = self._anns({"qcfs": (main, name), **others})
        self.prices: Profile = profile(options.profile)
        self.integers = self._integers()
        qcfs = self.anns["qcfs"]
        self.direct_case = cache(
            lambda each: DirectCase(each, qcfs, self.prices, self.task)
        )

    def _counted(self) -> tuple[Structure, Callable[[bool], Mapping[str, Any]]]:
        """Measure the network, and make what counts its synapses."""
        run = self.main
        apply_fn = ann_fn(run.config, run.metadata["image_shape"])
        example = self.task.placeholder(self.test.input_shape)
        network = apply_fn, run.variables, example
        synapses = cache(lambda both: fan_out(*network, both=both, nonspiking="decode"))
        return structure(*network, nonspiking="decode"), synapses

    def _integers(self) -> RoundedNetworks | None:
        """Return the networks in integers, which are those of pixels."""
        apply_fn, variables, *_ = self.anns["qcfs"].network
        try:
            numbers = self.task.numbers(self.main.config, self.test)
        except ValueError as error:
            return self._without_integers(str(error))
        if numbers.key != "image":
            return self._without_integers(
                "compare.py has networks in integers of images only, got "
                f"{self.task.noun}: convert.py has those of others"
            )
        shown = of_examples(apply_fn, numbers, self.test)
        return RoundedNetworks(
            Pixels(
                graph=lambda: lower(shown.apply_fn, variables, shown.example),
                ann=shown.float_pass(variables),
                task=self.task,
                shown=self.shown,
                outputs=partial(shown.outputs, variables=variables),
            )
        )

    def _without_integers(self, error: str) -> None:
        self.missing += [Failure(method=name, error=error) for name in INTEGERS]

    def _anns(self, runs: Mapping[str, tuple[Run, str]]) -> dict[str, Ann]:
        calibration = self.calibration(0)
        return {
            activation: load_source(
                run, source, self.main, self.task, self.shown, calibration
            )
            for activation, (run, source) in runs.items()
        }

    def case(self, method: Method | IntegerMethod) -> Case | IntegerCase | None:
        """Set up the method on its network; None where that is missing."""
        ann = self.anns.get(method.trained_with)
        if ann is None:
            return None
        if isinstance(method, IntegerMethod):
            if self.integers is None:
                return None
            return IntegerCase(method, ann, self.structure, self.prices, self.integers)
        # A sum so far grows by spikes of either train of a product.
        synapses = self.synapses(isinstance(method.neuron(1), SumNeuron))
        return Case(method, ann, self.structure, synapses, self.prices, self.task)

    def trainee(self, run: Run) -> Trainee:
        """Collect what a step of training needs."""
        return trainee(run, self.train, self.main.config)

    def _trained(self) -> dict[str, TrainedRun]:
        """Describe the runs whose training is compared."""
        if not self.direct:
            return {}
        return {
            self.name: trained_run(self.main, self.name, self.structure),
            **{
                each.source: trained_run(
                    each.run, each.source, self.direct_case(each).structure
                )
                for each in self.direct
            },
        }

    def begun(self) -> ComparisonResult:
        """Begin a comparison without rows."""
        return ComparisonResult(
            run=about_run(self.main, self.options.command),
            machine=about_machine(),
            examples=len(self.test),
            batch=min(self.options.batch, len(self.test)),
            neurons=self.structure.neurons,
            depth=self.structure.depth,
            multiply_accumulates=self.structure.multiply_accumulates,
            profile=self.prices.name,
            networks={name: ann.summary for name, ann in self.anns.items()},
            methods={},
            rows=(),
            failed=(),
            noun=self.task.noun,
            measure=self.task.score,
            trained=self._trained(),
        )


def _head(measure: str) -> str:
    return (
        f"method          T  window  seed {measure:>9}  as the ANN  spikes/neuron  "
        "synaptic operations  ms"
    )


def _line(row: MethodRow, measure: str) -> str:
    return (
        f"{row.method:14} {row.steps:2} {row.window:7} {row.seed:5} "
        f"{with_unit(row.accuracy, measure):>9} {row.agreement:11.2%} "
        f"{row.spikes_per_neuron:14.3f} {row.synaptic_operations:20,.0f} "
        f"{row.milliseconds:6.2f}"
    )
