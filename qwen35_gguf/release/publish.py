"""Upload a release folder to the Hub, by huggingface_hub: resumable, with the token from its usual places.

All goes by `upload_folder`: large files first, then one commit (versions with hf_xet may make several). What arrived
stays at the Hub, and is not sent again by the next run. `upload_large_folder` of earlier versions is not used: it tries
again without end, and notes in the folder what is done without saying for which repository, so that a second one stays
empty.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

from qwen35_gguf.errors import PublishError
from qwen35_gguf.release import checksums

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
TOO_MANY, SERVER_ERROR = 429, 500  # of the HTTP statuses
LEFT_OUT = (".*", "**/.*", "*.part")  # as `checksums.listed_files` leaves them out


def listed(folder: Path) -> list[Path]:
    """List what would go: everything but hidden and unfinished files.

    Raises:
        PublishError: a file is not as SHA256SUMS says, or is not in it.
        ChecksumError: there is no such list.

    """
    problems = [verdict for verdict in checksums.verify(folder) if verdict.problem]
    if problems:
        raise PublishError(f"{folder}: {problems[0].name} {problems[0].problem}; make the release again")
    files = checksums.listed_files(folder)
    known = checksums.read_list(folder)
    strange = [path for path in files if path.relative_to(folder).as_posix() not in known]
    if strange:
        raise PublishError(
            f"{strange[0]}: is not in {checksums.LIST}; remove it, or list it with `qwen35 checksum {folder} --write`"
        )
    return [*files, folder / checksums.LIST]


def publish(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a release, making the repository if it is not there; return its address.

    Raises:
        PublishError: the name is none, nobody is logged in, the Hub refuses, or the repository is there and public
            although a private one is wanted.
        ChecksumError: the folder is no release.

    """
    if not REPO.fullmatch(repo):
        raise PublishError(f"--repo {repo}: is no name such as user/Qwen3.5-9B-GGUF")
    listed(folder)
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not huggingface_hub.get_token():
        raise PublishError("nobody is logged in to the Hub; use `hf auth login`, or set HF_TOKEN")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # warnings name the signed address of what was sent
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        if private and api.model_info(repo).private is False:
            raise PublishError(f"{repo}: is there already, and public; make it private in its settings first")
        api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=list(LEFT_OUT))
    except PublishError:
        raise
    except Exception as error:  # the HTTP client, and with it its errors, differs between versions of huggingface_hub
        raise PublishError(f"{repo}: {_problem(error)}") from None
    return str(address)


def _problem(error: Exception) -> str:
    """Say what went wrong and what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    status = getattr(getattr(error, "response", None), "status_code", 0)
    later = status == TOO_MANY or status >= SERVER_ERROR
    if isinstance(error, HfHubHTTPError | HFValidationError) and not later:
        return f"the Hub refuses ({_line(error)}); check the token's rights and the name"
    cause = f"; {_line(error.__cause__)}" if error.__cause__ else ""
    return f"upload failed ({_line(error)}{cause}); run it again, what has arrived is not sent again"


def _line(error: BaseException) -> str:
    """Return the first line of a message, without anything that looks like a token or the signature of an address."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"hf_\w+", "hf_...", re.sub(r"\?[^\s'\")]+", "", text))[:200].rstrip(".")
