"""How the command lines start, stop and fail: shared by engine.train, engine.evaluate and lsuv.

Exit codes: 0 done; 2 bad input; 1 a failure during a run; 130 and 143 stopped by Ctrl-C or SIGTERM.
What the user can correct is one line on standard error. Any other exception keeps its traceback,
because it is a defect.

Read next: engine/errors.py, what becomes such a line.
"""

import argparse
import difflib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.errors import InputError, RunError, one_line
from kernels.errors import DeviceError


def run_command(name: str, main: Callable[[], int | None]) -> int:
    """Call `main` and turn what it raises into an exit code and one line on standard error."""
    try:
        return main() or 0
    except (InputError, DeviceError) as error:
        code, line = 2, str(error)
    except RunError as error:
        code, line = 1, str(error)
    except MemoryError as error:
        code, line = 1, f"not enough memory ({error}); give a smaller --batch"
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more: no second complaint at shutdown
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code, line = 1, f"{where}{error.strerror or error}"
    except KeyboardInterrupt:
        code, line = 130, "stopped"
    line = one_line(line)  # a file's name may hold a line's end
    print(f"{name}: error: {line}" if code != 130 else f"{name}: {line}", file=sys.stderr)
    return code


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line of ours, and which names the nearest known option."""

    def __init__(self, **options):
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str):
        raise InputError(f"{message}; see --help")

    def parse_args(self, args=None, namespace=None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            options = [o for action in self._actions for o in action.option_strings]
            close = difflib.get_close_matches(unknown[0].split("=")[0], options, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise InputError(f"unknown argument {unknown[0]!r}; {hint}see --help")
        return found


SAVE = getattr(signal, "SIGUSR1", None)  # Windows has none


@contextmanager
def handled(handlers: dict) -> Iterator[None]:
    """While open, signals by number go to these handlers. Outside the main thread, where Python
    has no signals, nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Signals:
    """What signals have asked a run for; it is done after the step in hand.

    Ctrl-C and SIGTERM ask it to stop, and a second one leaves at once. SIGUSR1 asks it to save and
    to go on."""

    def __init__(self):
        self.number = 0  # of the one that asks to stop
        self.save = False

    def open(self):
        """A context in which they are listened to."""
        wanted = {signal.SIGINT: self.caught, signal.SIGTERM: self.caught}
        return handled(wanted | ({SAVE: self.caught} if SAVE else {}))

    def caught(self, number: int, frame) -> None:
        if number == SAVE:
            self.save = True
        elif self.number:
            raise SystemExit(128 + number)
        else:
            self.number = number

    def stop(self) -> bool:
        return self.number != 0

    @property
    def exit_code(self) -> int:
        return 128 + self.number


def save_ignored():
    """A context in which SIGUSR1, whose default is to end the process, does nothing: before there
    is something to save."""
    return handled({SAVE: signal.SIG_IGN} if SAVE else {})
