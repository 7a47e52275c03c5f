"""Upload a release folder to the Hub with huggingface_hub: resumable, with the token from its usual places.

`upload_folder` sends large files first, then makes one commit (versions with hf_xet may make several). Files that
arrived stay at the Hub, and the next run does not send them again. `upload_large_folder` of earlier versions is not
used: it retries without end, and its record in the folder does not name the repository, so that a second one stays
empty.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

from qwen35_gguf.errors import PublishError
from qwen35_gguf.hub.client import check_hub_variables
from qwen35_gguf.release import checksums

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
TOO_MANY, SERVER_ERROR = 429, 500  # HTTP status codes
IGNORED = (".*", "**/.*", "*.part")  # `checksums.listed_files` leaves them out as well


def listed(folder: Path) -> list[Path]:
    """List the files that `publish` uploads: all but hidden and incomplete ones.

    Raises:
        PublishError: a file differs from SHA256SUMS, or is not listed there.
        ChecksumError: there is no SHA256SUMS.

    """
    files = checksums.listed_files(folder)
    known = checksums.read_list(folder)
    unlisted = [path for path in files if path.relative_to(folder).as_posix() not in known]
    if unlisted:
        raise PublishError(
            f"{unlisted[0]}: is not in {checksums.LIST}; remove it, or list it: "
            f"`qwen35 checksum {folder} --write --force`"
        )
    problems = [verdict for verdict in checksums.verify(folder) if verdict.problem]
    if problems:
        raise PublishError(f"{folder}: {problems[0].name} {problems[0].problem}; make the release again")
    return [*files, folder / checksums.LIST]


def publish(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a release, creating the repository if it does not exist; return its address.

    Raises:
        PublishError: the name is not valid, there is no login, the Hub refuses, or a private repository is wanted but
            a public one exists.
        ChecksumError: the folder is not a release.

    """
    if not REPO.fullmatch(repo):
        raise PublishError(f"--repo {repo}: is not a name such as user/Qwen3.5-9B-GGUF")
    checksums.read_list(folder)
    check_hub_variables()
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not huggingface_hub.get_token():
        raise PublishError("not logged in to the Hub; use `hf auth login`, or set HF_TOKEN")
    listed(folder)  # reads every file
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings contain signed addresses
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        if private and api.model_info(repo).private is False:
            raise PublishError(f"{repo}: exists already and is public; make it private in its settings first")
        api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=list(IGNORED))
    except PublishError:
        raise
    except Exception as error:  # the HTTP client and its errors differ between versions of huggingface_hub
        raise PublishError(f"{repo}: {_problem(error)}") from None
    return str(address)


def _problem(error: Exception) -> str:
    """Describe what failed, and what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    status = getattr(getattr(error, "response", None), "status_code", 0)
    later = status == TOO_MANY or status >= SERVER_ERROR
    if isinstance(error, HfHubHTTPError | HFValidationError) and not later:
        return f"the Hub refuses ({_line(error)}); check the token's rights and the name"
    cause = f"; {_line(error.__cause__)}" if error.__cause__ else ""
    return f"upload failed ({_line(error)}{cause}); run it again: files that arrived are not sent again"


def _line(error: BaseException) -> str:
    """Return the first line of a message, without tokens and signatures of addresses."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"hf_\w+", "hf_...", re.sub(r"\?[^\s'\")]+", "", text))[:200].rstrip(".")
