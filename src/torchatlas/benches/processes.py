"""One killable process for each piece of work, from a clean server process where that exists.

What is called runs two processes away: this one asks the server (or a fresh interpreter) for a
*guardian*, which forks the *worker*, the leader of a session and a group of its own. The guardian
only waits. It says how the worker ended, whatever became of that, keeps the last lines it printed,
and kills and reaps the group when the worker has ended or nobody asks any more. So nothing is left
behind by an interrupt, nor by a kill of this process that it cannot react to.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import json
import multiprocessing as mp
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from ..errors import AtlasError
from ..names import clean

LINES, WIDTH = 20, 500
"""How much of what a worker prints is kept: the last lines, and the end of each."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended in its process."""

    status: Literal["returned", "raised", "killed", "ended", "timeout"]
    seconds: float
    """Wall-clock time, with the start of the process."""
    value: Any = None
    """What was returned."""
    error: str = ""
    """What was raised: its kind and first line; or the signal, the exit code, the time limit."""
    kind: str = ""
    """The class of what was raised."""
    problem: str = ""
    """What it said."""
    hint: str = ""
    node: str | None = None
    output: str = ""
    """The last lines that the worker printed, on stdout and stderr."""


class Workers:
    """Calls functions in processes of their own, one at a time.

    Processes are forked from a server that has imported `preload`, the names of modules; where
    the system has no such server, each begins as a new interpreter. This process needs none of
    those modules, and starts nothing that a fork or a kill could disturb.
    """

    def __init__(self, preload: Sequence[str] = (), method: str | None = None) -> None:
        served = "forkserver" in mp.get_all_start_methods()
        self._context: Any = mp.get_context(method or ("forkserver" if served else "spawn"))
        if self._context.get_start_method() == "forkserver":
            self._context.set_forkserver_preload(list(preload))
            # It lifts the hold of interrupts where it is started later, by the server's start.
            resource_tracker.ensure_running()

    def call(self, target: str, task: Any, timeout: float | None = None) -> Outcome:
        """Call the function `target`, ``module:name``, with `task`, and say how that ended.

        What is passed and returned is data that JSON has. After `timeout` seconds, and on an
        interrupt, the process is killed together with all of its group.

        Raises AtlasError where no process can be started.
        """
        mine, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, target, task, dict(os.environ))
        )
        begin = time.monotonic()
        said: dict[str, Any] = {}
        with interrupts_held() as lift:
            try:
                _start(process)
                theirs.close()
                lift()  # an interrupt that was held is raised here
                for message in _messages(mine, process, timeout):
                    said |= message
            finally:
                _stop(process, mine, said.get("group"))
        seconds = round(time.monotonic() - begin, 3)
        if "exit" not in said and timeout is not None and seconds >= timeout:
            return Outcome("timeout", seconds, error=f"stopped after {timeout:g} s")
        return _outcome({"exit": process.exitcode} | said, seconds)


def _start(process: Any) -> None:
    try:
        process.start()
    except (OSError, EOFError) as error:
        raise AtlasError(
            f"no process can be started: {type(error).__name__}: {error}",
            hint="what the server process printed says why",
        ) from error


def _messages(pipe: Connection, process: Any, timeout: float | None) -> Iterator[dict[str, Any]]:
    """Yield what the guardian says, to the last; stop when it is gone or time is over."""
    until = None if timeout is None else time.monotonic() + timeout
    while True:
        wait([pipe, process.sentinel], until and max(0.0, until - time.monotonic()))
        try:
            if not pipe.poll():
                return
            message = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        yield message
        if "exit" in message:
            return


def _stop(process: Any, pipe: Connection, group: int | None) -> None:
    """End a guardian and what it guards, and wait until they are gone."""
    with interrupts_held():
        pipe.close()  # which tells it
        if process.pid is None:
            return
        if hasattr(os, "fork"):
            process.join(10)  # a driver may hold what it waits for
        if process.exitcode == 0:
            return
        process.kill()
        if group is not None:
            kill_group(group)
        process.join(10)


