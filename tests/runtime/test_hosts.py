"""Several hosts: real processes that find each other, train, stop and resume as one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from bitsnn_jax.runs.checkpoint import Checkpoints, load_run
from bitsnn_jax.runtime import hosts
from bitsnn_jax.runtime.devices import data_parallel
from bitsnn_jax.training.stop import STATUS, Stop, with_votes

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(script, *flags, devices=2):
    flags_of_xla = (
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",  # compiled in half the time
    )
    return subprocess.Popen(
        [sys.executable, script, *flags],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": " ".join(flags_of_xla)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(script, *flags):
    """Two hosts of two devices each."""
    address = f"--coordinator=localhost:{free_port()}"
    return [
        start(script, *flags, address, "--num_hosts=2", f"--host={host}")
        for host in (0, 1)
    ]


def training(workdir):
    """A network with batch norm, 40 steps."""
    return (
        "--config=configs/digits_small.py",
        "--config.optimizer.epochs=2",
        "--config.data.eval_batch_size=36",
        "--config.checkpoint_every_steps=4",
        f"--workdir={workdir}",
    )


def finish(*processes):
    """Standard output and error of each, all of which must have gone well."""
    outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return outputs


def await_checkpoint(workdir, processes):
    while not any(p.name.isdigit() for p in workdir.glob("checkpoints/*")):
        assert all(p.poll() is None for p in processes), finish(*processes)
        time.sleep(0.005)


def newest(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.latest


def interrupted(workdir):
    """Two hosts, one of which gets SIGTERM. The step that both saved."""
    processes = start_two("train.py", *training(workdir))
    await_checkpoint(workdir, processes)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == STATUS == 143, errors
    step = newest(workdir)
    assert 0 < step < 40
    return step


def test_two_hosts_stop_at_one_step_and_one_host_goes_on_to_the_same_network(tmp_path):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    reference = start("train.py", *training(whole), devices=4)
    interrupted(broken)
    # Four devices of two hosts before, two of one now.
    resumed = start("train.py", *training(broken), devices=2)
    finish(reference, resumed)
    # Means over other numbers of devices round otherwise, for 40 steps; 2e-7 was seen.
    final = []
    for workdir in (broken, whole):
        with Checkpoints(workdir, read_only=True) as checkpoints:
            final += checkpoints.read(40, "variables")
    chex.assert_trees_all_close(*final, atol=1e-5)


@pytest.mark.slow
def test_two_hosts_that_were_stopped_end_with_the_bits_of_two_that_were_not(tmp_path):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    interrupted(broken)
    finish(*start_two("train.py", *training(broken)))
    outputs = finish(*start_two("train.py", *training(whole)))
    # The first host speaks for all.
    assert ["test accuracy" in output for output, _ in outputs] == [True, False]
    got, want = (jax.tree.leaves(load_run(path).variables) for path in (broken, whole))
    for a, b in zip(got, want, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.slow
def test_two_hosts_evaluate_what_one_does(tmp_path):
    finish(start("train.py", *training(tmp_path), devices=4))
    flags = (f"--ckpt={tmp_path}", "--steps", "4", "--certificate=float32")
    tables = []
    # One after the other, since both write to one folder.
    for start_it in (lambda *words: [start(*words)], start_two):
        output, _ = finish(*start_it("convert.py", *flags))[0]
        tables.append([line for line in output.splitlines() if "Gloo" not in line])
    # Accuracy, spikes and codes are counts.
    assert tables[0] == tables[1]
    assert {p.name for p in (tmp_path / "snn").iterdir()} == {
        "variables",
        "conversion.json",
        "report",
    }


@pytest.mark.slow
def test_a_host_that_dies_ends_the_others_and_leaves_what_was_saved(tmp_path):
    processes = start_two("train.py", *training(tmp_path), "--host_timeout=30")
    await_checkpoint(tmp_path, processes)
    processes[1].kill()
    _, errors = processes[0].communicate()
    # By the transport, which sees it at once, or by JAX after 30 seconds.
    said = {2: "error: host 0 of 2 lost another one", -6: "another task died"}
    assert said[processes[0].returncode] in errors
    assert newest(tmp_path) > 0  # and can be read
    processes[1].communicate()


@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_the_others_do_not_come_to_says_so(tmp_path, host):
    process = start(
        "train.py",
        *training(tmp_path / "run"),
        f"--coordinator=localhost:{free_port()}",
        "--num_hosts=2",
        f"--host={host}",
        "--host_timeout=2",
    )
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert errors.startswith("error: of 2 hosts not all came to localhost:")
    assert f"within 2 s, this is host {host}:" in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_hosts": 2}, "--coordinator and --host not given"),
        ({"coordinator": "here", "num_hosts": 2, "host": 0}, "ADDRESS:PORT, got here"),
        ({"coordinator": "a:1", "num_hosts": 0, "host": 0}, "--num_hosts must be"),
        ({"coordinator": "a:1", "num_hosts": 2, "host": 2}, "--host must be in 0..1"),
        ({"distributed": True}, "--distributed found no cluster"),
    ],
)
def test_flags_that_do_not_name_a_host_are_an_error(given, message, monkeypatch):
    def initialize(coordinator, num_hosts, host, **_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=message):
        with hosts.together(**given):
            raise AssertionError("not reached")


def test_an_error_in_the_midst_of_others_ends_the_process_without_them(monkeypatch):
    timers = []
    monkeypatch.setattr(hosts, "_join", lambda *_: None)
    monkeypatch.setattr(hosts, "_end_after", lambda *a, **k: timers.append((a, k)))
    reset = jax.errors.JaxRuntimeError("Gloo all-reduce failed: Connection reset")
    for error, expected in ((reset, ConnectionError), (KeyError("x"), KeyError)):
        with pytest.raises(expected):
            with hosts.together(distributed=True):
                raise error
    assert timers == [((hosts._GRACE,), {"status": 2})] * 2


def test_one_vote_stops_all_after_the_same_step():
    step = data_parallel(
        with_votes(lambda state, batch, key: state), in_axes=(0, 0, None, 0)
    )
    n = jax.local_device_count()
    asked = iter([False, True, False])
    one, other = Stop(lambda: False), Stop(lambda: next(asked))
    heard = []
    for _ in range(3):
        # Of two hosts, the first has half of the devices.
        votes = np.concatenate([one.votes()[: n // 2], other.votes()[n // 2 :]])
        state, total = step(np.zeros(n), np.zeros(n), 0, votes)
        np.testing.assert_array_equal(state, 0)
        heard.append((one.agreed(total), other.agreed(total)))
    # Asked in the second step, known to both after the third was dispatched.
    assert heard == [(False, False), (False, False), (True, True)]
