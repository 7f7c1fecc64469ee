"""A warm process that forks children to be killed: importing once, it makes a real `kill -9` cost milliseconds.

Reads a JSON request a line, answers with a JSON line. A child that is to die at its n-th step kills itself with
SIGKILL in the middle of the n-th file-system call that Python makes inside the memory (audit hooks see them all), so
nothing of it is cleaned up; one that is to die after a delay gets the signal from here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import lifecycle

_STEPS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.listdir",
    "os.scandir",
    "os.link",
    "shutil.rmtree",
}


def child(request: dict[str, Any], answer: int) -> None:
    """Runs the request in this process, which was forked for it, and ends it."""
    memory, steps, die_at = request["memory"], 0, request.get("die_at")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if event in _STEPS and arguments:
            place = str(arguments[0])
            if place.startswith(memory) or not place.startswith("/"):  # deletions are relative to an open directory
                steps += 1
                if steps == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    result: dict[str, Any] = {}
    try:
        scenario = lifecycle.SCENARIOS[request["scenario"]]
        if request["do"] == "prepare":
            scenario.prepare(Path(memory))
        elif request["do"] == "look":
            result = lifecycle.look(Path(memory))
        else:
            sys.addaudithook(hook)
            begun = time.monotonic()
            scenario.run(Path(memory))
            result = {"steps": steps, "seconds": time.monotonic() - begun}
    except BaseException:
        result = {"error": traceback.format_exc()}
    os.write(answer, json.dumps(result).encode())
    os._exit(1 if "error" in result else 0)


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(request, writing)
        os.close(writing)
        timer = threading.Timer(request.get("delay", 0), os.kill, [pid, signal.SIGKILL])
        if "delay" in request:
            timer.start()
        with os.fdopen(reading, "rb") as pipe:
            content = pipe.read()  # until the child is dead
        if "delay" in request:
            timer.cancel()
            timer.join()  # before its process id can be another's
        _, status = os.waitpid(pid, 0)
        reply = {"killed": os.WIFSIGNALED(status), **(json.loads(content) if content else {})}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    print(json.dumps({"ready": True}), flush=True)
    serve()
