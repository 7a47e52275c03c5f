"""Where the checkpoint is: a local directory, or a Hugging Face Hub id that is downloaded into the usual cache.

Downloads resume where they stopped and are shared with every other tool that uses huggingface_hub.
"""

from __future__ import annotations

import re
from pathlib import Path

from qwen35_gguf.errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

SIDE_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "README.md", "additional_chat_templates/*")
# What transformers saves. Other safetensors beside them are second copies (consolidated) or adapters.
USUAL_WEIGHTS = "model*.safetensors"
ANY_WEIGHTS = "*.safetensors"


def resolve(model: str, revision: str | None = None) -> tuple[Path, str | None, str | None]:
    """Find the directory of a checkpoint, downloading it if `model` is a Hub id.

    Args:
        model: a directory, which wins, or `organisation/name` on the Hub.
        revision: branch, tag or commit on the Hub.

    Returns:
        The directory, and for a Hub id its repository and the commit that was downloaded.

    Raises:
        CheckpointError: there is no such directory or repository, or the Hub does not hand it out.

    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise CheckpointError(f"{model}: is a local directory, so --revision {revision} cannot apply; leave it out")
        return directory, None, None
    if directory.exists():
        raise CheckpointError(f"{model}: is a file; give the directory that holds config.json")
    if not HUB_ID.fullmatch(model):
        raise CheckpointError(f"{model}: no such directory, and not a Hub id such as Qwen/Qwen3.5-9B")
    snapshot = _download(model, revision, USUAL_WEIGHTS)
    if not any(snapshot.glob(USUAL_WEIGHTS)):
        snapshot = _download(model, revision, ANY_WEIGHTS)
    return snapshot, model, snapshot.name


def _download(repo: str, revision: str | None, weights: str) -> Path:
    """Download into the cache, `.../snapshots/COMMIT`, and return that directory."""
    # Here and not above: a conversion from a local directory does not need the Hub's client.
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=[*SIDE_FILES, weights]))
    except GatedRepoError:  # before RepositoryNotFoundError, of which it is a kind
        page = f"{huggingface_hub.constants.ENDPOINT}/{repo}"
        problem = f"gated; accept the licence on {page}, then log in with `hf auth login` or set HF_TOKEN"
    except RepositoryNotFoundError:
        problem = (
            "no such directory here, and no such model on the Hub; check the spelling, "
            "or log in with `hf auth login` if it is private"
        )
    except RevisionNotFoundError:
        problem = f"has no revision {revision}; leave out --revision or name a branch, tag or commit of it"
    except HFValidationError as error:
        problem = f"not a Hub id: {_first_line(error)}"
    except LocalEntryNotFoundError as error:
        hub = huggingface_hub.constants.ENDPOINT
        if isinstance(error.__cause__, HfHubHTTPError):
            problem = f"not in the cache, and {hub} answers: {_first_line(error.__cause__)}; pass a directory"
        else:
            problem = (
                f"not in the cache, and {hub} cannot be reached; "
                "check the network (and that HF_HUB_OFFLINE is unset), or pass a directory"
            )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        problem = f"the Hub answered {status} ({_first_line(error)}); try again later, or pass a directory"
    except Exception as error:  # the HTTP client, and with it its errors, differs between versions of huggingface_hub
        problem = f"download failed ({type(error).__name__}: {_first_line(error)}); run it again to resume"
    raise CheckpointError(f"{repo}: {problem}") from None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
