"""Damaged files for the tests of readers; as a program, feeds them to the HDF5 reader.

`python mutations.py READER FILE REQUEST FIRST COUNT` reads mutations FIRST..COUNT of a file with
the module at READER, one line each. HDF5 hangs on some, so it may end early: of an alarm.
"""

import importlib.util
import random
import signal
import sys
from pathlib import Path

_WORDS = (b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f\x00\x00\x00\x00", b"\x00\x00\x01\x00" * 2)
_SECONDS = 2


def mutate(data: bytes, seed: int) -> bytes:
    """The data with a few bits, bytes, words or lengths changed."""
    generator = random.Random(seed)
    result = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 4, 16))):
        if not result:
            break
        index = generator.randrange(len(result))
        kind = generator.random()
        if kind < 0.4:
            result[index] ^= 1 << generator.randrange(8)
        elif kind < 0.7:
            result[index] = generator.choice((0, 127, 128, 255, generator.randrange(256)))
        elif kind < 0.8:
            result[index : index + 8] = generator.choice(_WORDS)
        elif kind < 0.85:
            del result[index:]
        elif kind < 0.95:
            del result[index : index + generator.randrange(1, 9)]
        else:
            result[index:index] = generator.randbytes(generator.randrange(1, 9))
    return bytes(result)


def main() -> None:
    spec = importlib.util.spec_from_file_location("reader", sys.argv[1])
    assert spec is not None and spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    file, first, count = Path(sys.argv[2]), int(sys.argv[4]), int(sys.argv[5])
    limit_bytes = None if sys.argv[3] == "check" else int(sys.argv[3])
    data, damaged = file.read_bytes(), file.with_suffix(".damaged")
    for seed in range(first, count):
        # A new file each time: to truncate one costs a flush.
        damaged.unlink(missing_ok=True)
        damaged.write_bytes(mutate(data, seed))
        signal.alarm(_SECONDS)
        header, _ = reader.answer(str(damaged), limit_bytes)
        print(seed, "error" if "error" in header else "read", flush=True)


if __name__ == "__main__":
    main()
