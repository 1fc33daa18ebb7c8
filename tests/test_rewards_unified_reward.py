"""UnifiedReward: what a small Qwen-VL writes, and what is read in it."""

import math
from itertools import pairwise

import pytest
import torch
from tiny_clip import picture, to_samples
from tiny_qwen_vl import folder, given, qwen2_5, tokenizer

from evosearch import rewards
from evosearch.rewards.unified_reward import UnifiedReward, looked_at, read

LINES = {
    "Alignment": "Alignment Score (1-5): 2.5\n",
    "Coherence": "Coherence Score (1-5): 4\n",
    "Physics": "Physics Score (1-5): 1.25\n",
    "Style": "Style Score (1-5): 1.0\n",
    "Final": "Final Score: 3.5\n",
}
PROMPTS = ["a red circle", "two blue stars and a green square of a much longer prompt", "a cat"]
QUESTION = (
    "You are presented with a generated image and its associated text caption. Your task is to analyze the image "
    "across multiple dimensions in relation to the caption. Specifically:\nProvide overall assessments for the image "
    "along the following axes (each rated from 1 to 5):\n- Alignment Score: How well the image matches the caption in "
    "terms of content.\n- Coherence Score: How logically consistent the image is (absence of visual glitches, object "
    "distortions, etc.).\n- Style Score: How aesthetically appealing the image looks, regardless of caption "
    "accuracy.\n\nOutput your evaluation using the format below:\n\nAlignment Score (1-5): X\n"
    "Coherence Score (1-5): Y\nStyle Score (1-5): Z\n\nYour task is provided as follows:\nText Caption: [{}]"
)
WORDS = tokenizer(QUESTION, *PROMPTS)


def talker(lines):
    """A Qwen-VL that answers with these lines, whatever it is shown: each is one word, which leads to the next."""
    words = tokenizer(QUESTION, *PROMPTS)
    words.add_tokens(list(lines))
    (newline,) = words("\n")["input_ids"]
    chain = [newline, *map(words.convert_tokens_to_ids, lines), words.eos_token_id]
    model = qwen2_5(words, num_hidden_layers=1)
    with torch.no_grad():
        for name, weight in model.model.language_model.named_parameters():
            weight.fill_(float("norm" in name))  # nothing is added to a word's own embedding
        model.lm_head.weight.zero_()
        for place, (now, then) in enumerate(pairwise(chain)):
            model.model.language_model.embed_tokens.weight[now, place] = 1
            model.lm_head.weight[then, place] = 1
    return model, words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("talker"), *talker(LINES.values()))


def reward(place, **options):
    return UnifiedReward(place, dtype=torch.float32, device="cpu", **options)


def samples(count=3):
    return to_samples(*(picture(40, 60, seed) for seed in range(count)))


@pytest.mark.parametrize(
    ("dimension", "picture", "video"),
    [
        ("mean", (2.5 + 4 + 1) / 3, (2.5 + 1.25 + 1) / 3),
        ("alignment", 2.5, 2.5),
        ("coherence", 4, 1.25),
        ("style", 1, 1),
    ],
)
def test_the_marks_are_read_out_of_the_answer(place, dimension, picture, video):
    score = reward(place, dimension=dimension)
    assert score(samples(), PROMPTS).tolist() == pytest.approx([picture] * 3)
    assert score(samples(6).unflatten(0, (2, 3)), PROMPTS[:2]).tolist() == pytest.approx([video] * 2)


def test_version_1_has_one_mark_and_knows_no_video(place):
    score = reward(place, dimension="final")
    assert score(samples(), PROMPTS).tolist() == [3.5] * 3
    with pytest.raises(ValueError, match=r"^dimension final of unified_reward is of pictures"):
        score(samples()[None], ["a cat"])
    with pytest.raises(ValueError, match=r"^dimension final"):
        score.check("a cat", video=True)
    assert rewards.check(score, "a cat", video=False) is None


def test_an_answer_that_is_cut_off_is_no_score(place):
    assert reward(place, max_tokens=5)(samples(), PROMPTS).isnan().all()
    assert reward(place, max_tokens=6)(samples(), PROMPTS).isfinite().all()  # with the mark that ends it


def test_an_answer_without_a_mark_is_no_score(tmp_path):
    said = [LINES["Alignment"], LINES["Coherence"], "Style is fine.\n"]
    place = folder(tmp_path, *talker(said))
    assert reward(place)(samples(), PROMPTS).isnan().all()
    assert reward(place, dimension="coherence")(samples(), PROMPTS).tolist() == [4] * 3


def test_a_sample_that_is_not_finite_has_no_score(place):
    shown = samples()
    shown[1, 0, 0, 0] = torch.nan
    assert reward(place)(shown, PROMPTS).isnan().tolist() == [False, True, False]
    assert reward(place)(shown[:0], []).shape == (0,)


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    model = qwen2_5(WORDS)
    return model, folder(tmp_path_factory.mktemp("random"), model, WORDS)


