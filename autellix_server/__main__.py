"""`python -m autellix_server` is the `autellix` command."""

from autellix_server.cli import main

raise SystemExit(main())
