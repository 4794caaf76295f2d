"""python -m benchmarks.screenshots WORKSPACE SWEEP

Takes the pictures of the two pages in docs/ (report.png, report_phone.png, sweep.png) with a
headless Chromium: of a run's workspace and of a sweep's folder. Their latencies should be those of
a quiet machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from pipeline.reporting.run.page.write import write_page
from pipeline.reporting.sweep.write import write_comparison

DOCS = Path(__file__).resolve().parent.parent / "docs"
_COLOURS = 256  # of a picture: flat surfaces and text


def shoot(page: Path, to: Path, width: int, height: int, *, dark: bool = False) -> None:
    """A picture of the top of a page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "there is no Chromium here"
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder) / "taken.png"
        subprocess.run(
            [
                chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={folder}/profile", f"--window-size={width},{height}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                f"--screenshot={taken}", page.absolute().as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        with Image.open(taken) as image:
            image.convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).save(
                to, optimize=True
            )


def main() -> None:
    workspace, sweep = (Path(argument) for argument in sys.argv[1:])
    page = write_page(workspace)
    shoot(page, DOCS / "report.png", 1280, 1500)
    shoot(page, DOCS / "report_phone.png", 390, 1500, dark=True)
    shoot(write_comparison(sweep), DOCS / "sweep.png", 1280, 1500)


if __name__ == "__main__":
    main()
