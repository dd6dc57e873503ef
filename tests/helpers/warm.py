"""`robustkit` in a process of its own that does not import everything again.

A test that needs a real process (its signals, its terminal, a stdout that is closed) starts
`[*command(), "evaluate", ...]` as it would `python -m robustkit evaluate ...`. That is a small program
that hands its folder, environment and open files to a server; the server has imported what commands
import, and forks. What is sent to the one by INT or TERM reaches the other; a KILL does, too, but later
than the small program is gone, so tests of kills start the real thing.
"""

import atexit
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path


@cache
def command():
    """What starts `robustkit`; its server lives as long as this process."""
    path = Path(tempfile.mkdtemp(), "warm")
    # it ends when its stdin does
    serving = subprocess.Popen(
        [sys.executable, __file__, "--serve", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert serving.stdout.readline() == b"ready\n"
    atexit.register(serving.communicate)
    return [sys.executable, "-I", __file__, path]


def ask(path, arguments):
    """Have the server carry out a command, and end as it ends."""
    opened = [number for number in range(3) if is_open(number)]
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    asked = [opened, arguments, str(Path.cwd()), dict(os.environ)]
    message = json.dumps(asked, ensure_ascii=True).encode()
    # a message needs a file to go with it
    socket.send_fds(connection, [struct.pack("i", len(message))], [*opened, connection.fileno()])
    connection.sendall(message)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    (status,) = struct.unpack("i", connection.recv(4))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def serve(path):
    """Fork for each that asks, until stdin ends."""
    import gc

    import robustkit.auditing
    import robustkit.calls.audit
    import robustkit.cli.commands
    import robustkit.display.progress
    import robustkit.evaluation.computing
    import robustkit.reporting
    import robustkit.training  # noqa: F401

    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    os.write(1, b"ready\n")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while listener in select.select([listener, 0], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            attend(connection)
        connection.close()


def attend(connection):
    """Carry out one command, and hand on signals and status."""
    length, files, _, _ = socket.recv_fds(connection, 4, 4)
    message = b""
    while len(message) < struct.unpack("i", length)[0]:
        message += connection.recv(1 << 20)
    opened, *asked = json.loads(message)
    child = os.fork()
    if child == 0:
        connection.close()
        carry_out(dict(zip(opened, files, strict=False)), files, *asked)
    for number in range(3):
        os.close(number)
    for file in files:
        os.close(file)

    def listen():
        while number := connection.recv(1):
            os.kill(child, number[0])
        os.kill(child, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(struct.pack("i", status))
    os._exit(0)


def carry_out(opened, files, arguments, folder, environment):
    """The command, in this process."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = None
        if number in opened:
            os.dup2(opened[number], number)
            mode = "r" if name == "stdin" else "w"
            # as Python does at its start: stderr by lines
            lines = 1 if name == "stderr" or os.isatty(number) else -1
            stream = open(number, mode, lines, closefd=False)  # noqa: SIM115
        else:
            os.close(number)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["robustkit", *arguments]
    sys.path[:] = [*environment.get("PYTHONPATH", "").split(os.pathsep), *sys.path]
    status = 0
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(arguments[1], {"__name__": "__main__"})
        else:
            from robustkit.cli import main

            main()
    except SystemExit as end:
        status = end.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                status = 120  # as Python ends
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        ask(sys.argv[1], sys.argv[2:])
