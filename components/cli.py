"""The command `embedmill`: one subcommand a step, in the order of the chain, and the commands around it."""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib
import os
import sys
import time
import traceback

import click

from components import __version__, chain
from components.core import environment
from components.core.command import step_command
from components.core.errors import EmbedmillError, InputError, Interrupted, UsageError
from components.core.reproduce import leave_exit_code

FIRST_SPEAKS_SECONDS = 2.0
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

# Commands that are no step: name → "module:click command".
AROUND = {
    "run": "components.run.command:run",
    "recipe": "components.run.recipe:recipe",
    "classifier": "components.classifier.command:classifier",
    "ledger": "components.ledger.command:ledger",
    "calibrate": "components.calibrate.command:calibrate",
    "search": "components.search.command:search",
    "serve": "components.serve.command:serve",
    "record": "components.record.command:record",
    "flywheel": "components.flywheel.command:flywheel",
    "sweep": "components.sweep.command:sweep",
    "pod": "components.pod.command:pod",
    "submit": "components.submit.command:submit",
    "finish": "components.finish.command:finish",
}


class Chain(click.Group):
    """Lists the steps in their order and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*chain.ORDER, *AROUND]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in chain.ORDER:
            return step_command(chain.step(cmd_name), chain.sections)
        if cmd_name in AROUND:
            module, _, name = AROUND[cmd_name].partition(":")
            command = getattr(importlib.import_module(module), name)
            assert isinstance(command, click.Command)
            return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in (("Steps, in order", chain.ORDER), ("Commands", tuple(AROUND))):
            rows = [
                (name, command.get_short_help_str(100)) for name in names if (command := self.get_command(ctx, name))
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=Chain, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="embedmill")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def cli(debug: bool) -> None:
    """Raw text pairs in; a registered, served, measured text-embedding model out."""


def main() -> None:
    """Run the command line and exit: 0 done, 2 usage, 3 unusable input, 4 gate refused, 5 interrupted."""
    outcome = [1]
    atexit.register(_leave, outcome)  # registered first, so that it runs last
    arguments = sys.argv[1:]
    # accepted anywhere on the line, since people add it to the end of the command that failed
    debug = "--debug" in arguments
    outcome[0] = _run([argument for argument in arguments if argument != "--debug"], debug)
    # DVC and torchrun end with a code of their own; a process of several that ends with 1 may only have lost another
    if outcome[0] and ("DVC_STAGE" in os.environ if environment.processes() == 1 else outcome[0] != 1):
        leave_exit_code(outcome[0])
    sys.exit(outcome[0])


def _run(arguments: list[str], debug: bool) -> int:
    try:
        cli.main(arguments, prog_name="embedmill", standalone_mode=False)
        return 0
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message())
        return UsageError.exit_code
    except click.ClickException as error:
        _complain(" ".join(error.format_message().split()))
        return UsageError.exit_code
    except EmbedmillError as error:
        if debug:
            traceback.print_exc()
        if environment.rank() == 0 or not isinstance(error, Interrupted):  # all processes stop together
            _complain(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted; finished work is kept, run the same command to go on")
        return Interrupted.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            _complain(f"{error.filename or 'the output'}: {error.strerror}")
            return InputError.exit_code
        _complain(f"unexpected {type(error).__name__}: {error} (--debug shows where; this is a bug)")
        return 1


def _leave(outcome: list[int]) -> None:
    """End the process without unloading native libraries, whose threads may still be starting when a step ends early.

    On a busy machine that ended failed steps with SIGABRT instead of their exit code.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the shell has closed it
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(outcome[0])


def _complain(message: str) -> None:
    rank = environment.rank()
    if rank:  # mostly all fail alike: then the first one says so and torchrun ends this one while it waits
        time.sleep(FIRST_SPEAKS_SECONDS)
        message = f"process {rank}: {message}"
    print(f"embedmill: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
