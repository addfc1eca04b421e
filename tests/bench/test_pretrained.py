"""`bench.pretrained` on a tiny pair: what it counts, and that its shares are of the whole."""

import re

from bench import pretrained


def test_counts_and_shares(learned, capsys):
    pretrained.main(
        [
            str(learned["base"]), str(learned["tuned"]), "--honesty", str(learned["honesty"]),
            "--task", str(learned["task"]), "--samples", "8", "--dtype", "float32",
        ]
    )  # fmt: skip
    said = capsys.readouterr().out
    (matrices,) = map(int, re.findall(r"(\d+) matrices", said))
    (problems,) = map(int, re.findall(r"(\d+) eigenvalue problems", said))
    # One of each matrix's outputs; one of inputs for q, k and v, o, gate and up, down.
    assert matrices % 7 == 0 and problems == matrices + 4 * matrices // 7
    ratios = [float(one) for one in re.findall(r": ([\d.]+)$", said, re.MULTILINE)]
    assert len(ratios) == 5 and all(one > 0 for one in ratios[:3])
    shares = [float(one) for one in re.findall(r": ([\d.]+) %$", said, re.MULTILINE)]
    assert abs(sum(shares) - 100) < 1
