"""Draw docs/img/report.png: the HTML report of the failing layer of the README, as Chromium shows it.

    python docs/make/picture.py [CHROMIUM]

The page is built with a fixed date and without times, so that the picture changes only when the report does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gradverify as gv
from gradverify.report.html import render_html

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURE = ROOT / "docs" / "img" / "report.png"
WHEN = datetime(2026, 11, 28, tzinfo=timezone.utc)
SIZE = (1240, 1080)  # pixels of the window: the overview, the finding and its pictures
NAMES = ("chromium", "chromium-browser", "google-chrome")


def failing_layer() -> gv.Layer:
    """The layer of the README, made by the README's own code."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- failure-output")[0]
    names: dict[str, Any] = {"__name__": "readme"}
    for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        exec(block.replace("print(report)", ""), names)
    return gv.Layer(names["forward"], names["backward"], name="dense", x="N D", W="D H", b="H")


def page() -> str:
    report = gv.check(failing_layer(), raises=False, quiet=True)
    files = dict.fromkeys(report.findings, ".gradverify/cases/dense.npz")
    return render_html([replace(report, seconds=2.0, origin="layers.py:dense")], files, WHEN)


def main(browser: str | None) -> None:
    if browser is None:
        sys.exit(f"no Chromium was found ({', '.join(NAMES)}); name one: python docs/make/picture.py PATH")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "report.html").write_text(page(), encoding="utf-8")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        command = [browser, *flags, f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={PICTURE}"]
        subprocess.run(
            [*command, (Path(folder) / "report.html").as_uri()], check=True, capture_output=True, timeout=120
        )
    with suppress(ImportError):  # a picture of few colours needs a third of the bytes
        from PIL import Image

        Image.open(PICTURE).quantize(224, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else next(filter(None, map(shutil.which, NAMES)), None)
    main(given)
