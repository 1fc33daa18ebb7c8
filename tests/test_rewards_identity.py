"""The rewards by Qwen-VLs are known by all that their scores depend on, and by nothing else."""

import pytest
import tiny_qwen_vl
import tiny_videos
import torch
from test_rewards_hps_v3 import save, weights

from evosearch.rewards.hps_v3 import HpsV3
from evosearch.rewards.unified_reward import UnifiedReward
from evosearch.rewards.vqa_score import VqaScore

WORDS = tiny_qwen_vl.tokenizer("a cat")
HALF = {"dtype": torch.bfloat16}


def vqa_score(folder, **options):
    return VqaScore(tiny_qwen_vl.folder(folder, tiny_qwen_vl.qwen2_5(WORDS), WORDS), dtype=torch.float32, **options)


def unified_reward(folder, **options):
    return UnifiedReward(tiny_qwen_vl.folder(folder, tiny_qwen_vl.qwen2(WORDS), WORDS), dtype=torch.float32, **options)


def hps_v3(folder, **options):
    return HpsV3(save(folder, weights()), folder, **{"dtype": torch.float32, **options})


MADE = {
    "vqa_score": (vqa_score, [{"variant": "yes_no"}, {"question": "Is it {}?"}, {"max_pixels": 5000}]),
    "unified_reward": (unified_reward, [{"dimension": "style"}, {"max_tokens": 9}, {"max_pixels": 5000}]),
    "hps_v3": (hps_v3, [HALF]),
    "video_reward": (tiny_videos.video_reward, [HALF, {"dimension": "MQ"}, {"frame_rate": 24}]),
    "video_score2": (
        tiny_videos.video_score2,
        [HALF, {"dimension": "PC"}, {"frame_rate": 24}, {"variant": "expected"}, {"most_tokens": 9}],
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=MADE)
def name(request):
    return request.param


@pytest.fixture
def make(name, tmp_path):
    def make(place="a", **options):
        (tmp_path / place).mkdir(exist_ok=True)
        return MADE[name][0](tmp_path / place, device="cpu", **options)

    return make


def test_it_is_the_same_wherever_its_weights_lie_and_however_many_it_scores_at_once(make, name):
    made = make()
    assert made.cache_key == make("b", batch_size=2).cache_key
    assert made.cache_key.startswith(f"{name} ") and made.device == torch.device("cpu")


def test_every_setting_counts(make, name):
    changed = MADE[name][1]
    assert len({make(**options).cache_key for options in ({}, *changed)}) == 1 + len(changed)


def test_every_weight_word_and_habit_of_writing_counts(make):
    made = make()
    keys = [made.cache_key]
    loaded = made.weights()
    qwen, *others = loaded if isinstance(loaded, tuple) else [loaded]
    with torch.no_grad():
        for module in [qwen.model, *(other for other in others if isinstance(other, torch.nn.Module))]:
            *_, weight = module.parameters()
            weight.flatten()[0] += 1e-2
            keys.append(made.cache_key)
    qwen.tokenizer.add_tokens(["<|another|>"])
    keys.append(made.cache_key)
    if qwen.model.can_generate():
        qwen.model.generation_config.repetition_penalty = 1.5
        keys.append(made.cache_key)
    assert len({*keys}) == len(keys) >= 4


@pytest.mark.parametrize("name", tiny_videos.MADE)
def test_a_video_reward_is_another_at_another_frame_rate_and_of_another_rating(make):
    made = make()
    keys = {reward.cache_key for reward in (made, made.at_frame_rate(24), made.only("TA"))}
    assert len(keys) == 3
    assert made.at_frame_rate(16).cache_key == made.cache_key  # which it takes for granted
    assert make(frame_rate=24).at_frame_rate(8).cache_key in keys
