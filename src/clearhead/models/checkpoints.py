"""Finding a model by name and opening it: the two known ones, a folder, a GGUF file, or the hub."""

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearhead.errors import ClearheadError, first_line, in_a_sentence
from clearhead.models.converted import convert, copy_of
from clearhead.models.known import KNOWN
from clearhead.models.sentencepiece_file import check_sentencepiece
from clearhead.models.tokens import tokenizer_of_gguf
from clearhead.models.weights.gguf_file import Gguf
from clearhead.models.weights.gguf_model import is_known
from clearhead.models.weights.gguf_parts import read_parts
from clearhead.text import check_text

Report = Callable[[str], None]


@dataclass(frozen=True)
class Opened:
    """A model and its tokenizer, ready to run on the CPU in float32."""

    name: str
    model: Any
    tokenizer: Any
    context: int | None
    """How many tokens the model can take; None where its positions have no end (T5, BLOOM)."""

    @property
    def architecture(self) -> str:
        """The model's class, "LlamaForCausalLM"."""
        return type(self.model).__name__

    def inputs(self, text: str, pair: str | None = None) -> dict[str, Tensor]:
        """What the model is called with to read a text, or a pair of texts, as a batch of one.

        An encoder–decoder's encoder reads the text, and its decoder the pair's second, or else the same text.

        Raises ClearheadError if the model takes no text, or if the text is empty, longer than the context, or holds
        half a character (`check_text`).
        """
        if self.model.main_input_name != "input_ids":
            raise ClearheadError(
                f"The model '{self.name}' takes {self.model.main_input_name}, not text; "
                "watch it from Python with clearhead.watch."
            )
        for given in (text, pair) if pair is not None else (text,):
            check_text(given)
        split = self.model.config.is_encoder_decoder
        broken = f"The tokenizer of '{self.name}' cannot encode this text"
        with _quiet(), in_a_sentence(broken):  # quiet of texts that are too long, which is said better here
            inputs = self.tokenizer(text, None if split else pair, return_tensors="pt")
            if split:
                decoded = self.tokenizer(text_target=pair or text, return_tensors="pt").input_ids
                start = decoded.new_full((1, 1), self.model.config.decoder_start_token_id)
                inputs["decoder_input_ids"] = torch.cat([start, decoded[:, :-1]], 1)
        for name in ("input_ids", "decoder_input_ids"):
            tokens = inputs[name].shape[1] if name in inputs else 1
            if tokens == 0:
                raise ClearheadError("The text is empty: it has no tokens; give at least a word.")
            if self.context is not None and tokens > self.context:
                raise ClearheadError(
                    f"The text has {tokens} tokens, but '{self.name}' takes at most {self.context}; shorten the text."
                )
        return dict(inputs)


ROLES_OF_TRANSFORMERS = ("bos_token", "eos_token", "unk_token", "pad_token")


def open_model(name: str | Path = "smollm2", *, report: Report = lambda what: None) -> Opened:
    """Open the model that `name` means, with the weights in float32 and Transformers' own attention.

    `name` is one of `KNOWN`, a folder that Transformers wrote, a `.gguf` file, or a name on the hub. A GGUF
    file is converted once and kept in the cache folder; `report` is told what is being done. The tokenizer reads as
    that of `clearhead.models.load` does.

    Raises ClearheadError, in one sentence, if there is no such model or it cannot be opened.

    >>> import clearhead as ch
    >>> opened = ch.open_model("minilm")
    >>> opened.architecture, opened.context, opened.tokenizer.tokenize("a ½ cup")
    ('BertModel', 512, ['a', '½', 'cup'])
    """
    name = str(name)
    source = find(name)
    with _quiet():
        if isinstance(source, str):
            report(f"asking the hub for {name}")
            local = only_local(name)
            report(f"opening {name}")
            with _one_sentence(name):
                _check(source, local_files_only=local)
                model, tokenizer = _load(source, local_files_only=local)
        elif source.is_dir():
            report(f"opening {name}")
            with _one_sentence(name):
                _check(source)
                model, tokenizer = _load(source)
        else:
            model, tokenizer = _from_gguf(source, name, report)
    return Opened(name, model, tokenizer, _context(model.config, tokenizer))


