"""The tokenizers that there are, by the setting `tokenizer`, and vocabulary.json."""

from pysft.errors import UsageError
from pysft.text.tokenizer import CharTokenizer, Tokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {t.kind: t for t in (CharTokenizer,)}


def vocabulary_of(kind: str, text: str) -> Tokenizer:
    """The tokenizer of a kind, with the vocabulary of a corpus."""
    return TOKENIZERS[kind].of(text)


def vocabulary_to_json(tokenizer: Tokenizer) -> dict:
    """A tokenizer as the JSON object of vocabulary.json."""
    return {"kind": tokenizer.kind, **tokenizer.to_json()}


def vocabulary_from_json(data: dict) -> Tokenizer:
    """The tokenizer of vocabulary.json. A file without a kind is one of characters, as all were
    before there were others. A UsageError if this version does not know the kind."""
    kind = data.get("kind", CharTokenizer.kind)
    if kind not in TOKENIZERS:
        raise UsageError(f"a vocabulary of {kind!r}; this version knows {', '.join(TOKENIZERS)}")
    return TOKENIZERS[kind].from_json(data)
