"""`python -m bnnkeras.converters.worker FOLDER MODULES`: started by `DeployWorker`."""

import sys

from bnnkeras.converters.worker.child import main

if __name__ == "__main__":
    main(*sys.argv[1:])
