"""``python -m feataug``: the command line."""

import sys

from feataug.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
