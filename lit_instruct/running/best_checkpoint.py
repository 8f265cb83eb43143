"""`best.ckpt`: the checkpoint with the best validation, which a run finds again after its folder was moved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from lit_instruct.errors import UserError


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for `best.ckpt`, which looks for the best one so far beside the resumed checkpoint.

    Lightning stores absolute paths: a moved run would forget its best checkpoint, and a copied one would use that of
    the original.

    Args:
        folder: of the checkpoints.
        monitor: the metric that chooses.
        mode: min or max.
        resumed: the checkpoint that the run resumes from; None for a new run.
    """

    def __init__(self, folder: Path, monitor: str, mode: str, resumed: str | None) -> None:
        super().__init__(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
        self.resumed = resumed

    @property
    def _legacy_state_key(self) -> Any:
        """The name of the state in earlier checkpoints, which a ModelCheckpoint of the user may have as well."""
        return self.state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score and the path of its checkpoint.

        Raises:
            UserError: that checkpoint is missing.
        """
        best = str(state_dict["best_model_path"])
        state_dict = state_dict | {"dirpath": self.dirpath}
        if best:
            found, score = self._found(best), state_dict["best_k_models"][best]
            state_dict |= {"best_model_path": found, "kth_best_model_path": found, "best_k_models": {found: score}}
        super().load_state_dict(state_dict)

    def _found(self, best: str) -> str:
        folder = Path(self.resumed).parent if self.resumed is not None else Path(str(self.dirpath))
        beside = Path(os.path.realpath(folder)) / Path(best).name  # as Lightning writes its own
        found = next((path for path in (beside, Path(best)) if path.exists()), None)
        if found is None:
            raise UserError(
                f"--ckpt_path={self.resumed}: {beside.name}, its best checkpoint so far, is missing in "
                f"{beside.parent}; put it back there, or start a new training without --ckpt_path"
            )
        return str(found)
