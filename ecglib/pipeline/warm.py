"""A process that has loaded the heavy libraries once, and forks a child for every stage and every notebook kernel.

`make repro` starts one: a stage then begins in a fraction of a second, where a new process needs several. What
asks for a child is a small process of its own (`call`), which hands on its arguments, environment, folder and streams
and ends with the child's exit status; so DVC and Jupyter see an ordinary process, and without the server the same
command runs by itself. Of this library nothing is loaded ahead: a child imports the code as it is when it starts.
"""

import array
import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ecglib.pipeline.environment import ENVIRONMENT

ADDRESS = "ECGLIB_WARM"  # environment variable: the socket of the server
SERVE, KERNEL = "serve-warm", "kernel"  # what `python -m ecglib` understands beside the commands
LIBRARIES = (
    "papermill nbconvert nbconvert.exporters nbformat pygments.formatters ipykernel.kernelapp ipykernel.ipkernel "
    "numpy pandas pyarrow.parquet scipy.signal scipy.special scipy.interpolate scipy.ndimage sklearn.ensemble "
    "sklearn.linear_model joblib yaml matplotlib.pyplot seaborn torch safetensors.torch lightning_fabric sleepecg tqdm"
).split()
_HEADER = struct.Struct("!I")  # length of a request


@contextlib.contextmanager
def server():
    """A warm server for the block: environment variables that let `call` find it, none where it cannot be had."""
    if not sys.platform.startswith("linux"):  # elsewhere libraries do not survive a fork
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="ecglib-") as folder:
        path = f"{folder}/warm"
        command = [sys.executable, "-m", "ecglib", SERVE, path]
        environment = {**os.environ, **ENVIRONMENT}
        process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL)
        try:
            while not Path(path).exists() and process.poll() is None:
                time.sleep(0.02)
            yield {ADDRESS: path} if process.poll() is None else {}
        finally:
            process.terminate()
            process.wait()


def call(words: list[str]) -> int | None:
    """Run the words of a command line in a child of the server and return its exit status; None without a server."""
    if not os.environ.get(ADDRESS):
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.environ[ADDRESS])
        except OSError:
            return None
        request = {"words": words, "cwd": os.getcwd(), "environment": dict(os.environ)}
        payload = json.dumps(request).encode()
        connection.sendmsg(
            [_HEADER.pack(len(payload))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
        )
        connection.sendall(payload)
        with contextlib.suppress(ValueError):  # in another thread than the main one there are no signals to hand on
            signal.signal(signal.SIGINT, lambda *_: connection.sendall(b"i"))
        answer = b""
        with contextlib.suppress(ConnectionError):  # the server has ended first
            answer = connection.recv(_HEADER.size, socket.MSG_WAITALL)  # the end of the connection ends the child
    return _HEADER.unpack(answer)[0] if len(answer) == _HEADER.size else 1


def serve(path: str) -> list[str]:
    """Load LIBRARIES, then fork a child for each request at the socket `path`; in the child returns its words."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # at once: there is nothing to put away
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for who asked
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    for name in LIBRARIES:
        importlib.import_module(name)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watched, children = selectors.DefaultSelector(), {}
    watched.register(listener, selectors.EVENT_READ)
    watched.register(wake, selectors.EVENT_READ)
    while True:
        for key, _ in watched.select():
            if key.fileobj is listener:
                connection = listener.accept()[0]
                request, streams = _received(connection)
                child = os.fork()
                if not child:
                    watched.close()
                    signal.set_wakeup_fd(-1)
                    return _prepared(request, streams, [listener, connection, *children.values()])
                for stream in streams:
                    os.close(stream)
                children[child] = connection
                watched.register(connection, selectors.EVENT_READ, child)
            elif key.fileobj == wake:
                os.read(wake, 4096)
                _reap(children, watched)
            elif key.data in children:
                interrupted = key.fileobj.recv(1)
                if not interrupted:  # who asked is gone
                    watched.unregister(key.fileobj)
                _send(key.data, signal.SIGINT if interrupted else signal.SIGKILL)


def _send(child: int, number: int) -> None:
    """Send a signal to a child and all that it started; it may have no process group of its own yet, or have ended."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(child, number)
        except ProcessLookupError:
            os.kill(child, number)


def _reap(children: dict, watched) -> None:
    """Tell the exit status of every child that has ended to who asked for it."""
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        connection = children.pop(child)
        with contextlib.suppress(KeyError):
            watched.unregister(connection)
        with contextlib.suppress(OSError), connection:
            connection.sendall(_HEADER.pack(os.waitstatus_to_exitcode(status) & 0xFF))


def _received(connection) -> tuple[dict, list[int]]:
    """A request with the three streams that came along."""
    size = array.array("i", [0, 0, 0])
    header, ancillary, _, _ = connection.recvmsg(_HEADER.size, socket.CMSG_LEN(len(size) * size.itemsize))
    streams = array.array("i", ancillary[0][2]).tolist()
    payload = connection.recv(_HEADER.unpack(header)[0], socket.MSG_WAITALL)
    return json.loads(payload), streams


def _prepared(request: dict, streams: list[int], sockets) -> list[str]:
    """Give this child the caller's streams, folder and environment, and a process group of its own."""
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    for one in sockets:
        one.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if backend := os.environ.get("MPLBACKEND"):
        sys.modules["matplotlib"].rcParams["backend"] = backend
    if request["words"][0] == KERNEL:
        sys.modules["pandas"].set_option("display.max_columns", 20)  # their default outside a terminal
    return request["words"]


def kernel(words: list[str]) -> None:
    """Be the kernel of a notebook, as Jupyter starts one: `-f CONNECTION_FILE`."""
    from ipykernel.kernelapp import launch_new_instance

    sys.argv[1:] = words
    launch_new_instance()
