"""Upload a release folder to the Hub, by huggingface_hub: resumable, with the token from its usual places."""

from __future__ import annotations

import re
from pathlib import Path

from qwen35_gguf.errors import PublishError
from qwen35_gguf.release import checksums

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def listed(folder: Path) -> list[Path]:
    """List what would go: everything but hidden and unfinished files.

    Raises:
        PublishError: a file is not as SHA256SUMS says, or there is none.

    """
    problems = [verdict for verdict in checksums.verify(folder) if verdict.problem]
    if problems:
        raise PublishError(f"{folder}: {problems[0].name} {problems[0].problem}; make the release again")
    return [*checksums.listed_files(folder), folder / checksums.LIST]


def publish(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a release, making the repository if it is not there; return its address.

    Raises:
        PublishError: the name is none, nobody is logged in, or the Hub refuses.
        ChecksumError: the folder is no release.

    """
    if not REPO.fullmatch(repo):
        raise PublishError(f"--repo {repo}: is no name such as user/Qwen3.5-9B-GGUF")
    listed(folder)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not huggingface_hub.get_token():
        raise PublishError("nobody is logged in to the Hub; use `hf auth login`, or set HF_TOKEN")
    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        left_out = [".*", "**/.*", "*.part"]
        resumable = getattr(api, "upload_large_folder", None)  # later versions resume in upload_folder itself
        if resumable is not None:
            resumable(repo, folder, repo_type="model", ignore_patterns=left_out, print_report=False)
        else:
            api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=left_out)
    except (HfHubHTTPError, HFValidationError) as error:
        raise PublishError(f"{repo}: the Hub refuses ({_line(error)}); check the token's rights and the name") from None
    except Exception as error:  # the HTTP client, and with it its errors, differs between versions of huggingface_hub
        raise PublishError(
            f"{repo}: upload failed ({type(error).__name__}: {_line(error)}); run it again to resume"
        ) from None
    return str(address)


def _line(error: Exception) -> str:
    """Return the first line of a message, without anything that looks like a token."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"hf_\w+", "hf_...", text)[:200]
