"""A phone at the end of adb: pushes a file and a benchmark program, runs it, removes both."""

import dataclasses
import shlex
import shutil
import struct
import subprocess
import uuid
from pathlib import Path

_FOLDER = "/data/local/tmp"
_SECONDS = 60
_PUSH_SECONDS = 600
_RUN_SECONDS = 1800
_WARM_UP_RUNS = 5
# ELF's numbers of machines, by Android's names.
_MACHINES = {"arm64-v8a": 183, "armeabi-v7a": 40, "x86_64": 62, "x86": 3}
_KERNEL_FLAGS = {
    None: [],
    "default": [],
    "reference": ["--use_reference_bconv=true"],
    "indirect": ["--use_indirect_bgemm=true"],
}


class DeviceError(RuntimeError):
    """The phone, adb or the benchmark program does not do what it should."""


@dataclasses.dataclass(frozen=True)
class Phone:
    """A connected phone and the program to run on it.

    Attributes:
        serial: Its serial number.
        name: Its model, as it calls itself.
        program: The benchmark program, made for its processor.
    """

    serial: str
    name: str
    program: Path

    @classmethod
    def connect(cls, program: Path | None, serial: str | None = None) -> "Phone":
        """Finds the phone and checks that the program is one for it. Nothing is pushed yet.

        Args:
            program: LCE's benchmark program for the phone.
            serial: The phone's serial number, or `None` if there is one phone only.

        Raises:
            DeviceError: If adb is missing, there is no such phone or several, or the program is
                missing or made for another processor.
        """
        if program is None:
            raise DeviceError(
                "`--adb` needs `--lce-benchmark`: the path of LCE's benchmark program for Android, "
                "lce_benchmark_model (examples/android/README.md says where to get it)"
            )
        machine = _machine_of(program)
        if shutil.which("adb") is None:
            raise DeviceError(
                "adb is not on the PATH: install Android's platform tools "
                "(https://developer.android.com/tools/releases/platform-tools)"
            )
        serial = _choose(_adb(["devices"]), serial)
        properties = [
            _adb(["shell", "getprop", name], serial).strip()
            for name in ("ro.product.cpu.abilist", "ro.product.model")
        ]
        supported = properties[0].split(",")
        if machine not in [_MACHINES.get(name) for name in supported]:
            made_for = next((name for name, number in _MACHINES.items() if number == machine), "?")
            raise DeviceError(
                f"The program {str(program)!r} is made for {made_for}, and the phone {serial} runs "
                f"{', '.join(supported)}"
            )
        return cls(serial, properties[1] or serial, program)

    def benchmark(
        self, file: Path, *, threads: int, kernel: str | None, runs: int, profiling: bool
    ) -> str:
        """Runs the program on a file; returns what it prints. What was pushed is removed.

        Args:
            file: The `.tflite` file.
            threads: Threads of the interpreter.
            kernel: One of LCE's kernels, or `None` for the program's default.
            runs: Number of timed runs.
            profiling: Whether to time operators, which slows small ones down.

        Raises:
            DeviceError: If a step fails.
        """
        # A folder of its own: nothing of the user's is overwritten, and nothing else removed.
        folder = f"{_FOLDER}/bnnkeras-{uuid.uuid4().hex[:12]}"
        program, model = f"{folder}/lce_benchmark_model", f"{folder}/model.tflite"
        command = [
            program,
            f"--graph={model}",
            f"--num_threads={threads}",
            f"--num_runs={runs}",
            f"--warmup_runs={_WARM_UP_RUNS}",
            # Without it a second of runs is the least, whatever their number.
            "--min_secs=0",
            f"--enable_op_profiling={str(profiling).lower()}",
            *_KERNEL_FLAGS[kernel],
        ]
        self._shell(["mkdir", "-p", folder])
        try:
            for source, target in ((self.program, program), (file, model)):
                _adb(["push", str(source), target], self.serial, _PUSH_SECONDS)
            self._shell(["chmod", "755", program])
            return self._shell(command, _RUN_SECONDS)
        finally:
            self._shell(["rm", "-rf", folder])

    def _shell(self, command: list[str], seconds: float = _SECONDS) -> str:
        # adb joins its arguments and hands them to a shell. The program writes to both outputs.
        return _adb(["shell", f"{shlex.join(command)} 2>&1"], self.serial, seconds)


def _adb(arguments: list[str], serial: str | None = None, seconds: float = _SECONDS) -> str:
    command = ["adb", *(["-s", serial] if serial else []), *arguments]
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"`{shlex.join(command)}` took longer than {seconds:.0f} s") from None
    if result.returncode:
        raise DeviceError(
            f"`{shlex.join(command)}` ended with status {result.returncode}: "
            f"{result.stdout.strip()[-1000:]}"
        )
    return result.stdout


def _choose(listing: str, serial: str | None) -> str:
    """The serial number of the one phone that is ready, or of the wanted one."""
    entries = [line.split() for line in listing.splitlines() if "\t" in line]
    states = {entry[0]: " ".join(entry[1:]) for entry in entries}
    if serial is None and len(states) > 1:
        raise DeviceError(f"There are several phones: choose with --serial. Received: {states}")
    if not states:
        raise DeviceError(
            "No phone is connected: switch on USB debugging, connect it, and look at `adb devices`"
        )
    chosen = serial or next(iter(states))
    if states.get(chosen) != "device":
        state = states.get(chosen, "not connected")
        raise DeviceError(f"The phone {chosen} cannot be used: {state}. Received: {states}")
    return chosen


def _machine_of(program: Path) -> int:
    """ELF's number of the machine that a program is made for."""
    if not program.is_file():
        raise DeviceError(f"There is no benchmark program {str(program)!r}")
    with open(program, "rb") as file:
        header = file.read(20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        raise DeviceError(f"The file {str(program)!r} is no program for Android (no ELF file)")
    return struct.unpack("<H" if header[5] == 1 else ">H", header[18:20])[0]