def find(name: str) -> Path | str:
    """The folder or file that `name` means, or the name itself where only the hub can know it."""
    if name in KNOWN:
        path = KNOWN[name].path
        if path is None:
            raise ClearheadError(f"The model '{name}' is not installed; get it with: {KNOWN[name].install}.")
        return path
    path = Path(name).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        raise ClearheadError(
            f"'{name}' is a file but no .gguf file; name a .gguf file or the folder that holds config.json."
        )
    if path.is_dir() and not (path / "config.json").exists():
        raise ClearheadError(
            f"The folder '{name}' holds no config.json, so it is no Transformers model; "
            "name a folder that save_pretrained wrote, or a .gguf file."
        )
    if path.exists():
        return path
    if name.startswith((".", "/", "~")) or path.suffix == ".gguf":
        raise not_found(name, "there is no such file or folder")
    return name


def not_found(name: str, why: str) -> ClearheadError:
    """The sentence for a name that means no model, with all that it could have been."""
    known = ", ".join(f"{known} ({'installed' if model.path else model.install})" for known, model in KNOWN.items())
    return ClearheadError(
        f"No model '{name}' was found: {why}; expected one of {known}, a folder that save_pretrained wrote, "
        "a .gguf file, or a name on the hub."
    )


def only_local(name: str) -> bool:
    """True if the hub cannot be reached but an earlier download is there to be opened.

    Raises ClearheadError if there is none either, and as `unreachable` does.
    """
    import huggingface_hub

    reason = unreachable(name)
    if reason and not isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
        raise not_found(name, reason)
    return reason is not None


def unreachable(name: str) -> str | None:
    """Why the hub cannot be asked for a model, or None if it can.

    It is asked once, so that a wrong name or a missing network shows at once, not after many retries.

    Raises ClearheadError if the hub has no such model, or does not give it to everybody.
    """
    import huggingface_hub

    try:
        with refusals(name):
            huggingface_hub.HfApi().model_info(name, timeout=10)
    except ClearheadError:
        raise
    except Exception as error:  # noqa: BLE001 - whichever HTTP library the hub's client stands on, with errors of its own
        return f"it is no file or folder here, and the hub cannot be reached ({first_line(error)})"
    return None


