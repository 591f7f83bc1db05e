"""Text: what a tokenizer can read is Unicode that UTF-8 can write, without half characters."""

from clearhead.errors import ClearheadError


def check_text(text: object, name: str = "The text") -> str:
    r"""The text itself, if it is one that every tokenizer can read; `name` begins the error's sentence.

    Python's strings may hold surrogates, halves of a character that UTF-8 cannot write: from JSON, from cutting
    UTF-16, or from bytes of a command line or file name that are not UTF-8 (PEP 383). `str.encode` refuses them, and so
    do tokenizers, with a TypeError that does not name the fault.

    Raises ClearheadError for a string with a surrogate, and for what is no string.

    >>> check_text("a ½ cup")
    'a ½ cup'
    >>> check_text("x \udcff y")
    Traceback (most recent call last):
    clearhead.errors.ClearheadError: The text is not valid Unicode: its character 2 is the byte 0xff, ...
    """
    if not isinstance(text, str):
        raise ClearheadError(f"{name} is {type(text).__name__} ({str(text)[:40]!r}); expected a string.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        fault = (
            f"the byte {code - 0xDC00:#04x}, which is not UTF-8; convert the text to UTF-8 first"
            if 0xDC80 <= code <= 0xDCFF  # as Python decodes a byte of the command line that is not UTF-8
            else f"U+{code:04X}, half of a surrogate pair; replace it, or decode the text as UTF-16 first"
        )
        raise ClearheadError(f"{name} is not valid Unicode: its character {error.start} is {fault}.") from error
    return text
