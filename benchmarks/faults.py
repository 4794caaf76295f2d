"""Faults: a small chain is killed, starved of disk, and its files and cache are damaged; after each
fault one more run gives what an undisturbed run gave, or a line says what to do.

python -m benchmarks.faults [SEED [SCENARIO…]]

Scenarios: files, cache, kills, disk, times, two (all by default). sweep_soak does the like for
sweeps. Each prints what it did and how it ended; the exit status is 1 where one ended otherwise.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import lowrank as lr
from tests.chain import Tree
from tests.sweeps.small_tree import make_small_tree

RESULTS = ("out/plan.json", "out/fine_tuned/model.safetensors", "reports/metrics.json", "dvc.lock")
KILLS, POINTS, OBJECTS = 25, 20, 12
_PATIENCE = 3600  # seconds for one run on a busy machine


@dataclass(frozen=True)
class Run:
    """How a `dvc repro` ended."""

    status: int
    output: str

    @property
    def line(self) -> str:
        """What it told: its last line that names an error."""
        told = [line for line in self.output.splitlines() if re.search(r"(?i)error", line)]
        return told[0].strip()[:200] if told else ""


def start(tree: Tree, most: int | None = None) -> subprocess.Popen[str]:
    """`dvc repro` in a group of its own. most: bytes that a file may have: a write that goes beyond
    ends as on a full disk."""
    limited = [] if most is None else ["prlimit", f"--fsize={most}"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [*limited, "dvc", "repro"], cwd=tree.path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def repro(tree: Tree, most: int | None = None) -> Run:
    process = start(tree, most)
    output, _ = process.communicate(timeout=_PATIENCE)
    return Run(process.returncode, output)


def results(tree: Tree) -> dict[str, bytes]:
    return {name: (tree.path / name).read_bytes() for name in RESULTS}


def mended(tree: Tree) -> Run:
    """The run after the fault; what the lines tell to remove is removed first."""
    run = repro(tree)
    if "RWLock-file" in run.output:
        (tree.path / ".dvc/tmp/rwlock").unlink()
        run = repro(tree)
    return run


def damaged(path: Path, kind: str) -> None:
    """Empties, cuts or flips a file, which keeps its mode and its times, as a disk does it."""
    content, facts = path.read_bytes(), path.stat()
    middle = len(content) // 2
    new = {
        "emptied": b"",
        "cut": content[:middle],
        "flipped": content[:middle] + bytes(b ^ 4 for b in content[middle : middle + 1])
        + content[middle + 1 :],
    }[kind]  # fmt: skip
    path.chmod(0o644)
    path.write_bytes(new)
    path.chmod(facts.st_mode)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def files(tree: Tree, wanted: dict[str, bytes], chance: random.Random) -> Iterator[str]:
    """Every file of the chain in turn."""
    for number, path in enumerate(sorted((tree.path / "out").rglob("*"))):
        if not path.is_file() or not path.stat().st_size:
            continue
        kind = ("emptied", "cut", "flipped")[number % 3]
        damaged(path, kind)
        os.utime(path)  # a program did it: DVC goes by times
        yield verdict(f"{path.relative_to(tree.path)} {kind}", mended(tree), tree, wanted)


def cache(tree: Tree, wanted: dict[str, bytes], chance: random.Random) -> Iterator[str]:
    """Objects of the cache, whose outputs are then restored from it: whoever reads a network is
    told, and the remedy of the line works."""
    networks = ("baseline", "compressed", "fine_tuned")
    chosen = [(name, kind) for name in networks for kind in ("emptied", "cut", "flipped")]
    for name, kind in chosen[:OBJECTS]:
        folder = tree.path / "out" / name
        content = (folder / "model.safetensors").read_bytes()
        (thing,) = [
            path for path in (tree.path / ".dvc/cache/files/md5").rglob("*")
            if path.is_file() and path.read_bytes() == content
        ][:1]  # fmt: skip
        damaged(thing, kind)
        shutil.rmtree(folder)
        run = repro(tree)
        told = run.line
        with suppress(FileNotFoundError):
            try:
                lr.load(folder)
            except lr.LowRankError as error:
                told = str(error)
        assert "the file is damaged" in told or results(tree) == wanted, run.output
        thing.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        yield verdict(f"cached {name} {kind}, told and removed", mended(tree), tree, wanted)


def kills(tree: Tree, wanted: dict[str, bytes], chance: random.Random) -> Iterator[str]:
    """A cold run, killed over and over: the group, DVC alone, or a stage alone."""
    forget(tree)
    for _ in range(KILLS):
        process = start(tree)
        time.sleep(chance.uniform(0.5, 6))  # a stage takes seconds: most chains take all kills
        if process.poll() is not None:
            break
        what, how = (
            chance.choice(("group", "dvc", "stage")),
            chance.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)),
        )
        strike(process, what, how)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a stage whose DVC went first
        process.wait()
        yield f"killed: {what} by {how.name}"
    yield verdict("the run after all kills", mended(tree), tree, wanted)


def strike(process: subprocess.Popen[str], what: str, how: signal.Signals) -> None:
    """Sends the signal to the whole group, to its leader, or to the stage."""
    with suppress(ProcessLookupError):
        if what == "group":
            os.killpg(process.pid, how)
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        below = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        os.kill(below[-1] if what == "stage" and below else process.pid, how)


def disk(tree: Tree, wanted: dict[str, bytes], chance: random.Random) -> Iterator[str]:
    """A cold run in which no file may pass a size, which grows from try to try."""
    forget(tree)
    for point in range(POINTS):
        most = round(200 * 1.6**point)
        run = repro(tree, most)
        if run.status == 0:
            break
        assert "Traceback" not in run.output, run.output
        yield f"full at {most} bytes: {run.line}"
    yield verdict("the run with room", mended(tree), tree, wanted)


def times(tree: Tree, wanted: dict[str, bytes], chance: random.Random) -> Iterator[str]:
    """The clock went back, and forward: files of 1980 and of 2100."""
    for year, seconds in ((1980, 315532800), (2100, 4102444800)):
        for path in (tree.path / "out").rglob("*"):
            os.utime(path, (seconds, seconds))
        yield verdict(f"files of {year}", mended(tree), tree, wanted)


def two(tree: Tree, wanted: dict[str, bytes], chance: random.Random) -> Iterator[str]:
    """Two cold runs at once: one of them, or both, must end well."""
    forget(tree)
    both = [start(tree), start(tree)]
    outputs = [process.communicate(timeout=_PATIENCE)[0] for process in both]
    assert not any("Traceback" in output for output in outputs), outputs
    yield f"two at once ended with {[process.returncode for process in both]}"
    yield verdict("the run after both", mended(tree), tree, wanted)


def forget(tree: Tree) -> None:
    """As cold as at first: nothing computed, nothing cached."""
    for name in ("out", "reports", ".dvc/cache", ".scratch", "params.yaml", "dvc.lock"):
        path = tree.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def verdict(what: str, run: Run, tree: Tree, wanted: dict[str, bytes]) -> str:
    """Raises AssertionError unless the run ended with the results of the undisturbed one."""
    assert run.status == 0, f"{what}: {run.output[-3000:]}"
    found = results(tree)
    differing = [name for name in RESULTS if found[name] != wanted[name]]
    assert not differing, f"{what}: {differing} differ"
    return f"{what}: as undisturbed"


SCENARIOS: dict[str, Callable[[Tree, dict[str, bytes], random.Random], Iterator[str]]] = {
    "files": files, "times": times, "cache": cache, "disk": disk, "kills": kills, "two": two,
}  # fmt: skip


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    chosen = sys.argv[2:] or list(SCENARIOS)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = make_small_tree(Path(folder) / "tree")
        first = repro(tree)
        assert first.status == 0, first.output
        wanted = results(tree)
        for name in chosen:
            done = 0
            try:
                for told in SCENARIOS[name](tree, wanted, random.Random(seed)):
                    done += 1
                    print(f"{name}: {told}", flush=True)
            except AssertionError as error:
                bad += 1
                print(f"{name}: FAILED: {error}", flush=True)
                repro(tree)
            print(f"{name}: {done} in all", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
