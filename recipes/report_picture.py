"""Makes docs/report.png, the picture of a report in README.md, with Chromium.

    make report-picture          (python recipes/report_picture.py runs/demo/eval/report.html docs/report.png)

Debian has it as the package chromium. The report stays as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1100, 1500


def picture(report: Path, out: Path) -> None:
    """Writes the top of a page as PNG.

    Args:
        report: an HTML file.
        out: the PNG, replaced when it is complete.
    """
    if not report.is_file():
        sys.exit(
            f"{report}: no such report; make it with `make demo`, or name another run: make report-picture RUN=name"
        )
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("the picture of a report needs Chromium; install it (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / out.name
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/user"]
        page = [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={made}", report.resolve().as_uri()]
        done = subprocess.run([browser, *options, *page], capture_output=True, text=True, timeout=120, check=False)
        if not made.is_file():
            sys.exit(f"{browser} made no picture: {done.stderr.strip()[-500:]}")
        made.replace(out)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