@contextlib.contextmanager
def refusals(name: str) -> Iterator[None]:
    """What the hub has against a name, as a sentence; other errors are left to the caller."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise not_found(name, "it is no file or folder here, nor can it be a name on the hub") from error
    except GatedRepoError as error:
        raise ClearheadError(
            f"The model '{name}' is given only to those who accept its licence; ask for access at "
            f"https://huggingface.co/{name}, then log in with: hf auth login."
        ) from error
    except RepositoryNotFoundError as error:
        raise not_found(
            name,
            "it is no file or folder here, and the hub has none of that name, or a private one, for which to log in "
            "with: hf auth login",
        ) from error


def _check(source: Path | str, *, local_files_only: bool = False) -> None:
    """Raises ClearheadError for a file of which no model or tokenizer can be made, before Transformers reads it."""
    from clearhead.models.fields import GenerationConfig, ModelConfig, read_json
    from clearhead.models.tokenizer_fields import TokenizerConfig, TokenizerFile, Vocabulary

    def found(name: str) -> Path | None:
        where = {"_raise_exceptions_for_missing_entries": False, "local_files_only": local_files_only}
        file = _transformers().utils.cached_file(source, name, **where)
        return None if file is None else Path(file)

    schemas: dict[str, type[Any]] = {
        "config.json": ModelConfig,
        "generation_config.json": GenerationConfig,
        "tokenizer_config.json": TokenizerConfig,
        "special_tokens_map.json": TokenizerConfig,
        "added_tokens.json": Vocabulary,
        "tokenizer.json": TokenizerFile,
    }
    for name, schema in schemas.items():
        if file := found(name):
            read_json(file, schema)
    for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm"):
        if file := found(name):
            check_sentencepiece(file)


def _load(source: Path | str, **kwargs: Any) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    return _model(source, **kwargs), _tokenizer(source, **kwargs)


def _model(source: Path | str, **kwargs: Any) -> Any:
    """The model, as the class that its config names."""
    transformers = _transformers()
    config = transformers.AutoConfig.from_pretrained(source, **kwargs)
    architecture = (config.architectures or ["AutoModel"])[0]
    kind = getattr(transformers, architecture, transformers.AutoModel)
    model, loading = kind.from_pretrained(
        source, config=config, dtype=torch.float32, output_loading_info=True, **kwargs
    )
    if missing := sorted(loading["missing_keys"]):
        warnings.warn(
            f"{len(missing)} of the weights of {architecture} are not in {source} and were made at random: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}.",
            stacklevel=2,
        )
    return model.eval()


def _tokenizer(source: Path | str, **kwargs: Any) -> Any:
    """The tokenizer that tokenizer.json describes, where there is one, with the names of inputs that its class has.

    Transformers 5 builds some classes anew from the vocabulary alone, and leaves out how tokenizer.json cuts a text:
    with GPT2Tokenizer, which SmolLM2 names, digits are no longer taken one by one.
    """
    transformers = _transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **kwargs)
    local = {"local_files_only": kwargs.get("local_files_only", False)}
    file = transformers.utils.cached_file(
        source, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **local
    )
    if file is None or not tokenizer.is_fast:
        return tokenizer
    names = {"model_input_names": tokenizer.model_input_names}
    return transformers.PreTrainedTokenizerFast.from_pretrained(source, **names, **kwargs)


def _from_gguf(file: Path, name: str, report: Report) -> tuple[Any, Any]:
    """The model in a GGUF file, from its copy in the cache, made if it is missing or broken, and its tokenizer.

    The tokenizer is made of the file each time: it is the one that `clearhead.models.load` gives.
    """
    gguf = read_parts(file)
    folder = copy_of(file, gguf)
    if folder.is_dir():
        report(f"opening {name}")
        os.utime(folder)
        try:
            return _model(folder), _gguf_tokenizer(file, gguf, folder)
        except ClearheadError:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged file fails in as many ways as there are parsers
            report(f"the copy in {folder} is broken ({first_line(error)}), so it is made again")
            shutil.rmtree(folder, ignore_errors=True)
    report(f"converting {name}, this once")
    with _one_sentence(name):
        convert(file, gguf, folder)
    report(f"opening {name}")
    with _one_sentence(name):
        return _model(folder), _gguf_tokenizer(file, gguf, folder)


def _gguf_tokenizer(file: Path, gguf: Gguf, folder: Path) -> Any:
    """The file's tokenizer, as Transformers has tokenizers; of an architecture that Transformers converted, its own."""
    if not is_known(gguf):
        return _transformers().AutoTokenizer.from_pretrained(folder)
    tokenizer = tokenizer_of_gguf(file, gguf.metadata)
    if tokenizer is None:
        raise ClearheadError(f"The file '{file}' holds no tokenizer, so its model reads no text; get another.")
    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend,
        chat_template=tokenizer.template,
        **{role: tokenizer.special[role] for role in ROLES_OF_TRANSFORMERS if role in tokenizer.special},
    )


def _context(config: Any, tokenizer: Any) -> int | None:
    positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else min(positions, tokenizer.model_max_length)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ClearheadError("Opening a model needs Transformers; get it with: pip install 'clearhead[hf]'.") from error
    return transformers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Transformers says nothing and draws no bars meanwhile."""
    logging = _transformers().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _one_sentence(name: str) -> AbstractContextManager[None]:
    """Whatever Transformers raises on a model that it cannot open, as one sentence."""
    return in_a_sentence(f"The model '{name}' cannot be opened", ".")
