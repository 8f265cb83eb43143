"""`logs/metrics.csv`: Lightning's CSV logger, continued over a resume instead of begun anew."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment


class _Writer(ExperimentWriter):
    """Leaves an earlier file alone: the run itself decides whether to continue it or to put it aside."""

    def _check_log_dir_exists(self) -> None:
        pass


class MetricsFile(CSVLogger):
    """Writes metrics.csv straight into a folder.

    Args:
        folder: such as runs/demo/ppo/logs.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=10)
        self._experiment: _Writer | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> _Writer:
        """The writer, made on first use."""
        if self._experiment is None:
            self._experiment = _Writer(log_dir=self.log_dir)
            self._experiment.metrics_keys = self._header()
        return self._experiment

    def cut(self, steps: int) -> None:
        """Drops the rows that were logged at or after a step, which a resumed run will log again.

        Args:
            steps: training batches that the checkpoint had seen.
        """
        path = Path(self.experiment.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            rows = [row for row in reader if int(row["step"]) < steps]
        scratch = path.with_suffix(".csv.new")
        with scratch.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(scratch, path)
        self.experiment.metrics_keys = names

    def forget(self) -> None:
        """Starts without columns, after the file was put aside."""
        self.experiment.metrics_keys = []

    def _header(self) -> list[str]:
        path = Path(self.log_dir) / _Writer.NAME_METRICS_FILE
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return next(csv.reader(file), [])
