"""The hub: which of a repository's files a model needs, and where they lie once they are here."""

import contextlib
import errno
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from clearhead.errors import ClearheadError, first_line
from clearhead.models.checkpoints import not_found, refusals, unreachable

WEIGHTS = {"model": ".safetensors", "pytorch_model": ".bin"}
"""The first that a repository has, whole or in parts, is fetched: a pickle only where there is nothing else."""
BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "*.spm")
"""The config and the tokenizer."""


def downloaded(name: str) -> Path:
    """The folder of a model on the hub, or its `.gguf` file; the hub is asked for what isn't here yet.

    `name` is a repository, "owner/model", or with a quantisation of which it has a GGUF file, "owner/model:Q4_K_M".
    Where the hub cannot be reached, what was fetched before is taken.

    Raises ClearheadError, in one sentence, if there is no such repository, it holds no such weights, or they cannot be
    fetched.
    """
    import huggingface_hub

    repository, _, quantisation = name.partition(":")
    reason = unreachable(repository)
    if reason:
        folder = _fetched(repository, reason)
        files = [file.relative_to(folder).as_posix() for file in folder.rglob("*")]
        where = f"The hub cannot be reached, and what was fetched before of '{repository}'"
        wanted = _wanted(repository, quantisation, files, where)
    else:
        with _fetching(repository):
            files = huggingface_hub.list_repo_files(repository)
            wanted = _wanted(repository, quantisation, files, f"The repository '{repository}'")
            folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted))
    return folder / wanted[0] if quantisation else folder


def _fetched(repository: str, reason: str) -> Path:
    """The folder of what was fetched before. It is seldom the whole repository, of which the hub's client complains."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError as error:
        folder = getattr(error, "snapshot_path", None)
        if folder is None:
            raise not_found(repository, reason) from error
        return Path(folder)


@contextlib.contextmanager
def _fetching(repository: str) -> Iterator[None]:
    """Whatever goes wrong while files come, as one sentence."""
    try:
        with refusals(repository):
            yield
    except ClearheadError:
        raise
    except Exception as error:  # whichever HTTP library the hub's client stands on, with errors of its own
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "make room, or set HF_HOME to a folder that has it" if full else "try again: what has come is kept"
        raise ClearheadError(
            f"The files of '{repository}' cannot be fetched from the hub ({first_line(error).rstrip('.')}); {mend}."
        ) from error


def _wanted(repository: str, quantisation: str, files: list[str], where: str) -> list[str]:
    """The names of the files to fetch, of a split GGUF file the first part first; `where` begins a complaint."""
    ggufs = sorted(file for file in files if file.endswith(".gguf") and "mmproj" not in file.lower())  # another's eyes
    if quantisation:
        return _of_quantisation(repository, quantisation, ggufs, where)
    top = [file for file in files if "/" not in file]
    weights = next((found for name, ending in WEIGHTS.items() if (found := _whole_or_parts(name, ending, top))), None)
    if weights is None:
        instead = f" Name one of its GGUF files by its quantisation, as in '{repository}:Q4_K_M': " if ggufs else ""
        expected = " or ".join(f"{name}{ending}, whole or in parts" for name, ending in WEIGHTS.items())
        raise ClearheadError(
            f"{where} holds no weights that Clearhead reads; expected {expected}.{instead}{', '.join(ggufs)}"
        )
    return [*weights, *(file for file in top if any(fnmatchcase(file, pattern) for pattern in BESIDE))]


def _whole_or_parts(name: str, ending: str, files: list[str]) -> list[str]:
    """The file of this name, or those that it was split into."""
    if name + ending in files:
        return [name + ending]
    return sorted(file for file in files if re.fullmatch(rf"{re.escape(name)}-\d+-of-\d+{re.escape(ending)}", file))


def _of_quantisation(repository: str, quantisation: str, ggufs: list[str], where: str) -> list[str]:
    """The one GGUF file that names this quantisation, or all parts that it is split into."""
    if not ggufs:
        raise ClearheadError(
            f"{where} has no GGUF files, of quantisation {quantisation!r} or another; for other weights name it "
            f"'{repository}'."
        )
    pattern = re.compile(rf"(^|[-./]){re.escape(quantisation)}([-./]|$)", re.IGNORECASE)
    models = {re.sub(r"-\d{5}-of-\d{5}$", "", file.removesuffix(".gguf")) for file in ggufs}
    named = sorted(model for model in models if pattern.search(model))
    if len(named) != 1:
        raise ClearheadError(
            f"{where} has {len(named)} GGUF files of quantisation {quantisation!r}; expected "
            f"one of: {', '.join(named or ggufs)}."
        )
    return _whole_or_parts(named[0], ".gguf", ggufs)