def test_a_batch_is_answered_as_each_one_alone(random):
    """By a model that says what comes to its mind, of picture and prompt."""
    model, place = random
    images = [picture(40, 60, seed) for seed in range(3)]
    alone = []
    for image, prompt in zip(images, PROMPTS, strict=True):
        asked = given(WORDS, QUESTION.format(prompt), image)
        made = model.generate(**asked, max_new_tokens=6, do_sample=False)
        alone.append(WORDS.decode(made[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
    assert len({*alone}) == 3  # else anything would do
    score, made = reward(place, max_tokens=6), []
    generate = score.weights().model.generate
    score.weights().model.generate = lambda **inputs: made.append(generate(**inputs)) or made[-1]
    assert score(to_samples(*images), PROMPTS).isnan().all()  # no mark in all that
    (together,) = made
    assert WORDS.batch_decode(together[:, -6:], skip_special_tokens=True) == alone


def test_a_batch_is_bounded_and_shown_at_once(place):
    sizes = []
    score = reward(place, batch_size=2)
    own = score._answers
    score._answers = lambda inputs: sizes.append(len(inputs["input_ids"])) or own(inputs)
    score(samples(), PROMPTS)
    assert sizes == [2, 1]


def test_a_video_is_shown_by_eight_frames_in_one_message(place):
    shown = []
    score = reward(place)
    own = score._answers
    score._answers = lambda inputs: shown.append(inputs) or own(inputs)
    video = torch.rand(1, 20, 3, 40, 60)
    score(video, ["a cat"])
    assert len(shown[0]["image_grid_thw"]) == 8
    expected = score.weights().inputs(video[:, [0, 2, 5, 7, 10, 12, 15, 17]], "", [""])
    assert torch.equal(shown[0]["pixel_values"], expected["pixel_values"])
    assert looked_at(20) == [0, 2, 5, 7, 10, 12, 15, 17] and looked_at(1) == [0]


GOOD = {
    "Final Score: 4": 4.0,
    "final score:3.75": 3.75,
    "apple (object): 1\ncolour (attribute): 0\nFinal Score: 2": 2.0,
    "**Final Score:** 4.5": 4.5,
    "**Final Score**: 4.5.": 4.5,
    "Final Score (1-5): 2.694700002670288\n": 2.694700002670288,
    "Final Score (1 \u2013 5) = 2": 2.0,
    "Final Score: 4/5": 4.0,
    "Final Score: 4 out of 5": 4.0,
    "Final Score: 3\nFinal Score: 3.0": 3.0,
}
BAD = [
    "", "4", "Final: 4", "Score: 4", "Final Score", "Final Score:", "Final Score: X", "Final Score (1-5):",
    "Final Score: 0", "Final Score: 0.9", "Final Score: 5.1", "Final Score: 6", "Final Score: 44", "Final Score: -4",
    "Final Score: 80%", "Final Score: 4%", "Final Score: 1-5", "Final Score: 4e1", "Final Score: nan",
    "Final Score: 3\nFinal Score: 4", "Semifinal Score: 4", "Final Score: 3.4.5", "Final Score: four",
]  # fmt: skip


@pytest.mark.parametrize("answer", GOOD)
def test_what_is_certain_is_read(answer):
    assert read(answer, ["Final"]) == GOOD[answer]


@pytest.mark.parametrize("answer", BAD)
def test_what_is_not_is_no_score_and_never_0(answer):
    assert math.isnan(read(answer, ["Final"]))


def test_the_mean_wants_all_of_its_marks():
    assert read("".join(LINES.values()), ["Alignment", "Coherence", "Style"]) == pytest.approx(2.5)
    assert math.isnan(read(LINES["Alignment"] + LINES["Style"], ["Alignment", "Coherence", "Style"]))


def test_the_question_is_the_published_one(place):
    score = reward(place)
    asked = []
    score.weights().judged = lambda judge, shown, *said: asked.append(said) or torch.zeros(len(shown))
    score(samples(), PROMPTS)
    assert asked == [(QUESTION, PROMPTS)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dimension": "physics"},
            "^dimension must be one of mean, alignment, coherence, style, final, got 'physics'$",
        ),
        ({"max_tokens": 0}, "^max_tokens must be at least 1, got 0$"),
        ({"batch_size": 0}, "^batch_size must be at least 1, got 0$"),
    ],
)
def test_wrong_arguments_are_refused(place, options, message):
    with pytest.raises(ValueError, match=message):
        reward(place, **options)


def test_it_is_known_by_name_and_says_what_it_lacks():
    with pytest.raises(
        ValueError, match=r"^config.json of model 'CodeGoat24/UnifiedReward-2.0-qwen-7b' cannot be had: .*; check"
    ):
        rewards.load("unified-reward")
