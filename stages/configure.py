"""configure: conf/ composed by Hydra, typed and validated, as params.yaml."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.compose import compose_params, write_params
from pipeline.config.pins import require_pins
from pipeline.config.preflight import check_runnable
from stages._io import main


def run() -> None:
    params = compose_params(Path("conf"))
    require_pins(params, Path.cwd())
    check_runnable(params)
    write_params(Path("params.yaml"), params)


if __name__ == "__main__":
    main(run)
