"""Tokenizers in the formats of CLIP and T5, to which each word of the shapes world is one token."""

import string
from collections import Counter
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, PreTrainedTokenizerBase, T5Tokenizer

from evosearch.shapes import COLOURS, COUNTS, MOTIONS, RELATIONS, SHAPES

TOKENS = 32
T5_TOKENS = 24  # as many as the longest caption of a clip has; of a picture, 18
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
MOTION_WORDS = ("move", "stay", *dict.fromkeys(word for motion in MOTIONS for word in motion.split()))
"""What captions of clips say besides; words of their own, since the numbers of the others are in trained models."""


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


def clip_text(width: int, layers: int, expansion: int = 4) -> dict[str, int]:
    """Configuration of a CLIP text model that reads this vocabulary."""
    vocabulary = tokenizer()
    return {
        "vocab_size": len(vocabulary),
        "hidden_size": width,
        "intermediate_size": expansion * width,
        "projection_dim": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": TOKENS,
        "bos_token_id": vocabulary.bos_token_id,
        "eos_token_id": vocabulary.eos_token_id,
        "pad_token_id": vocabulary.pad_token_id,
    }


def t5_tokenizer(known: tuple[str, ...] = WORDS) -> T5Tokenizer:
    """The same in the format of T5: known words whole, all others by their letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [("," if word == "," else f"▁{word}", -1.0) for word in known]
    # A word whole beats the sum of its letters.
    pieces = {piece for piece, _ in words}
    letters = [(letter, -10.0) for letter in ("▁", *string.ascii_lowercase, *string.digits, *".'-")]
    letters = [(piece, score) for piece, score in letters if piece not in pieces]
    return T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=0, model_max_length=T5_TOKENS)


def encode(vocabulary: PreTrainedTokenizerBase, captions: list[str]) -> list[list[int]]:
    """Token numbers of each caption, padded as the pipeline does."""
    return vocabulary(captions, padding="max_length", truncation=True).input_ids


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
