"""GitHub's workflows and the Dockerfile name what exists, pin actions, and may do little."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def _jobs(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_a_workflow_runs_targets_that_exist_with_pinned_actions(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    steps = [step for job in _jobs(path).values() for step in job["steps"]]
    commands = [step["run"].split() for step in steps if "run" in step]
    assert {words[1] for words in commands if words[0] == "make"} <= targets
    scripts = [ROOT / words[0] for words in commands if words[0].startswith(".ci/")]
    assert all(os.access(script, os.X_OK) for script in scripts)
    assert all(re.fullmatch(r"[\w/-]+@v\d+\.\d+\.\d+", step["uses"]) for step in steps if "uses" in step)


def test_only_jobs_that_publish_may_do_more_than_read() -> None:
    assert {path.stem for path in WORKFLOWS} == {"docs", "release", "test"}
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}
    granted = {
        (path.stem, name): job["permissions"]
        for path in WORKFLOWS
        for name, job in _jobs(path).items()
        if "permissions" in job
    }
    assert granted == {
        ("docs", "publish"): {"pages": "write", "id-token": "write"},
        ("release", "publish"): {"id-token": "write"},
    }


def test_the_dockerfile_copies_what_exists_and_its_context_has_it() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied == {line.removeprefix("!") for line in context if line.startswith("!")}
    assert set(re.findall(r"^FROM \S+ AS (\w+)", text, re.M)) == {"cpu", "cuda", "wheel"}


def test_the_devcontainer_sets_up_by_make() -> None:
    found = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert found["postCreateCommand"] == "make setup"