def kill_group(leader: int) -> None:
    """Kill the processes of a group, or its leader if it does not lead yet."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(leader, signal.SIGKILL)
    except PermissionError:  # only what has ended already is left of it
        pass


@contextmanager
def interrupts_held() -> Iterator[Any]:
    """Hold interrupts back for the block, or until what is yielded is called."""
    if not hasattr(signal, "pthread_sigmask"):
        yield lambda: None
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def lift() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield lift
    finally:
        lift()


def _outcome(message: dict[str, Any], seconds: float) -> Outcome:
    output, answer, code = message.get("output", ""), message.get("answer"), message.get("exit")
    if isinstance(answer, dict) and "error" in answer:
        return Outcome("raised", seconds, output=output, **answer)
    if isinstance(answer, dict):
        return Outcome("returned", seconds, value=answer["value"], output=output)
    if code is not None and code < 0:
        return Outcome("killed", seconds, error=_signal(-code), output=output)
    return Outcome("ended", seconds, error=f"ended with exit code {code}", output=output)


def _signal(number: int) -> str:
    """Return the name of a signal, and what it may mean.

    >>> _signal(9), _signal(11)
    ('SIGKILL, out of memory?', 'SIGSEGV')
    """
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name}, out of memory?" if name == "SIGKILL" else name


# -- the guardian --------------------------------------------------------------------------------


def _serve(pipe: Connection, target: str, task: Any, environment: dict[str, str]) -> None:
    """Run `target` in a process of its own, and say through `pipe` how that ended."""
    os.environ.clear()  # that of the server is as old as the server
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(os, "fork"):
        _alone(pipe, target, task)
        return
    os.setsid()
    read, write = os.pipe()
    with tempfile.TemporaryFile() as answer:
        worker = os.fork()
        if worker == 0:
            os.close(read)
            _work(pipe, answer, write, target, task)
        os.close(write)
        ward = _Ward(worker)
        tail: deque[str] = deque(maxlen=LINES)
        reader = threading.Thread(target=_keep_last, args=(read, tail), daemon=True)
        reader.start()
        threading.Thread(target=_heed, args=(pipe, ward), daemon=True).start()
        code = ward.wait()
        reader.join(1)  # what left the group may hold the other end open
        said = _decoded(answer)
    with suppress(OSError):  # nobody asks any more
        _send(pipe, exit=code, answer=said, output="\n".join(tail))


class _Ward:
    """A process, and the group that it leads; killed once at the most, and only while it is."""

    def __init__(self, leader: int) -> None:
        self._leader, self._reaped, self._lock = leader, False, threading.Lock()

    def kill(self) -> None:
        with self._lock:
            if not self._reaped:  # else its number may be that of another
                kill_group(self._leader)

    def wait(self) -> int:
        """Wait until the leader ends, kill what is left of the group; return the exit code."""
        os.waitid(os.P_PID, self._leader, os.WEXITED | os.WNOWAIT)
        self.kill()
        with self._lock:
            self._reaped = True
            return os.waitstatus_to_exitcode(os.waitpid(self._leader, 0)[1])


def _heed(pipe: Connection, ward: _Ward) -> None:
    """Kill the ward when nobody is at the other end of `pipe`."""
    with suppress(EOFError, OSError):
        pipe.recv_bytes()
    ward.kill()


def _send(pipe: Connection, **message: Any) -> None:
    pipe.send_bytes(json.dumps(message).encode())


def _keep_last(read: int, tail: deque[str]) -> None:
    """Keep the last lines that come out of a pipe, until it is closed."""
    with open(read, "rb") as stream:
        while line := stream.readline(1 << 16):
            tail.append(line.decode(errors="replace").rstrip()[-WIDTH:])


def _decoded(answer: IO[bytes]) -> Any:
    answer.seek(0)
    try:
        return json.loads(answer.read())
    except ValueError:  # the worker ended before it was through
        return None


# -- the worker ----------------------------------------------------------------------------------


def _work(pipe: Connection, answer: IO[bytes], output: int, target: str, task: Any) -> NoReturn:
    """Call `target`, write what comes of it to the file `answer`, and end this process."""
    code = 1
    try:
        os.setsid()
        with suppress(OSError):
            _send(pipe, group=os.getpid())  # for the case that the guardian is killed
        pipe.close()
        with suppress(OSError):  # if memory runs out, this process goes first
            Path("/proc/self/oom_score_adj").write_text("1000")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        mp.set_start_method(None, force=True)  # what the model starts is as anywhere else
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if isinstance(sys.stdout, io.TextIOWrapper):  # or a kill would lose the last lines
            sys.stdout.reconfigure(line_buffering=True)
        faulthandler.enable(file=2, all_threads=False)
        answer.write(json.dumps(_called(target, task)).encode())
        answer.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # nothing to tidy up, and much memory to free


def _called(target: str, task: Any) -> dict[str, Any]:
    module, _, name = target.partition(":")
    try:
        return {"value": getattr(importlib.import_module(module), name)(task)}
    except BaseException as error:
        traceback.print_exc()
        return describe(error)


def describe(error: BaseException) -> dict[str, Any]:
    """Return what went wrong as data.

    >>> describe(ValueError("no such size"))["error"]
    'ValueError: no such size'
    """
    text = error.problem if isinstance(error, AtlasError) else str(error)
    lines = [clean(line.strip()) for line in text.splitlines() if line.strip()]
    kind = type(error).__name__
    # The second line of ours says what the model itself raised.
    said = "; ".join(lines[: 2 if isinstance(error, AtlasError) else 1])
    told: dict[str, Any] = {"error": f"{kind}: {said}" if said else kind, "kind": kind}
    told["problem"] = text[:10_000]
    if isinstance(error, AtlasError):
        told |= {"hint": error.hint, "node": error.node}
    return told


def _alone(pipe: Connection, target: str, task: Any) -> None:
    """Call `target` in this process, on a system where it cannot have a guardian."""
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    _send(pipe, exit=0, answer=_called(target, task))
