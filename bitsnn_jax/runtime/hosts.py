"""Several hosts that work as one: how they find each other, and how they part.

Every host runs the same command. Inside `together`, `jax.devices()` are those of all
hosts, and a collective waits for all of them: a host that ends alone leaves the others
waiting. So any failure ends the process within seconds.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import jax
from jax._src import distributed as jax_distributed

from bitsnn_jax.runtime import interrupts

TIMEOUT = 300  # seconds for all hosts to come
_DAY = 86_400  # seconds that it may wait for them at most
_MOST = 2**16  # hosts: the first one keeps a record of each before any arrives
_SILENCE = 100  # seconds without a sign of life, after which a host counts as dead
_PORTS = 2**16 - 1
_GRACE = 10  # seconds that a host in error gives the others to end as well

# Words of the transports of CPUs and GPUs when the other end of a collective is gone.
_CONTACT_LOST = ("Gloo", "NCCL", "Connection reset", "UNAVAILABLE")


@contextmanager
def together(
    *,
    distributed: bool = False,
    coordinator: str | None = None,
    num_hosts: int | None = None,
    host: int | None = None,
    timeout: int = TIMEOUT,
) -> Iterator[None]:
    """Join this process to the other hosts; run alone if nothing is given.

    Hides what all hosts but the first print, which would be the same.

    Args:
      distributed: find the others as `jax.distributed.initialize()` does: by SLURM,
        Open MPI, Kubernetes or the TPU's own means.
      coordinator: "address:port" of host 0 instead, with the next two.
      num_hosts: how many there are.
      host: which one this is, 0..num_hosts - 1.
      timeout: seconds to wait for all of them. If some are missing then, the others say
        so and end with status 2. Later, JAX aborts all hosts if one is silent for this
        long, at most 100 seconds.

    Raises:
      ValueError: some of coordinator, num_hosts and host without the others, one out of
        range, or no cluster was found.
      ConnectionError: replaces what the body raised because a host is gone.
    """
    if not 1 <= timeout <= _DAY:
        raise ValueError(f"--host_timeout must be in 1..{_DAY} seconds, got {timeout}")
    given = {"coordinator": coordinator, "num_hosts": num_hosts, "host": host}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if not distributed and len(missing) == 3:
        yield
        return
    if 0 < len(missing) < 3:
        raise ValueError(
            "--coordinator, --num_hosts and --host belong together, "
            f"{' and '.join(missing)} not given"
        )
    if not missing:
        _check(**given)
    _join(coordinator, num_hosts, host, timeout)
    first = jax.process_index() == 0
    try:
        with open(os.devnull, "w") as nowhere:
            with redirect_stdout(sys.stdout if first else nowhere):
                yield
    except (Exception, KeyboardInterrupt) as error:
        # Otherwise JAX's barrier at exit waits for hosts that wait for this one.
        interrupted = isinstance(error, KeyboardInterrupt)
        _end_after(_GRACE, status=interrupts.status_of(error) if interrupted else 2)
        if any(word in str(error) for word in _CONTACT_LOST):
            raise ConnectionError(
                f"host {jax.process_index()} of {jax.process_count()} lost another "
                "one, whose own output says why; start all of them again, and training "
                f"goes on from its newest checkpoint ({str(error):.200})"
            ) from error
        raise


def _check(coordinator, num_hosts, host) -> None:
    address, _, port = coordinator.rpartition(":")
    numbered = port.isascii() and port.isdigit() and len(port) <= 5
    if not (address and address == "".join(address.split()) and numbered):
        raise ValueError(f"--coordinator must be ADDRESS:PORT, got {coordinator}")
    if not 1 <= int(port) <= _PORTS:
        raise ValueError(
            f"--coordinator must have a port in 1..{_PORTS}, got {coordinator}"
        )
    if not 1 <= num_hosts <= _MOST:
        raise ValueError(f"--num_hosts must be in 1..{_MOST}, got {num_hosts}")
    if not 0 <= host < num_hosts:
        raise ValueError(f"--host must be in 0..{num_hosts - 1}, got {host}")


def _join(coordinator, num_hosts, host, timeout) -> None:
    # JAX would abort the process with a stack trace, so it waits longer than we do.
    waiting = _end_after(timeout, status=2, message=_not_all_came)
    try:
        jax.distributed.initialize(
            coordinator,
            num_hosts,
            host,
            initialization_timeout=timeout + 60,
            heartbeat_timeout_seconds=min(timeout, _SILENCE),
        )
    except ValueError as error:
        if "should be defined" in str(error) or "must be defined" in str(error):
            raise ValueError(
                "--distributed found no cluster: give --coordinator=ADDRESS:PORT "
                "--num_hosts=N --host=I"
            ) from error
        raise
    finally:
        waiting.cancel()
    # JAX handles the signal itself, past Python; restore the earlier handler.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _not_all_came(timeout) -> str:
    # No public name tells what a cluster announced before all hosts are there.
    state = jax_distributed.global_state
    last = state.num_processes - 1
    return (
        f"of {state.num_processes} hosts not all came to {state.coordinator_address} "
        f"within {timeout} s, this is host {state.process_id}: start the same command "
        f"on all, --host=0 to {last}, each once; see that the others can reach that "
        "address and port, or wait longer by --host_timeout"
    )


def _end_after(seconds, *, status, message=None):
    """Start a timer that ends the process, whatever its main thread waits for."""

    def end():
        if message:
            print("error:", message(seconds), file=sys.stderr, flush=True)
        os._exit(status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer
