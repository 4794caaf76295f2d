"""python -m pipeline.sweeps.share push|pull: everything that any run computed, to the DVC
remote or from it.

dvc push and dvc pull move what the workspace's dvc.lock names; with --run-cache they move the
entries of the run-cache, but not the files that those name (DVC 3.67). This moves both, so that
another clone restores whole sweeps.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo


def share(root: Path, direction: str) -> int:
    """Pushes or pulls the whole run-cache of `root`; returns the number of files moved.

    Raises DvcException where there is no remote, or it fails.
    """
    repo = Repo(str(root))
    if direction == "pull":
        repo.stage_cache.pull(None)
    runs = Path(repo.cache.legacy.path, "runs")
    entries = [(path.parent.name, path.name) for path in runs.glob("*/*/*") if path.is_file()]
    moved = 0
    for odb, objects in repo.stage_cache.get_used_objs(entries, push=direction == "push").items():
        move = repo.cloud.push if direction == "push" else repo.cloud.pull
        result = move(objects, odb=odb)
        if result.failed:
            raise DvcException(f"{len(result.failed)} files could not be moved; try again")
        moved += len(result.transferred)
    if direction == "push":  # last: an entry promises that its files are there
        repo.stage_cache.push(None)
    return moved


def main(arguments: list[str]) -> int:
    if arguments not in (["push"], ["pull"]):
        print("error: say push or pull", file=sys.stderr)
        return 2
    try:
        moved = share(Path(), arguments[0])
    except DvcException as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments[0]}: {moved} files moved")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
