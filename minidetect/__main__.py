"""`python -m minidetect` is the command `minidetect`."""

import sys

from minidetect.cli import main

if __name__ == "__main__":
    sys.exit(main())
