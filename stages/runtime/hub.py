"""Repositories of the Hugging Face hub at one commit, and in one line what may go wrong with them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from stages.runtime.errors import UserError


def check_revision(key: str, repository: str | None, revision: str | None) -> None:
    """A repository has a commit hash, for branches and tags move.

    Raises:
        UserError: it has none, or something else.
    """
    if repository is None and revision is not None:
        raise UserError(f"{key}.revision: invalid without repository")
    if repository is not None and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise UserError(f"{key}.revision: {revision!r} is invalid; valid: a commit hash (40 hexadecimal digits)")


def fetch_snapshot(
    key: str, repository: str, revision: str, files: list[str] | None, kind: Literal["dataset", "model"]
) -> Path:
    """Download a repository, or those of its files that the patterns `files` name, or find it in the cache.

    Raises:
        UserError: it cannot be had.
    """
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        return snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=files)

    return _told(key, repository, revision, "files", fetch)


def fetch_file(key: str, repository: str, name: str, revision: str) -> Path:
    """Download one file of a model repository, or find it in the cache.

    Raises:
        UserError: it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    def fetch() -> str:
        return hf_hub_download(repository, name, repo_type="model", revision=revision)

    return _told(key, repository, revision, name, fetch)


def _told(key: str, repository: str, revision: str, what: str, fetch: Callable[[], str]) -> Path:
    """Fetch, and report what went wrong in one line with the next step."""
    from huggingface_hub import errors

    try:
        return Path(fetch())
    except errors.GatedRepoError:
        reason = f"{repository} is gated; next: accept its terms on its page, and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = f"{repository} is not there, or is private; next: correct the name, or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = f"{repository} has no revision {revision}; next: copy a commit hash from its history"
    except errors.LocalEntryNotFoundError:
        reason = f"{repository} is not in the cache and the hub cannot be reached; next: go online once without "
        reason += "HF_HUB_OFFLINE, or set path to a copy on disk"
    except errors.EntryNotFoundError:
        reason = f"{repository} has no {what} at {revision}; next: correct repository and revision"
    except errors.HFValidationError:
        reason = f"{repository!r} is no repository; valid: owner/name"
    except (errors.HfHubHTTPError, OSError) as error:
        reason = f"{repository} cannot be downloaded ({line(error)}); next: try again"
    raise UserError(f"{key}: {reason}") from None


def line(error: Exception) -> str:
    """What a library's exception says, in one line."""
    return " ".join(str(error).split())[:300]
