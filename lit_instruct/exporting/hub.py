"""Uploads an export with the login of the Hugging Face hub client."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from lit_instruct.errors import UserError


def push(folder: Path, repository: bool | str) -> str:
    """Uploads a folder to a private model repository and returns its address.

    Args:
        folder: a finished export.
        repository: organisation/name; True uses the folder's name and the user's account.

    Raises:
        UserError: the user is not logged in, or the hub refuses.
    """
    name = folder.resolve().name if repository is True else str(repository)
    api = HfApi()
    try:
        made = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Export of lit-instruct")
    except LocalTokenNotFoundError as error:
        raise UserError(
            f"--push-to-hub: not logged in; run `hf auth login` and export again ({folder} is complete)"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--push-to-hub={name}: the upload failed ({reason}); {folder} is complete: retry") from error
    print(f"uploaded to {made}, a private repository")
    return str(made)
