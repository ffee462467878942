"""The Hugging Face hub: what a repository holds, and its files, each resumed where it stopped.

The hub client's own `snapshot_download` begins a file anew in each process, which hurts with files
of ten readable_bytes. So the bytes go through its `http_get` into a file that stays.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] -- what all its network errors are
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

PARTIAL_SUFFIX = ".partial"
API_SECONDS = 30.0

ProgressBar = Callable[..., Any]
"""A class like tqdm's: desc, total and initial as keywords, a context, and update(bytes)."""


class HubError(Exception):
    """The hub does not give what was asked for; the message is a sentence for people."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a repository and how its content is known.

    Attributes:
        sha256: Of its content, for large files.
        git_id: The SHA-1 of its git object, for the others.
    """

    name: str
    size: int
    sha256: str | None
    git_id: str | None

    def is_at(self, path: Path) -> bool:
        """Whether a file here has its content; reads it whole."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return sha256_of(path) == self.sha256
        header = f"blob {self.size}\0".encode()
        return hashlib.sha1(header + path.read_bytes()).hexdigest() == self.git_id


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A repository at a commit.

    Attributes:
        commit: 40 hex digits.
        licence: What the model card says, if it says anything.
        files: Those at its top; folders are left out.
    """

    repository: str
    commit: str
    licence: str | None
    files: Sequence[HubFile]

    def file(self, name: str) -> HubFile | None:
        return next((file for file in self.files if file.name == name), None)


def partial_path(file: HubFile, directory: Path) -> Path:
    """Where its first bytes wait for the rest; other content has another name."""
    return directory / f"{file.name}.{(file.sha256 or file.git_id or '')[:12]}{PARTIAL_SUFFIX}"


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Hub:
    """A hub to pull from.

    Args:
        endpoint: Its address; absent: that of the client, huggingface.co or HF_ENDPOINT.
        progress_bar: What shows the progress of a file; absent: the client's own bars.
    """

    def __init__(
        self, endpoint: str | None = None, *, progress_bar: ProgressBar | None = None
    ) -> None:
        self._endpoint = endpoint or constants.ENDPOINT
        self._progress_bar = progress_bar

    def list_repository(self, repository: str, revision: str) -> Listing:
        """Ask what a repository holds at a branch, tag or commit.

        Raises:
            HubError: There is no such repository or revision, or the hub cannot be reached.
        """
        with self._told(repository, revision):
            info = HfApi(self._endpoint).model_info(
                repository, revision=revision, files_metadata=True, timeout=API_SECONDS
            )
        if info.sha is None:
            raise HubError(f"The hub names no commit of {repository} at {revision}.")
        card = info.card_data
        licence = (card.license_name or card.license) if card is not None else None
        return Listing(
            repository=repository,
            commit=info.sha,
            licence=licence if isinstance(licence, str) else None,
            files=tuple(
                HubFile(
                    name=found.rfilename,
                    size=found.size or 0,
                    sha256=found.lfs.sha256 if found.lfs is not None else None,
                    git_id=found.blob_id,
                )
                for found in info.siblings or ()
                if "/" not in found.rfilename
            ),
        )

    def fetch(self, listing: Listing, file: HubFile, directory: Path) -> Path:
        """Bring a file here, going on where an earlier attempt stopped.

        It appears under its name only when it is complete and its content is the right one. What
        is there so far stays when this fails.

        Raises:
            HubError: The hub cannot be reached, or gave something else, or the disk refuses.
        """
        target = directory / file.name
        if file.is_at(target):
            return target
        partial = partial_path(file, directory)
        with self._told(listing.repository, listing.commit), partial.open("ab") as stream:
            if stream.tell() > file.size:
                stream.truncate(0)
            self._append(listing, file, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if not file.is_at(partial):
            partial.unlink()
            raise HubError(
                f"{file.name} of {listing.repository} came with other content than the hub lists;"
                " it was thrown away, pull again."
            )
        partial.rename(target)
        return target

    def _append(self, listing: Listing, file: HubFile, stream: BinaryIO) -> None:
        """Fetch the rest of a file; while connections that break bring some bytes, open others."""
        url = hf_hub_url(
            listing.repository, file.name, revision=listing.commit, endpoint=self._endpoint
        )
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # packed, none can resume
        while True:
            start = stream.tell()
            try:
                http_get(
                    url,
                    stream,
                    resume_size=start,
                    headers=headers,
                    expected_size=file.size,
                    displayed_filename=file.name,
                    tqdm_class=self._progress_bar,  # pyright: ignore[reportArgumentType] -- may mimic one
                )
                return
            except HTTPError:
                if stream.tell() <= start:
                    raise

    @contextmanager
    def _told(self, repository: str, revision: str) -> Generator[None]:
        """Turn the errors of the hub's client into sentences."""
        login = "log in with `hf auth login`, or set HF_TOKEN"
        try:
            yield
        except GatedRepoError as error:
            raise HubError(
                f"{repository} wants its terms accepted: do so at {self._endpoint}/{repository},"
                f" {login}, and pull again."
            ) from error
        except RepositoryNotFoundError as error:
            raise HubError(
                f"The hub shows no model {repository}; check the spelling, and for a private one"
                f" {login}."
            ) from error
        except RevisionNotFoundError as error:
            raise HubError(f"{repository} has no revision {revision}.") from error
        except OfflineModeIsEnabled as error:
            raise HubError("HF_HUB_OFFLINE is set; unset it to pull a model.") from error
        except (HTTPError, OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise HubError(
                f"{repository} could not be fetched from {self._endpoint} ({reason}). Pull again:"
                " it goes on where it stopped."
            ) from error
