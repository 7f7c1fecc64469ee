"""Ctrl-C and `kill`: an interrupted command says so in one line and leaves at once, whatever it is doing.

Raising KeyboardInterrupt is not enough for jobs like these: it surfaces in the middle of Beam, of a callback or of a
library's import, where it becomes a traceback of another kind or is swallowed, and it waits for as long as compiled
code runs. Every job is safe to kill at any moment, so an interrupted command does what a killed one does, with a word
to its user: a thread that the signal wakes, also while compiled code runs, shows the terminal's cursor again, removes
temporary files and ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Final

_WORDS: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_raised: set[int] = set()
"""Signals that are raised as exceptions and leave the process running."""
_SHOW_CURSOR: Final = "\x1b[?25h"


def exit_on_signals() -> None:
    """From now on SIGINT ends this process with status 130 and SIGTERM with 143. Call it once, from the main thread."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    owner = os.getpid()
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, or in the background of a script
            signal.signal(number, lambda *_: None)  # the C handler below it writes the signal's number to the pipe
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: _restore_defaults())
    threading.Thread(target=_wait, args=(reading, owner), name="signals", daemon=True).start()


def raise_interrupts() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt instead: for prompts, which then leave the terminal as it was."""
    _raised.add(signal.SIGINT)  # for good: the thread may hear of an interrupt when its exception was long handled
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _restore_defaults() -> None:
    """A forked child has no thread that listens: signals end it as they end any process."""
    signal.set_wakeup_fd(-1)
    for number in _WORDS:
        signal.signal(number, signal.SIG_DFL)


def _wait(reading: int, owner: int) -> None:
    while True:
        for number in os.read(reading, 64):
            if number in _WORDS and number not in _raised and os.getpid() == owner:
                _leave(signal.Signals(number))


def _leave(number: signal.Signals) -> None:
    # Another thread may hold the lock of sys.stderr, so the words go to the descriptor itself.
    cursor = _SHOW_CURSOR if os.isatty(2) else ""
    start = "\n" if cursor else ""
    line = f"{start}{cursor}glimmer: {_WORDS[number]}; run the same command again to resume\n"
    try:
        os.write(2, line.encode())
        temporary = sys.modules.get("glimmer.storage.temporary")  # not there: nothing temporary was made
        if temporary is not None:
            temporary.remove_all()
    finally:
        os._exit(128 + number)
