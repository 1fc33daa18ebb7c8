"""VideoScore2 against its authors' formula, on a small model that is pushed to answer."""

import math

import pytest
import tiny_qwen
import tiny_videos
import torch
from tiny_qwen import clip, prepared
from tiny_videos import ANSWER, THINKING
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from evosearch import rewards
from evosearch.rewards import video_score2
from evosearch.rewards.video_score2 import VideoScore2

PROMPTS = ["a red circle moves to the left", "two blue stars", "", "a dog runs on the beach"]
MOST = 768 * 28 * 28
TEMPERATURE = 0.7
NAMES = ("visual quality", "text-to-video alignment", "physical/common-sense consistency")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("video_score2")


@pytest.fixture(scope="module")
def score(folder):
    return tiny_videos.video_score2(folder)


def published(folder, videos, prompts, rate=16, expected=False):
    """The three scores of each video, one at a time, by the plain model."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    words = Qwen2Tokenizer.from_pretrained(folder)
    ratings = words.convert_tokens_to_ids(list("12345"))
    pad = words.convert_tokens_to_ids("<|video_pad|>")
    scores = []
    for video, prompt in zip(videos, prompts, strict=True):
        rows, grid = prepared(video, rate, MOST, whole=math.floor)
        ids = words(tiny_qwen.text_of(THINKING.format(prompt), len(rows) // 4), return_tensors="pt")["input_ids"]
        found = model.generate(
            ids, pixel_values_videos=rows, video_grid_thw=grid, second_per_grid_ts=torch.ones(1),
            mm_token_type_ids=2 * (ids == pad).int(), max_new_tokens=60, do_sample=False, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        written = found.sequences[0, ids.shape[1] :].tolist()
        row = []
        for name in NAMES:
            said = (words.decode(written[:k]).rstrip().endswith(f"{name}:") for k in range(len(written)))
            place = next(k for k, named in enumerate(said) if named and written[k] in ratings)
            likely = (found.scores[place][0] / TEMPERATURE).softmax(-1)[ratings]
            mean = sum((k + 1) * share for k, share in enumerate(likely / likely.sum()))
            row.append(mean if expected else (likely.argmax() + 1) * likely.max() / likely.sum())
        scores.append(row)
    return torch.tensor(scores)


@pytest.mark.parametrize("size", [(5, 56, 60), (2, 330, 400)])
def test_it_is_the_published_formula_for_videos_of_a_batch(folder, score, size):
    videos = torch.stack([clip(*size, seed) for seed in range(2)])
    expected = published(folder, videos, PROMPTS[:2])
    assert (expected > 0.2).all() and (expected < 4.9).all() and expected.std() > 0.01  # else anything would do
    assert torch.allclose(score.rated(videos, PROMPTS[:2]), expected, atol=0.01)
    assert torch.allclose(score(videos, PROMPTS[:2]), expected.mean(1), atol=0.01)


def test_the_mean_of_the_ratings_may_be_asked_for(folder):
    videos = torch.stack([clip(5, 56, 60, seed) for seed in range(2)])
    expected = published(folder, videos, PROMPTS[:2], expected=True)
    assert torch.allclose(
        tiny_videos.video_score2(folder, variant="expected").rated(videos, PROMPTS[:2]), expected, atol=0.01
    )


def test_frames_are_chosen_by_the_videos_frame_rate(folder, score):
    videos = clip(61, 40, 40)[None]
    expected = published(folder, videos, PROMPTS[:1], rate=24)
    assert torch.allclose(score.at_frame_rate(24).rated(videos, PROMPTS[:1]), expected, atol=0.01)


def read(score, text):
    """What is read from a text whose k-th digit was the likeliest with a share of 0.5 + k / 100 among the five."""
    tokens = score._qwen.tokenizer(text)["input_ids"]
    logits, count = torch.zeros(len(tokens), 5), 0
    for place, token in enumerate(tokens):
        if (digit := score._qwen.tokenizer.decode(token)) in "12345":
            share = 0.5 + count / 100
            logits[place] = TEMPERATURE * math.log((1 - share) / 4)
            logits[place, int(digit) - 1] = TEMPERATURE * math.log(share)
            count += 1
    return score._read(tokens, logits)


LISTED = """<think>Its visual quality: 2 at first sight, its text-to-video alignment: 5.</think>
(1) visual quality \u2013 clarity, smoothness, artifacts: 3
(2) text-to-video alignment \u2013 fidelity to the prompt: **4**
(3) Physical/common-sense consistency \u2013 naturalness: 1"""


def test_ratings_are_found_in_the_answer_whatever_its_form(score):
    plain = read(score, ANSWER.format(3, 4, 1))
    assert torch.allclose(plain, torch.tensor([3 * 0.50, 4 * 0.51, 1 * 0.52]), atol=1e-4)
    listed = read(score, LISTED)  # digits of the thoughts and of the list count, too
    assert torch.allclose(listed, torch.tensor([3 * 0.53, 4 * 0.55, 1 * 0.57]), atol=1e-4)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("visual quality: good;\ntext-to-video alignment: 4,\n", [False, True, False]),
        ("visual quality\n3: text-to-video alignment is 4", [False, False, False]),
        ("", [False, False, False]),
    ],
)
def test_what_is_not_rated_is_nan(score, text, known):
    assert (~read(score, text).isnan()).tolist() == known


def test_a_video_of_which_too_little_is_written_is_nan(folder):
    videos = torch.stack([clip(2, 40, 40)])
    assert tiny_videos.video_score2(folder, most_tokens=3)(videos, PROMPTS[:1]).isnan().all()


def test_each_part_can_be_asked_for_alone(score):
    videos = torch.stack([clip(2, 40, 40, seed) for seed in range(2)])
    parts = score.rated(videos, PROMPTS[:2])
    for k, name in enumerate(("VQ", "TA", "PC")):
        assert torch.equal(score.only(name)(videos, PROMPTS[:2]), parts[:, k])
        assert rewards.name_of(score.only(name)) == f"video_score2 {name}"


def test_wrong_arguments_are_refused(folder):
    for option, value, message in (
        ("variant", "soft", "variant must be one of published, expected, got 'soft'"),
        ("dimension", "MQ", "dimension must be one of Overall, VQ, TA, PC, got 'MQ'"),
        ("most_tokens", 0, "most_tokens must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            tiny_videos.video_score2(folder, **{option: value})


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path)
    Qwen2Tokenizer(vocab={letter: k for k, letter in enumerate("12345")}, merges=[]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^tokenizer must know <\|video_pad\|> as word \d+, as the model does"):
        VideoScore2(tmp_path).weights()


def test_the_question_is_that_of_the_models_card():
    assert video_score2._QUESTION == THINKING
