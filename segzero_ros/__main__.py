"""`python -m segzero_ros`: the node, from a source tree or a virtual environment."""

import signal
import sys

if __name__ == "__main__":
    # Imports take seconds, and a signal in the middle of one would end in a traceback: main() waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    from segzero_ros.ros.main import main

    sys.exit(main())
