"""Pages opened in a real Chromium, in the frame in which MLflow shows them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
# MLflow shows HTML in a frame that may run scripts and nothing else.
_FRAME = '<iframe sandbox="allow-scripts" style="width:{width}px;height:900px" srcdoc="{page}">'
_OUTER = """<!DOCTYPE html><title>frames</title><pre id="found"></pre><script>
const found = {{}};
addEventListener("message", (event) => {{
  found[event.data.name] = event.data;
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script>{frames}"""
_PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
addEventListener("load", () => {{
  let value = null;
  try {{ value = (() => {{ {script} }})(); }} catch (error) {{ errors.push(String(error)); }}
  const root = document.documentElement;
  parent.postMessage({{
    name: {name}, value, errors, wide: root.scrollWidth - root.clientWidth,
    paper: getComputedStyle(document.body).backgroundColor,
  }}, "*");
}});
</script>"""


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page: what the script returned, the errors, by how many pixels the
    page is wider than its frame, and the colour of its background."""

    value: Any
    errors: list[str]
    wide: int
    paper: str


def look(folder: Path, pages: Mapping[str, tuple[str, int, str]], *, dark: bool) -> dict[str, Seen]:
    """{name: what is seen} of pages, all in one browser; each as (its text, the width of its frame,
    the body of a function in JavaScript that is called in it)."""
    frames = "\n".join(
        _FRAME.format(width=width, page=escape(_probed(name, page, script))) + "</iframe>"
        for name, (page, width, script) in pages.items()
    )
    outer = folder / "frames.html"
    outer.write_text(_OUTER.format(frames=frames), encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000",
            # A frame in a process of its own may answer after virtual time is over.
            "--disable-features=IsolateSandboxedIframes", "--disable-site-isolation-trials",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--window-size=1400,900", outer.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text and text[1], done.stderr
    found = json.loads(unescape(text[1]))
    return {
        name: Seen(one["value"], one["errors"], one["wide"], one["paper"])
        for name, one in found.items()
    }


def _probed(name: str, page: str, script: str) -> str:
    probe = _PROBE.format(name=json.dumps(name), script=script)
    assert page.count("<head>") == 1
    return page.replace("<head>", f"<head>{probe}")
