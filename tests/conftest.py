"""What holds for all tests."""

import signal

# A shell that runs us in the background lets us, and the programs that we start and interrupt, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
