"""What the usual jobs cost here and in an older version, by turns in one run.

    python benchmarks/speed.py --against COMMIT [--jobs NAME ...] [--repeats N] [--work FOLDER] [--without-avx512]

COMMIT is checked out and installed beside the packages of this environment, without its own. CPU seconds with one
thread, medians, and their ratio. Other processes on the machine slow both, so run it on a quiet one.

--without-avx512: as on a processor that has AVX2 and nothing newer. Both versions (here the last commit) are built
from sources in which the kernels and the choice of the precision do not see more, and torch is told the same.

The first step is that of the whole command, from its start to the first line of metrics.jsonl.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
JOBS_FILE = Path(__file__).parent / "speed_jobs.py"
SPLATS = [
    (kind, size, count) for kind in ("shell", "ball") for size, count in ((128, 10), (256, 50), (512, 100))
]
PRIORS = ("embedded-things", "embedded-picture", "embedded", "embedded-view", "embedded-video")


@dataclass(frozen=True)
class Side:
    """One of the two versions. python: its interpreter. work: a folder of its own. env: of its processes."""

    python: str
    work: Path
    env: dict[str, str]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
AVX2 = {name: "AVX2" for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")}
# What sources say of newer processors, and what they say without.
BLIND = {
    '"arch=x86-64-v4", ': "",
    '__builtin_cpu_supports("avx512f")': "false",
    '{"avx512_bf16", "amx_bf16"}': "set[str]()",
}


def other_side(commit: str, work: Path, blind: bool = False) -> Side:
    """A checkout of a commit and an environment in which it is installed, both kept for the next time.

    blind: to what is newer than AVX2.
    """
    tree, environment = work / "checkout", work / "environment"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], cwd=ROOT, check=True)
        if blind:
            _make_blind(tree / "threedgen")
        venv.create(environment, with_pip=False, symlinks=True)
        paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
        packages = Path(paths["purelib"])
        (packages / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(tree)]
        subprocess.run(install, check=True)
    env = ONE_THREAD | AVX2 | {"ATEN_CPU_CAPABILITY": "avx2"} if blind else ONE_THREAD
    return Side(str(python), work / "there", env)


def _make_blind(sources: Path) -> None:
    for file in [path for kind in ("py", "h", "cpp") for path in sources.rglob(f"*.{kind}")]:
        text = file.read_text(encoding="utf-8")
        for old, new in BLIND.items():
            text = text.replace(old, new)
        file.write_text(text, encoding="utf-8")


def command(*words: str) -> Callable[[Side], float]:
    """CPU seconds of a command of threedgen with all its processes; it writes into a new folder."""

    def run(side: Side) -> float:
        with tempfile.TemporaryDirectory(dir=side.work) as folder:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [side.python, "-m", "threedgen", *words, "--out", f"{folder}/run"],
                check=True,
                cwd=folder,  # not a checkout, which the interpreter would import instead
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=side.env,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return run


def first_step(side: Side) -> float:
    """CPU seconds of a text-to-3d command until its first step is done."""
    tick = os.sysconf("SC_CLK_TCK")
    with tempfile.TemporaryDirectory(dir=side.work) as folder:
        process = subprocess.Popen(
            [side.python, "-m", "threedgen", "text-to-3d", "a red cube", "--out", f"{folder}/run"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=side.env,
        )
        metrics = Path(folder) / "run" / "metrics.jsonl"
        try:
            while not (metrics.is_file() and metrics.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError("the command ended before its first step")
                time.sleep(0.002)
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / tick
        finally:
            process.kill()
            process.wait()


def call(*words: str) -> Callable[[Side], float]:
    """What a job of speed_jobs.py prints."""

    def run(side: Side) -> float:
        done = subprocess.run(
            [side.python, str(JOBS_FILE), *words],
            check=True,
            capture_output=True,
            text=True,
            cwd=side.work,
            env=side.env,
        )
        return float(done.stdout)

    return run


def picture(path: Path) -> None:
    """A shaded ball on a transparent ground."""
    import imageio.v3 as iio
    import numpy as np

    y, x = np.mgrid[-1.0:1.0:256j, -1.0:1.0:256j] / 0.7
    inside = x**2 + y**2 < 1.0
    light = 0.4 + 0.5 * np.sqrt(np.clip(1.0 - x**2 - y**2, 0.0, 1.0))
    rgba = np.stack([light, 0.5 * light, 0.2 * light, inside], axis=-1)
    iio.imwrite(path, (255.0 * np.clip(rgba, 0.0, 1.0)).astype(np.uint8))


def image_to_3d(side: Side) -> float:
    path = side.work / "ball.png"
    picture(path)
    return command("image-to-3d", str(path))(side)


def export(side: Side) -> float:
    """Writing the files of a run. Both sides export one run, which the older version made."""
    return call("export", str(side.work.parent / "run"))(side)


def jobs() -> dict[str, Callable[[Side], float]]:
    found: dict[str, Callable[[Side], float]] = {
        "text-to-3d": command("text-to-3d", "a red cube"),
        "first step": first_step,
        "export": export,
        "image-to-3d": image_to_3d,
        "text-to-3d --recipe sds": command("text-to-3d", "a red cube", "--recipe", "sds"),
        "text-to-4d": command("text-to-4d", "a red cube spinning"),
    }
    found |= {f"pass of {name}": call("guided-pass", name) for name in PRIORS}
    found |= {
        f"{kind} {size} px, {count}k": call("splatting", kind, str(size), str(count * 1000))
        for kind, size, count in SPLATS
    }
    return found


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    shown = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name} ({', '.join(shown)})"


def main() -> None:
    everything = jobs()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", required=True, metavar="COMMIT")
    parser.add_argument("--jobs", nargs="+", choices=everything, default=list(everything), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "speed")
    parser.add_argument("--without-avx512", action="store_true")
    arguments = parser.parse_args()
    blind = arguments.without_avx512
    work = arguments.work.resolve() / (arguments.against + "-avx2" * blind)
    there = other_side(arguments.against, work, blind)
    if blind:
        last = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True
        )
        commit = last.stdout.decode().strip()
        here = other_side(commit, arguments.work.resolve() / f"{commit}-avx2", blind)
    else:
        here = Side(sys.executable, work, ONE_THREAD)
    here = replace(here, work=work / "here")
    for side in (there, here):
        side.work.mkdir(parents=True, exist_ok=True)
    if "export" in arguments.jobs and not (work / "run").exists():
        words = ["text-to-3d", "a red cube", "--out", str(work / "run")]
        subprocess.run([there.python, "-m", "threedgen", *words], check=True, cwd=there.work)
    print(
        f"{processor()}, CPU seconds, one thread, medians of {arguments.repeats}, against {arguments.against}\n"
    )
    print("| job | before | now | ratio |\n|---|---|---|---|")
    for name in arguments.jobs:
        pairs = [(everything[name](there), everything[name](here)) for _ in range(arguments.repeats)]
        before, now = (statistics.median(values) for values in zip(*pairs, strict=True))
        ratio = statistics.median(new / old for old, new in pairs)
        print(f"| {name} | {before:.4g} | {now:.4g} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
