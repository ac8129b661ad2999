"""An exported folder on the Hugging Face hub.

    folder ──huggingface_hub──▶ OWNER/NAME, one commit

A repository that is not there is made private: nothing becomes public because of a command that
exports. The library finds the account as ever (`hf auth login`, HF_TOKEN).
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from zofx.errors import UsageError

NAMED: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def require_repository(name: str) -> None:
    """Check the name of a repository, before anything is written.

    Raises:
        UsageError: it is none, or the hub's client is not installed.
    """
    if not NAMED.fullmatch(name):
        raise UsageError(f"--push {name}: a repository is OWNER/NAME")
    if find_spec("huggingface_hub") is None:
        raise UsageError(
            "--push needs the package huggingface_hub; run `pip install huggingface-hub`"
        )


def upload(folder: Path, name: str, message: str) -> str:
    """Upload a folder in one commit; returns the address of the commit.

    Raises:
        UsageError: the hub does not take it; the folder stays where it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        made = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except (OSError, ValueError) as error:  # every error of the hub client is one of the two
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"the hub does not take {name}: {reason}; {folder} is written: check the name and that "
            "you are logged in, then `hf upload` it"
        ) from error
    return str(made.commit_url)
