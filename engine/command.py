"""How the command lines start, stop and fail: shared by engine.train, engine.evaluate and lsuv.

Exit codes: 0 done; 2 bad input; 1 a failure during a run; 130 and 143 stopped by Ctrl-C or SIGTERM.
What the user can correct is one line on standard error. Any other exception keeps its traceback,
because it is a defect.

Read next: engine/settings.py.
"""

import argparse
import difflib
import signal
import sys
import threading
from collections.abc import Callable

from engine.errors import InputError, RunError


def run_command(name: str, main: Callable[[], int | None],
                input_errors: tuple[type[Exception], ...] = ()) -> int:
    """Call `main` and turn what it raises into an exit code and one line on standard error.

    `input_errors`: exceptions that count as bad input besides InputError (the rooms above name the
    device's)."""
    try:
        return main() or 0
    except (InputError, *input_errors) as error:
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
    print(f"{name}: error: {line}" if code != 130 else f"{name}: {line}", file=sys.stderr)
    return code


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line of ours, and which names the nearest known option."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter, **options)

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


class StopSignals:
    """While open, Ctrl-C and SIGTERM only set `.number`, so that the step in hand is finished.

    A second signal leaves at once. Outside the main thread nothing is changed."""

    def __init__(self):
        self.number = 0
        self.before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.caught)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def caught(self, number: int, frame) -> None:
        if self.number:
            raise SystemExit(128 + number)
        self.number = number

    def asked(self) -> bool:
        return self.number != 0

    @property
    def exit_code(self) -> int:
        return 128 + self.number
