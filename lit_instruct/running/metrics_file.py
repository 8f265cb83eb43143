"""`logs/metrics.csv`: Lightning's CSV logger, which a resumed run continues."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from lit_instruct.errors import UserError
from lit_instruct.files import replacing_file


class _Writer(ExperimentWriter):
    """Keeps an earlier file; the run decides whether to continue or move it."""

    rows = 0
    """Rows of the file without its header."""

    def save(self) -> None:
        """Appends what was logged."""
        added = len(self.metrics)
        super().save()
        self.rows += added

    def rewrite(self, names: list[str], rows: list[dict[str, str]]) -> None:
        """Replaces the file atomically."""
        with replacing_file(Path(self.metrics_file_path)) as scratch, scratch.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)

    def read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Returns the column names and the rows; the last row may be truncated.

        Raises:
            UserError: the file is damaged.
        """
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return [], []
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
        except (ValueError, csv.Error) as error:
            raise UserError(f"{path}: damaged ({error}); move it out of the run's folder") from error
        for row in rows:
            row.pop(None, None)  # cells beyond the columns
        return list(reader.fieldnames or []), rows

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self.rewrite(fieldnames, self.read()[1])

    def _check_log_dir_exists(self) -> None:
        pass


class MetricsFile(CSVLogger):
    """Writes metrics.csv directly into a folder such as runs/demo/ppo/logs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=10)
        self._experiment: _Writer | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> _Writer:
        """The writer, made on first use."""
        if self._experiment is None:
            self._experiment = _Writer(log_dir=self.log_dir)
            names, rows = self._experiment.read()
            self._experiment.metrics_keys, self._experiment.rows = names, len(rows)
        return self._experiment

    @property
    def rows(self) -> int:
        """Rows of the file without its header."""
        return self.experiment.rows

    def cut(self, rows: int) -> None:
        """Keeps the `rows` written before a checkpoint; a resumed run logs the later ones again."""
        writer = self.experiment
        names, found = writer.read()
        if len(found) > rows:
            writer.rewrite(names, found[:rows])
            writer.rows = rows

    def forget(self) -> None:
        """Starts without columns, after the file was moved."""
        self.experiment.metrics_keys, self.experiment.rows = [], 0
