"""The command line, ``feataug COMMAND``: what the commands do is in ``commands``, what they take in ``options``."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence

from feataug.cli.broken_pipe import until_unread
from feataug.cli.commands import COMMANDS
from feataug.cli.dry_run import dry_run
from feataug.cli.parser import parse
from feataug.errors import FeatAugError

_STOPPED = "stopped; the same command goes on from the last checkpoint"


@until_unread
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the shell's exit code: 0, 1 for an error of ours, 130 for Ctrl-C, 143 for SIGTERM, 141 if nobody reads."""
    began = time.time()
    show, args = "--traceback" in (sys.argv if argv is None else argv), None
    try:
        args, dry = parse(argv)
        show = args.traceback
        if dry is not None:
            print(dry_run(args, dry))
            return 0
        # Here, not at the top: --help is to answer at once, and torch takes seconds to import.
        from feataug.io.results import write_command
        from feataug.training.device import keep_freed_memory

        keep_freed_memory()
        COMMANDS[args.command](args)
        write_command(vars(args), began, finished=True)
    except FeatAugError as error:
        if show:
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
