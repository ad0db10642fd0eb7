"""The `bnnkeras` command.

It stands outside the package, because TensorFlow writes log lines that no setting stops while
`import bnnkeras` imports Keras, and a command's output should be the command's.
"""

import contextlib
import os
import re
import sys
import threading

# `I0000 00:00:...  1234 file.cc:12] ...`, and the line that announces them.
_LOG_LINE = re.compile(rb"[IWE]\d{4} |WARNING: All log messages before absl")
# What such a line may go on with.
_CONTINUATION = re.compile(rb"To enable the following instructions: ")


def main() -> None:
    """Runs the command line without TensorFlow's log lines."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_log_lines():
        try:
            from bnnkeras.cli import main as run
        except ModuleNotFoundError as error:
            # Keras imports its backend with itself: TensorFlow, if nothing chooses another.
            backend = str(error.name).split(".")[0]
            if backend not in ("jax", "tensorflow", "torch"):
                raise
            sys.exit(
                f"Keras's backend, {backend}, is not installed. Set KERAS_BACKEND to one that "
                "is: jax, tensorflow or torch."
            )
        run()


@contextlib.contextmanager
def _without_log_lines():
    """Sends stderr through a filter; everything but log lines comes out unchanged."""
    stderr = os.dup(2)
    read_end, write_end = os.pipe()
    os.dup2(write_end, 2)
    os.close(write_end)
    reader = threading.Thread(target=_copy, args=(read_end, stderr), daemon=True)
    reader.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        # A child that outlives this process may hold the pipe open: wait for what is there only.
        reader.join(timeout=1)


def _copy(read_end: int, stderr: int) -> None:
    with open(read_end, "rb") as lines:
        for line in lines:
            if not (_LOG_LINE.match(line) or _CONTINUATION.match(line)):
                os.write(stderr, line)


if __name__ == "__main__":
    main()
