"""`python -m ecglib` and the console script `ecglib`: the environment of every stage, then the command line."""

import os
import sys
import threading
import warnings

from ecglib.pipeline import cli, warm
from ecglib.pipeline.environment import ENVIRONMENT


def main() -> None:
    """Run the command line under ENVIRONMENT: in a child of the warm server, or in this process.

    numpy and torch read the environment once, at import, so this process may have to begin anew.
    """
    words = sys.argv[1:]
    if words[:1] == [warm.SERVE]:
        words = warm.serve(words[1])  # comes back in each child
    elif (status := warm.call(words)) is not None:
        sys.exit(status)
    elif any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if words[:1] == [warm.KERNEL]:
        sys.exit(warm.kernel(words[1:]))
    warnings.filterwarnings("ignore", ".*(still being processed|not used)")  # joblib, when it is stopped
    status = cli.main(words)
    if status == cli.STOPPED and any("ThreadPool" in thread.name for thread in threading.enumerate()):
        os._exit(status)  # an ordinary exit waits for what these threads compute
    sys.exit(status)


if __name__ == "__main__":
    main()
