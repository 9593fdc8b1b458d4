"""BERT_BASE on QNLI of GLUE, a column of the paper's Table 8.

Get QNLI from https://gluebenchmark.com/tasks, and the folder of the network
bert-base-uncased (config.json, model.safetensors, vocab.txt) from Hugging Face.

python train.py --config configs/bert_base_qnli.py --config.data.directory=DIR

First the float network; then the quantised one, which starts from it:

python train.py --config configs/bert_base_qnli.py --config.data.directory=DIR \\
    --config.name=bert_base_qnli_qcfs --config.model.activation=qcfs \\
    --config.model.per_channel=true --config.start_from=runs/bert_base_qnli

With a set that TensorFlow Datasets prepared: --config.data.name=glue/qnli.

Hardware: one GPU. Time: not measured here. Accuracy: not measured here, for neither the
data nor the weights can be had where this was written.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="bert_base_qnli",
        task="sentence_classification",
        start_from="bert-base-uncased",
        data=config.Data(
            name="qnli",
            vocabulary="bert-base-uncased/vocab.txt",
            max_length=128,
            batch_size=32,
        ),
        model=config.Model(
            name="bert_base",
            num_classes=2,
            activation="gelu",
            norm="layer",
            dropout=0.1,
        ),
        optimizer=config.Optimizer(
            name="adamw",
            schedule="linear",
            learning_rate=2e-5,
            warmup_epochs=0.3,
            weight_decay=0.01,
            clip_norm=1.0,
            epochs=3,
        ),
    )
