"""The command line, ``feataug COMMAND``."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence

from feataug.cli.broken_pipe import exit_quietly_on_broken_pipe
from feataug.cli.commands import COMMANDS
from feataug.cli.dry_run import dry_run
from feataug.cli.early_checks import check_data
from feataug.cli.parser import parse
from feataug.errors import FeatAugError

_STOPPED = "stopped; the same command resumes from the last checkpoint"


@exit_quietly_on_broken_pipe
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command line without the program's name; ``sys.argv[1:]`` by default.

    Returns:
        The shell's exit code: 0, 1 for one of this package's errors, 130 for Ctrl-C, 143 for SIGTERM, 141 for a closed output pipe.
    """
    began = time.time()
    show_traceback, args = "--traceback" in (sys.argv if argv is None else argv), None
    try:
        args, dry_run_parser = parse(argv)
        show_traceback = args.traceback
        if dry_run_parser is not None:
            print(dry_run(args, dry_run_parser))
            return 0
        check_data(args)
        # Imported here because --help and missing data must answer at once, and torch takes seconds to import.
        from feataug.io.results import write_command
        from feataug.training.device import keep_freed_memory

        keep_freed_memory()
        COMMANDS[args.command].run(args)
        write_command(vars(args), began, finished=True)
    except FeatAugError as error:
        if show_traceback:
            traceback.print_exc()
        else:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit) as stop:
        code = 130 if isinstance(stop, KeyboardInterrupt) else stop.code
        if code not in (130, 143):  # 143: SIGTERM, after a checkpoint was saved
            raise
        if args is not None:
            from feataug.io.results import write_command

            write_command(vars(args), began, finished=False)
        print(_STOPPED, file=sys.stderr)
        return int(code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
