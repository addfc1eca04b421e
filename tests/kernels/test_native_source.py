"""The extension's sources, compiled here: races and registers of device code."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"


def test_races(tmp_path):
    """The device's shape under ThreadSanitizer; every synchronisation left out is noticed."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    probe = tmp_path / "probe.cpp"
    probe.write_text("#include <barrier>\nint main() { std::barrier b{1}; b.arrive_and_wait(); }\n")
    flags = ["-std=c++20", "-Og", "-g", "-fsanitize=thread,alignment", "-pthread"]
    flags.append("-fno-sanitize-recover=alignment")
    program = tmp_path / "races"
    try:
        subprocess.run([compiler, *flags, probe, "-o", program], check=True, capture_output=True)
        subprocess.run([program], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{compiler} has no working ThreadSanitizer: {error}")
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, *warnings, CSRC / "tests" / "races.cpp", "-o", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout and done.stdout.count("\n") == 56
    # Lanes; before the first panel 1 to 3; a panel 4 to 6, another 7 to 9; the norms 13 and 14. The
    # last one only hands a maximum to the thread that reports it, which may have come last anyway.
    quick = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1:symbolize=0"}
    for left_out in (-1, *range(1, 10), 13, 14):
        # Threads may happen to come in the right order, so it is tried again; and a machine under
        # load may let them meet so late that the values go wrong without two of them colliding.
        for _ in range(10):
            done = subprocess.run(
                [program, str(left_out)], capture_output=True, text=True, check=False, env=quick
            )
            if done.returncode != 0:
                break
        noticed = "ThreadSanitizer: data race" in done.stderr or "WRONG" in done.stdout
        assert noticed, (left_out, done)
    done = subprocess.run([program, "16"], capture_output=True, text=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("architecture", ["80", "86", "89", "90a"])
def test_registers(architecture, tmp_path):
    """Compiled ahead of time: nothing spills, and the largest thread block finds its registers."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    command = [nvcc, "-std=c++17", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings"]
    command += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
    command += ["-c", CSRC / "device.cu", "-o", tmp_path / "device.o"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.findall(
        r"Compiling entry function '\w*SizeClassI[fd]Li(\d)ELi(\d+)E.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers",
        done.stderr,
        re.DOTALL,
    )
    assert len(found) == 10, done.stderr
    for edge, largest, stack, stores, loads, registers in found:
        assert (stack, stores, loads) == ("0", "0", "0"), found
        tiles = int(largest) // int(edge)
        warps = -(-tiles * (tiles + 1) // 2 // 32)
        # A multiprocessor's four parts have 16384 registers each, and a warp lives in one of them.
        assert -(-warps // 4) * int(registers) * 32 <= 16384
