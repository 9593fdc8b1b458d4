"""Wrong commands: each is one line that says what was expected, and nothing is lost.

Every option of every command, experiment and benchmark is given something that it does
not take. The commands run in this process, where they are parsed as in their own.
"""

import shlex
import subprocess
import sys

import pytest
from commands import ROOT, check_line, run, tree

NAME = "vgg_fashion_mnist"  # a network of the package
NO_UTF8 = "caf\udce9"  # as Python has the bytes caf\xe9
TET = "--config.model.activation=spiking --config.direct.method=tet"
HOSTS = "--coordinator=a:1 --num_hosts=2 --host=0"

# command -> arguments, as a shell has them -> a part of the line.
WRONG = {
    "train": {
        "--config=nosuch": "--config=nosuch: expected a file, which is not there",
        "--config={tmp}": "expected a file, which is not there, or one of bert_bas",
        "--config=": "expected a file, which is not there",
        "--config {tmp}/syntax.py": "syntax.py cannot be run (SyntaxError: ",
        "--config {tmp}/empty.py": "empty.py has no get_config(): expected a Python",
        "--config {tmp}/raises.py": "raises.py cannot be run (ZeroDivisionError in li",
        "--config {tmp}/dict.py": "get_config() gives a dict: expected",
        "--config {tmp}/none.py": "get_config() gives a NoneType: expected",
        "--config {tmp}/imports.py": "(ModuleNotFoundError in line 1: No module named",
        "--config {tmp}/latin.py": "latin.py cannot be run (",
        "--config {tmp}/nul.py": "nul.py cannot be run (",
        "--config {tmp}/exits.py": "exits.py cannot be run (SystemExit in line 2: 0)",
        "--config {tmp}/argument.py": "(TypeError: get_config() missing 1 required",
        "--config {tmp}/field.py": "model.levels must be of type int, got 'many'",
        "--config {tmp}/extra.py": "model.level is not a field of a config",
        "--config {tmp}/noutf8.py": "start_from must be text that can be printed",
        "--config digits_small:text": "digits_small.py:text: expected a file",
        "--config.lr=0.1": "lr not found on dataclass",
        "--config.model.level=3": "level not found on dataclass",
        "--config.data=3": "--config.data=3",
        "--config.data.name.x=3": "bitsnn_jax/config.py lists the fields",
        "--config.data.flip=maybe": "--config.data.flip=maybe",
        "--config.seed=-1": "seed must be in 0..2**32 - 1, got -1",
        "--config.seed=5000000000": "seed must be in 0..2**32 - 1",
        "--config.seed=1.5": "--config.seed=1.5",
        "--config.task=poetry": "task must be one of detection, image_classification,",
        "--config.model.pool=avg": "model.pool must be one of average, max; got 'avg'",
        "--config.model.pool=max --config.seed=-1": "seed must be in 0..2**32 - 1",
        "--config.loss.spike_weights=1": "spike_weights must be one of fan_out, neur",
        "--config.data.unreadable=": "data.unreadable must be one of error, skip; got",
        "--config.steps=0": "steps must be in 1..30, got 0",
        "--config.steps=31": "steps must be in 1..30, got 31",
        "--config.name=": "name must be a name of at most 200 letters",
        "--config.name=a/b": "name must be a name of at most 200 letters",
        "--config.name='a '": "name must be text that can be printed, without spaces",
        "--config.start_from=nosuch": "start_from: nosuch is not a folder",
        "--config.model.name=resnet21": "model.name must be one of",
        "--config.model.width=1e9": "model.width must be at least 0.01 and at most 64",
        "--config.model.width=1e-9": "model.width must be at least 0.01",
        "--config.model.width=nan": "model.width must be at least 0.01",
        "--config.model.width=inf": "model.width must be at least 0.01",
        "--config.model.width=-1": "model.width must be at least 0.01",
        "--config.model.name=resnet18 --config.model.width=64": "memory",
        "--config.model.levels=0": "model.levels must be in 1..2**30 - 1, got 0",
        "--config.model.levels=2000000000": "model.levels must be in 1..2**30 - 1",
        "--config.model.theta_init=0": "model.theta_init must be positive",
        "--config.model.theta_init=1e30": "model.theta_init must be positive and at m",
        "--config.model.num_classes=0": "model.num_classes must be at least 1",
        "--config.model.num_classes=7": "model.num_classes must be 10, the classes of",
        "--config.model.num_classes=1000000000": "model.num_classes must be at least",
        "--config.model.dtype=float16": "model.dtype must be one of bfloat16, float32",
        "--config.optimizer.learning_rate=0": "learning_rate must be positive",
        "--config.optimizer.learning_rate=1e9": "learning_rate must be positive and at",
        "--config.optimizer.momentum=1": "momentum must be at least 0 and below 1",
        "--config.optimizer.weight_decay=5": "weight_decay must be at least 0 and at ",
        "--config.optimizer.epochs=0": "epochs must be at least 1",
        "--config.optimizer.epochs=1000000000": "epochs must be at least 1 and at mos",
        "--config.optimizer.warmup_epochs=50": "warmup_epochs must be below optimizer",
        "--config.optimizer.accumulate=3": "accumulate must divide the",
        "--config.loss.spike_lambda=inf": "loss.spike_lambda must be at least 0",
        "--config.loss.spike_surrogate=best": "loss.spike_surrogate must be one of",
        "--config.loss.label_smoothing=2": "loss.label_smoothing must be at least 0",
        "--config.data.name=tiny-imagenet": "data.name must be one of",
        "--config.data.name=idx --config.data.directory=/no": "/no",
        "--config.data.max_length=3": "data.max_length must be at least 4",
        "--config.loss.teacher=none": "loss.distillation must be positive with",
        "--config.loss.teacher=none --config.loss.distillation=1": "loss.teacher: none",
        "--config.task=sentence_classification": "data.name must be one of cola, fak",
        f"{TET} --config.direct.surrogate=best": "direct.surrogate must be one of arct",
        f"{TET} --config.direct.method=best": "direct.method must be one of",
        f"{TET} --config.direct.remat=all": "direct.remat must be one of layer, none,",
        f"{TET} --config.steps=0": "steps must be in 1..30, got 0",
        f"{TET} --config.model.name=vit_tiny": "model.name must be one of",
        f"{TET} --config.start_from=nosuch": "start_from: nosuch is not a folder",
        "--config.direct.method=tet": "model.activation must be spiking with direct",
        "--config.model.activation=spiking": "must be spiking with direct.method, and",
        "--config.direct.surrogate=arctan": "direct.surrogate needs a direct.method",
        "--config.direct.unroll=false": "direct.unroll needs a direct.method, got",
        "--config.data.batch_size=0": "data.batch_size must be",
        "--config.data.batch_size=1000000000": "data.batch_size must be",
        "--config.data.eval_batch_size=1000000000": "data.eval_batch_size must be",
        "--config.data.image_size=1000000000": "data.image_size must be",
        "--config.data.crop=1000000000": "data.crop must be",
        "--config.data.workers=-1": "data.workers must be",
        "--config.data.workers=1000000": "data.workers must be",
        "--config.checkpoint_every_steps=-1": "checkpoint_every_steps must be",
        "--config.log_every_steps=0": "log_every_steps must be at least 1",
        "--workdir=": "--workdir=: must not be empty",
        "--workdir='  '": "must not be empty: leave it out",
        "--workdir={tmp}/file": "file must be a folder",
        "--workdir={noutf8}": "must be UTF-8",
        "--nosuch=3": "Unknown command line flag 'nosuch'",
        "digits_small": "expected flags only, got digits_small",
        "--coordinator=a:1": "--num_hosts and --host not given",
        "--coordinator=a:99999 --num_hosts=2 --host=0": "have a port in 1..65535, got",
        "--coordinator=a:0 --num_hosts=2 --host=0": "must have a port in 1..65535",
        "--coordinator=a --num_hosts=2 --host=0": "must be ADDRESS:PORT, got a",
        "--coordinator=a: --num_hosts=2 --host=0": "must be ADDRESS:PORT, got a:",
        "--coordinator='a b:1' --num_hosts=2 --host=0": "must be ADDRESS:PORT",
        "--coordinator=a:1 --num_hosts=1000000000 --host=0": "must be in 1..65536",
        "--coordinator=a:1 --num_hosts=0 --host=0": "--num_hosts must be in 1..65536",
        "--coordinator=a:1 --num_hosts=2 --host=2": "--host must be in 0..1, got 2",
        "--coordinator=a:1 --num_hosts=two --host=0": "--num_hosts=two",
        f"{HOSTS} --host_timeout=0": "--host_timeout must be in 1..86400 seconds",
        f"{HOSTS} --host_timeout=1000000000": "--host_timeout must be in 1..86400",
        "--host_timeout=-5": "--host_timeout must be in 1..86400 seconds, got -5",
    },
    "convert": {
        "": "one of the arguments --ckpt --torch --onnx is required",
        "--ckpt": "argument --ckpt: expected one argument",
        "--ckpt=": "--ckpt must not be empty",
        "--ckpt={noutf8}": "--ckpt must be UTF-8",
        "--ckpt=nosuch": "nosuch is not a folder: expected the folder of a run",
        "--ckpt={tmp}": "holds no checkpoints",
        "--ckpt={tmp}/file": "is not a folder: expected the folder of a run",
        "--torch=": "--torch must not be empty",
        f"--ckpt={NAME} --torch=x.pth": "not allowed with argument --ckpt",
        f"--ckpt={NAME} --steps": "argument --steps: expected at least one argument",
        f"--ckpt={NAME} --steps 0": "--steps must be at least 1, got 0",
        f"--ckpt={NAME} --steps -4": "--steps must be at least 1, got -4",
        f"--ckpt={NAME} --steps 4 4": "--steps must have each value once, got 4",
        f"--ckpt={NAME} --steps 1000000000": "steps must be at most 24 for float32",
        f"--ckpt={NAME} --steps {'9' * 5000}": "invalid int value",
        f"--ckpt={NAME} --steps four": "argument --steps: invalid int value: 'four'",
        f"--ckpt={NAME} --limit=0": "--limit must be at least 1, got 0",
        f"--ckpt={NAME} --limit=-1": "--limit must be at least 1, got -1",
        f"--ckpt={NAME} --mode=slow": "argument --mode: invalid choice: 'slow'",
        f"--ckpt={NAME} --certificate=x": "argument --certificate: invalid choice",
        f"--ckpt={NAME} --carriers=int7": "argument --carriers: invalid choice",
        f"--ckpt={NAME} --carriers int32 int32": "--carriers must have each value on",
        f"--ckpt={NAME} --fixed-point=1": "--fixed-point must be at least 2, got 1",
        f"--ckpt={NAME} --fixed-point=9": "--fixed-point must be at most 8, got 9",
        f"--ckpt={NAME} --rounding=up": "argument --rounding: invalid choice: 'up'",
        f"--ckpt={NAME} --rounding=gptq": "rounding needs fixed-point",
        f"--ckpt={NAME} --carriers=int8": "carriers needs fixed-point",
        f"--ckpt={NAME} --tie-skips": "tie-skips needs fixed-point",
        f"--ckpt={NAME} --target=loihi2": "target needs fixed-point",
        f"--ckpt={NAME} --target=loihi3": "invalid choice: 'loihi3' (choose from",
        f"--ckpt={NAME} --target xylo xylo": "--target must have each value once",
        f"--ckpt={NAME} --coding=signed_digits --steps=24": "at most 23 for float32",
        f"--ckpt={NAME} --coding=gray": "argument --coding: invalid choice: 'gray'",
        f"--ckpt={NAME} --coding=signed_digits --fixed-point --target=loihi2": "send b",
        f"--ckpt={NAME} --qat_epochs=1": "qat_epochs needs fixed-point",
        f"--ckpt={NAME} --qat_epochs=-1": "--qat_epochs must be at least 0, got -1",
        f"--ckpt={NAME} --qat_epochs=1000000000": "--qat_epochs must be at most",
        f"--ckpt={NAME} --qat_learning_rate=nan": "--qat_learning_rate must be above",
        f"--ckpt={NAME} --qat_learning_rate=0": "--qat_learning_rate must be above 0",
        f"--ckpt={NAME} --data=": "--data must not be empty",
        f"--ckpt={NAME} --data=/nosuch": "/nosuch",
        f"--ckpt={NAME} --out=": "--out must not be empty",
        f"--ckpt={NAME} --out='  '": "--out must not be empty",
        f"--ckpt={NAME} --out={{noutf8}}": "--out must be UTF-8",
        f"--ckpt={NAME} --model=vgg16": "--model belongs to --torch: leave it out",
        f"--ckpt={NAME} --size=64": "--size belongs to --torch: leave it out",
        f"--ckpt={NAME} --coordinator=a:99999 --num_hosts=2 --host=0": "1..65535",
        f"--ckpt={NAME} --host_timeout=0": "--host_timeout must be in 1..86400",
        f"--ckpt={NAME} --num_hosts=2": "--coordinator and --host not given",
        f"--ckpt={NAME} --stpes=4": "unrecognized arguments: --stpes=4",
        f"--ckpt={NAME}_relu": "was trained with relu: expected a network",
        "--torch=x.pth": "--torch needs --model",
        "--torch=x.pth --model=vgg16": "--torch needs --calibrate",
        "--torch=x.pth --model=vgg17": "argument --model: invalid choice: 'vgg17'",
        "--torch=x.pth --model=vgg16 --calibrate=": "--calibrate must not be empty",
        "--torch=x.pth --model=vgg16 --calibrate={tmp}/none": "none",
        "--torch=x.pth --model=vgg16 --calibrate=. --size=16": "--size must be at lea",
        "--torch=x.pth --model=vgg16 --calibrate=. --size=100000": "--size must be at",
        "--torch=x.pth --model=vgg16 --calibrate=. --mode=fused": "--mode belongs to",
        "--onnx=x.onnx --calibrate=. --std 0 1 1": "--std must be above 0 and at most",
        "--onnx=x.onnx --calibrate=. --mean 124 116 104": "--mean must be at least 0 a",
        "--onnx=x.onnx --calibrate=. --mean nan 0 0": "--mean must be at least 0 and a",
        "--onnx=x.onnx --calibrate=. --coding=signed_digits --steps=24": "at most 23",
    },
    "compare": {
        "": "the following arguments are required: --ckpt",
        "--ckpt=": "--ckpt must not be empty",
        "--ckpt=nosuch": "nosuch is not a folder: expected the folder of a run",
        f"--ckpt={NAME}_relu": "was trained with relu: expected a network",
        f"--ckpt={NAME} --methods best": "methods must be of",
        f"--ckpt={NAME} --methods qcfs qcfs": "--methods must have each value once",
        f"--ckpt={NAME} --steps 0": "--steps must be at least 1, got 0",
        f"--ckpt={NAME} --steps 1000000000": "--steps must be at most 4096",
        f"--ckpt={NAME} --steps 4 8 4": "--steps must have each value once, got 4",
        f"--ckpt={NAME} --seeds -1": "--seeds must be at least 0, got -1",
        f"--ckpt={NAME} --seeds 1 1": "--seeds must have each value once, got 1",
        f"--ckpt={NAME} --seeds 5000000000": "--seeds must be at most 4294967295",
        f"--ckpt={NAME} --batch=0": "--batch must be at least 1, got 0",
        f"--ckpt={NAME} --batch=many": "argument --batch: invalid int value: 'many'",
        f"--ckpt={NAME} --limit=0": "--limit must be at least 1, got 0",
        f"--ckpt={NAME} --profile=cheap": "argument --profile: invalid choice",
        f"--ckpt={NAME} --relu=": "--relu must not be empty",
        f"--ckpt={NAME} --clipped_relu=": "--clipped_relu must not be empty",
        f"--ckpt={NAME} --relu=nosuch": "nosuch is missing",
        f"--ckpt={NAME} --direct=": "--direct must not be empty",
        f"--ckpt={NAME} --direct a a": "--direct must have each value once, got a",
        f"--ckpt={NAME} --direct={NAME}": "was trained with qcfs: expected a run with",
        f"--ckpt={NAME} --direct=nosuch": "nosuch is not a folder: expected the folder",
        f"--ckpt={NAME} --methods tet": "got tet: give runs of tet as --direct",
        f"--ckpt={NAME} --training_rounds=-1": "--training_rounds must be at least 0",
        f"--ckpt={NAME} --data=": "--data must not be empty",
        f"--ckpt={NAME} --out=": "--out must not be empty",
        f"--ckpt={NAME} --out={{noutf8}}": "--out must be UTF-8",
    },
    "export": {
        "": "the following arguments are required: --ckpt, --to",
        "--ckpt={tmp} --to=paper": "invalid choice: 'paper' (choose from",
        "--ckpt={tmp} --to nir nir": "--to must have each value once",
        "--ckpt={tmp} --to nir": "snn/fixed_point is not there: expected a network in",
        "--ckpt=nosuch --to nir": "nosuch is not a folder: expected the folder of a",
        "--ckpt={tmp} --to nir --out=": "--out must not be empty",
    },
    "pretrained": {
        "": "the following arguments are required: run, name",
        "'' tiny": "run must not be empty",
        "{tmp} tiny": "holds no checkpoints",
        "{tmp}/none tiny": "is not a folder",
        "{tmp} ../up": "name must be letters, digits and _",
        "{tmp} __pycache__": "name must be letters, digits and _, beginning with",
        "{tmp} ''": "name must not be empty",
        "{tmp} tiny --command={noutf8}": "--command must be UTF-8",
    },
    "referee": {
        "": "the following arguments are required: folder",
        "{tmp}/none": "none",
        "''": "folder must not be empty",
        "{tmp} --limit=0": "--limit",
        "{tmp} --limit=x": "--limit",
        "{tmp} --accumulator=1": "--accumulator must be 2 to 32, got 1",
        "{tmp} --accumulator=wide": "--accumulator",
        "{tmp} --accumulator=8 --overflow=up": "--overflow: invalid choice: 'up'",
        "{tmp} --overflow=wrap": "--overflow needs --accumulator",
        "{tmp} --coding=ternary": "--coding: invalid choice: 'ternary'",
        "{tmp} extra": "unrecognized arguments: extra",
    },
    "experiments.ablation": {
        "--ckpt=": "--ckpt must not be empty",
        "--ckpt=nosuch": "nosuch is not a folder",
        "--steps 0": "--steps must be at least 1",
        "--steps 2 2": "--steps must have each value once",
        "--limit=0": "--limit must be at least 1",
        "--out=": "--out must not be empty",
        "--out={tmp}/file": "file cannot be read",
    },
    "experiments.bert_base_step": {
        "--width=0": "--width must be above 0",
        "--together=4": "--together must be at most 3",
    },
    "experiments.retinanet_at_512": {
        "--size=0": "--size must be at least 1, got 0",
        "--width=0": "--width must be above 0",
        "--parts all": "argument --parts: invalid choice",
        "--out=": "--out must not be empty",
    },
    "experiments.reviews": {
        "": "the following arguments are required: sdist",
        "{tmp}/none": "none",
        "{tmp}/file": "file: expected the source archive of vaderSentiment 3.3.2",
    },
    "experiments.deepforest_scenes": {
        "": "the following arguments are required: package",
        "{tmp}/none": "none: expected the wheel of deepforest 2.1.0",
        "{tmp}/file": "file: expected the wheel of deepforest 2.1.0",
        "{tmp}/file --to={tmp}": "--to must be a new folder, or an empty one",
        "{tmp}/file --tile=8": "--tile must be at least 16, got 8",
    },
    "experiments.cards": {"nosuch": "nosuch is not a folder"},
    "experiments.conversions": {
        "--parts all": "argument --parts: invalid choice",
        "--out=": "--out must not be empty",
    },
    "experiments.direct": {
        "--network=vgg": "argument --network: invalid choice: 'vgg'",
        "--network=plif_net --methods tet": "tet does not train plif_net: leave it out",
        "--epochs=0": "--epochs must be at least 1, got 0",
    },
    "experiments.imagenet_path": {"--out=": "--out must not be empty"},
    "experiments.minilm": {"--out=": "--out must not be empty"},
    "experiments.torch_logits": {"--out=": "--out must not be empty"},
    "experiments.saturation": {
        "--images=0": "--images must be at least 1",
        "--widths 1": "--widths must be at least 2",
        "--networks nosuch": "nosuch is not a folder",
        "--out=": "--out must not be empty",
    },
    "experiments.spike_weights": {"--seeds 0 0": "--seeds must have each value once"},
    "experiments.anytime": {
        "--networks ''": "--networks must not be empty",
        "--networks nosuch": "nosuch is not a folder",
    },
    "experiments.bits": {
        "--bits 9": "--bits must be at most 8",
        "--epochs=-1": "--epochs must be at least 0",
        "--learning_rate=nan": "--learning_rate must be above 0",
        "--networks nosuch": "nosuch is not a folder",
    },
    "experiments.decomposition": {
        "--steps 1000000000": "--steps must be at most 4096",
        "--picture=": "--picture must not be empty",
    },
    "experiments.energy": {
        "--images=0": "--images must be at least 1",
        "--rate_steps=0": "--rate_steps must be at least 1",
    },
    "experiments.nir_readers": {"--images=0": "--images must be at least 1"},
    "experiments.referee": {"--images=-1": "--images must be at least 1"},
    "experiments.regulariser": {"--seeds 0 0": "--seeds must have each value once"},
    "experiments.relu_first": {
        "--network vgg": "invalid choice: 'vgg'",
        "--seeds -1": "--seeds must be at least 0",
    },
    "experiments.robustness": {
        "--steps 25": "--steps must be at most 24",
        "--attacked 0": "--attacked must be at least 1",
        "--seeds 1 1": "--seeds must have each value once",
        "--check=-1": "--check must be at least 0",
    },
    "experiments.ties": {
        "--ties=all": "argument --ties: invalid choice: 'all'",
        "--steps=9": "--steps must be at most 8, got 9",
        "--networks=nosuch": "nosuch is not a folder",
        "--out={tmp}/file": "file cannot be read",
    },
    "benchmarks.cost": {
        "--networks alexnet": "argument --networks: invalid choice: 'alexnet'",
        "--dtype=int3": "argument --dtype: invalid choice: 'int3'",
        "--costs={tmp}/file": "file cannot be read",
        "--stem=big": "argument --stem: invalid choice: 'big'",
        "--batch=1": "--batch must be at least 8, got 1",
    },
    "benchmarks.device_check": {
        "": "the following arguments are required: --out",
        "--out=": "--out must not be empty",
        "--out=a.json --minutes=0": "--minutes must be at least 1, got 0",
    },
    "benchmarks.fixed_point": {
        "--model=alexnet": "argument --model: invalid choice: 'alexnet'",
        "--carriers float32 float32": "must have each value once, got float32",
        "--peers caffe": "argument --peers: invalid choice: 'caffe'",
        "--bits=1": "--bits must be at least 2",
    },
    "benchmarks.input_pipeline": {
        "--rounds=0": "--rounds must be at least 2",
        "--before=nowhere": "--before must be a checkout of this repository",
    },
    "benchmarks.latency": {
        "--at qcfs": "--at must be METHOD=T",
        "--at qcfs=0": "--at must be METHOD=T",
        "--batch 0": "--batch must be at least 1",
        "--ckpt=nosuch": "nosuch is not a folder",
    },
    "benchmarks.scaling": {
        "--devices=0": "--devices must be at least 1",
        "--config={tmp}/dict.py": "get_config() gives a dict",
    },
    "benchmarks.simulate": {"--steps=25": "--steps must be at most 24"},
    "benchmarks.train_step": {"--channels=0": "--channels must be at least 1"},
}
CASES = [
    (c, words, line) for c, cases in WRONG.items() for words, line in cases.items()
]

