"""`python -m serving.server`."""

from serving.server.cli import main

raise SystemExit(main())
