"""The way into and out of both commands: the platform is looked at, errors become one line, the exit code says whose turn it is.

Invariants
* 0 done · 1 refused or failed, an operator must act · 2 wrong usage · 130 interrupted. What an operator can cause never shows a traceback;
  what only we can cause always does.
* Nothing but click and our errors is imported here, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from titans3.errors import InvariantError, TitanError

REFUSED, USAGE, INTERRUPTED = 1, 2, 130


def enter(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. A command returns its own code or None."""
    unfit = unfitness()
    if unfit:
        return say(name, unfit, REFUSED)
    try:
        code = command.main(arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else name
        return say(name, f"{_sentence(error.format_message())} (see {where} --help)", USAGE)
    except click.ClickException as error:
        return say(name, error.format_message(), REFUSED)
    except InvariantError:
        raise
    except TitanError as error:
        return say(name, str(error), REFUSED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's exit flushes into it once more
        return REFUSED
    except OSError as error:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return say(name, f"{place}{error.strerror or error}", REFUSED)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED


def unfitness() -> str:
    """Why TitanS3 cannot keep its promises in this interpreter, or an empty text."""
    if not sys.platform.startswith("linux"):
        return f"TitanS3 runs on Linux; this is {sys.platform}"
    if not __debug__:
        return "TitanS3 does not run under `python -O` or PYTHONOPTIMIZE: its assertions guard your data"
    return ""


def say(name: str, message: str, code: int) -> int:
    """One line on standard error; the code."""
    line = " ".join(message.split("\n"))
    print(f"{name}: {''.join(char if char.isprintable() else '?' for char in line)}", file=sys.stderr)
    return code


def _sentence(message: str) -> str:
    """Click's sentence as a clause."""
    message = message.removesuffix(".").replace(". Did you mean", "; did you mean")
    return message[:1].lower() + message[1:]
