"""`python -m serving.client`."""

import os
import sys

from .cli import main

status = main()
sys.stdout.flush()
# Who presses Ctrl-C does not wait for answers that are under way.
os._exit(status)
