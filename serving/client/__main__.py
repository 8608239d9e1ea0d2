"""`python -m serving.client`."""

from .cli import main

raise SystemExit(main())