# Files that a command may be given.
FILES = {
    "file": "no JSON",
    "syntax.py": "def get_config(:\n",
    "empty.py": "",
    "raises.py": "def get_config():\n    return 1 / 0\n",
    "dict.py": "def get_config():\n    return {'seed': 0}\n",
    "none.py": "def get_config():\n    pass\n",
    "imports.py": "import nosuchmodule\n",
    "latin.py": b"# caf\xe9\ndef get_config(): ...\n",
    "nul.py": "x = 1\0",
    "exits.py": "import sys\nsys.exit(0)\n",
    "argument.py": "def get_config(text):\n    pass\n",
    "field.py": "model.levels = 'many'",
    "extra.py": "model.level = 3",
    "noutf8.py": "start_from = 'caf\\udce9'",
}


def write_files(folder):
    for name, content in FILES.items():
        if isinstance(content, str) and " = " in content and name != "nul.py":
            content = (
                "from bitsnn_jax.config import Config\n\n\ndef get_config():\n"
                f"    config = Config()\n    config.{content}\n    return config\n"
            )
        if isinstance(content, str):
            content = content.encode()
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "command, words, line", CASES, ids=[f"{c} {w:.50}" for c, w, _ in CASES]
)
def test_a_wrong_command_is_one_line_and_writes_nothing(
    command, words, line, tmp_path, monkeypatch, capfd
):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    words = [w.format(tmp=tmp_path, noutf8=NO_UTF8) for w in shlex.split(words)]
    status = run(command, words, monkeypatch)
    check_line(status, capfd.readouterr(), line)
    assert tree(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, words, line",
    [
        ("train.py", ["--config.model.width=1e9"], "model.width must be at least 0.01"),
        ("train.py", [b"--workdir=caf\xe9"], "must be UTF-8"),
        ("convert.py", [f"--ckpt={NAME}", "--limit=0"], "--limit must be at least 1"),
        ("compare.py", [f"--ckpt={NAME}", "--out="], "--out must not be empty"),
        ("bitsnn_jax/referee.py", ["none"], "none"),
        ("experiments/bits.py", ["--bits", "9"], "--bits must be at most 8, got 9"),
        ("benchmarks/simulate.py", ["--steps=25"], "--steps must be at most 24"),
    ],
)
def test_a_process_of_its_own_says_no_more(file, words, line, tmp_path):
    command = [sys.executable, ROOT / file, *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert line in ended.stderr
    assert tree(tmp_path) == {}


def test_the_table_has_what_it_is_to_have():
    assert len(CASES) >= 120
