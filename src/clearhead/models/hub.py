"""The hub: which of a repository's files a model needs, and where they lie once they are here."""

import re
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import only_local

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""The first that a repository has is fetched: a pickle only where there is nothing else."""
BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "*.spm")
"""The config and the tokenizer."""


def downloaded(name: str) -> Path:
    """The folder of a model on the hub, or its `.gguf` file; the hub is asked for what isn't here yet.

    `name` is a repository, "owner/model", or with a quantisation of which it has a GGUF file, "owner/model:Q4_K_M".

    Raises ClearheadError, in one sentence, if there is no such repository or it holds no such weights.
    """
    import huggingface_hub

    repository, _, quantisation = name.partition(":")
    if only_local(repository):
        folder = Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
        files = [file.relative_to(folder).as_posix() for file in folder.rglob("*")]
        wanted = _wanted(repository, quantisation, files)
    else:
        wanted = _wanted(repository, quantisation, huggingface_hub.list_repo_files(repository))
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted))
    return folder / wanted[0] if quantisation else folder


def _wanted(repository: str, quantisation: str, files: list[str]) -> list[str]:
    """The names of the files to fetch, of a split GGUF file the first part first."""
    ggufs = sorted(file for file in files if file.endswith(".gguf"))
    if quantisation:
        return _of_quantisation(repository, quantisation, ggufs)
    top = [file for file in files if "/" not in file]
    weights = next((found for pattern in WEIGHTS if (found := [f for f in top if fnmatchcase(f, pattern)])), None)
    if weights is None:
        instead = f" Name one of its GGUF files by its quantisation, as in '{repository}:Q4_K_M': " if ggufs else ""
        raise ClearheadError(
            f"The repository '{repository}' holds no weights that Clearhead reads; expected "
            f"{' or '.join(WEIGHTS)}.{instead}{', '.join(ggufs)}"
        )
    return [*weights, *(file for file in top if any(fnmatchcase(file, pattern) for pattern in BESIDE))]


def _of_quantisation(repository: str, quantisation: str, ggufs: list[str]) -> list[str]:
    """The one GGUF file that names this quantisation, or all parts that it is split into."""
    pattern = re.compile(rf"(^|[-./]){re.escape(quantisation)}([-./]|$)", re.IGNORECASE)
    models: dict[str, list[str]] = {}
    for file in ggufs:
        whole = re.sub(r"-\d{5}-of-\d{5}$", "", file.removesuffix(".gguf"))
        if pattern.search(whole) and not PurePosixPath(file).name.startswith("mmproj"):  # which is another's eyes
            models.setdefault(whole, []).append(file)
    if len(models) != 1:
        raise ClearheadError(
            f"The repository '{repository}' has {len(models)} GGUF files of quantisation {quantisation!r}; expected "
            f"one of: {', '.join(models) or ', '.join(ggufs) or 'some'}."
        )
    (parts,) = models.values()
    return parts
