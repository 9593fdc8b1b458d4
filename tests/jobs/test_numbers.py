"""What networks of integers are shown, for each task."""

import numpy as np

from bitsnn_jax import config
from bitsnn_jax.jobs.numbers import first_numbers, of_numbers
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.tasks import task_of


def of_sentences():
    settings = config.Config(
        task="sentence_classification",
        data=config.Data(name="fake_sentences", max_length=8),
        model=config.Model(name="bert_tiny", num_classes=2, norm="layer"),
    )
    examples = task_of(settings).load(settings.data, "test")
    return Network(
        apply_fn=lambda v, x: x, variables={}, config=settings, examples=examples
    )


def test_sentences_are_shown_as_integers_each_row_with_a_largest_of_its_own():
    network = of_sentences()
    shown = of_numbers(network)
    numbers = shown.numbers
    assert numbers.white.tolist() == [[127], [1], [1]]
    assert shown.example.shape == (1, 3, 8) and shown.example.dtype == np.int32
    batch = next(iter(network.task.eval_batches(network.config.data, network.examples)))
    assert (batch[numbers.key] <= numbers.white).all()
    np.testing.assert_array_equal(shown.example[0], batch[numbers.key][0])


def test_weights_are_rounded_for_training_sentences():
    network = of_sentences()
    of = (network.task, network.config.data, "tokens")
    tokens = first_numbers(*of, 5)
    assert tokens.shape == (5, 3, 8)
    again = first_numbers(*of, 3)
    np.testing.assert_array_equal(again, tokens[:3])
