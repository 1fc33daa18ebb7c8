"""The tokenizer: CLIP's, with a vocabulary in which each word of the shapes world is one token."""

from collections import Counter
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from evosearch.shapes import COLOURS, COUNTS, RELATIONS, SHAPES

TOKENS = 32
END = "</w>"
WORDS = (
    ",",
    "and",
    *COUNTS,
    *COLOURS,
    *SHAPES,
    *(f"{shape}s" for shape in SHAPES),
    *dict.fromkeys(word for relation in RELATIONS for word in relation.split()),
)


def tokenizer() -> CLIPTokenizer:
    """A tokenizer that knows the world's words whole, and all others by their bytes; always the same."""
    merges = _merges()
    letters = sorted(ByteLevel.alphabet())
    tokens = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(letter + END for letter in letters),
        *map("".join, merges),
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def encode(vocabulary: CLIPTokenizer, captions: list[str]) -> list[list[int]]:
    """Token numbers of each caption, padded as the pipeline does."""
    return vocabulary(captions, padding="max_length", max_length=TOKENS, truncation=True).input_ids


def _merges() -> list[tuple[str, str]]:
    """Byte-pair encoding of the words, down to one token each.

    The `tokenizers` library breaks ties between pairs differently in each process; here the alphabet decides.
    """
    splits = [[*word[:-1], word[-1] + END] for word in WORDS]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for parts in splits for pair in pairwise(parts)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        splits = [_merge(parts, best) for parts in splits]
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged
