"""The rewards of pictures that people use, small, in the published formats, with random weights."""

import json
import math

import tiny_clip
import torch
from tiny_clip import LETTERS
from transformers import BertTokenizer

from evosearch.rewards.aesthetic import Aesthetic
from evosearch.rewards.clip_score import ClipScore
from evosearch.rewards.hps import Hps
from evosearch.rewards.image_reward import ImageReward
from evosearch.rewards.pick_score import PickScore


def clip_score(folder, **options):
    return ClipScore(tiny_clip.folder(folder), **options)


def pick_score(folder, **options):
    """Its tokenizer is in another folder."""
    tiny_clip.clip(eos=2).save_pretrained(folder / "model")
    tiny_clip.tokenizer().save_pretrained(folder / "tokenizer")
    return PickScore(folder / "model", folder / "tokenizer", **options)


def head(width, seed=0):
    """The weights of LAION's and ImageReward's head by their published names."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (width, 1024, 128, 64, 16, 1)
    found = {}
    for i, place in enumerate((0, 2, 4, 6, 7)):
        found[f"layers.{place}.weight"] = torch.randn(sizes[i + 1], sizes[i], generator=generator) * sizes[i] ** -0.5
        found[f"layers.{place}.bias"] = torch.randn(sizes[i + 1], generator=generator) * 0.1
    return found


def headed(features, weights):
    """What that head says of features (N, D): (N,)."""
    for place in (0, 2, 4, 6, 7):
        features = features @ weights[f"layers.{place}.weight"].T + weights[f"layers.{place}.bias"]
    return features[:, 0]


def aesthetic(folder, **options):
    tiny_clip.folder(folder)
    torch.save(head(12), folder / "sac+logos+ava1-l14-linearMSE.pth")
    return Aesthetic(folder, folder, **options)


BLIP_CONFIG = {
    "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "hidden_size": 16, "initializer_range": 0.02, "intermediate_size": 40,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 40, "model_type": "bert", "num_attention_heads": 4,
    "num_hidden_layers": 2, "pad_token_id": 0, "type_vocab_size": 2, "vocab_size": 59, "encoder_width": 768,
    "add_cross_attention": True,
}  # fmt: skip


def blip_tokenizer():
    """BERT's, of single letters; "[DEC]" and "[ENC]" are not among its words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True)


def blip_weights(width=128, side=32, seed=0):
    """ImageReward's by their published names: BLIP's parts, two projections that are not used, and the head."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = BLIP_CONFIG["hidden_size"], BLIP_CONFIG["intermediate_size"]
    see, read = "blip.visual_encoder.", "blip.text_encoder."
    shapes = {
        f"{see}cls_token": (1, 1, width),
        f"{see}pos_embed": (1, 1 + (side // 8) ** 2, width),
        f"{see}patch_embed.proj": (width, 3, 8, 8),
        f"{see}norm": (width,),
        f"{read}embeddings.word_embeddings.weight": (BLIP_CONFIG["vocab_size"], hidden),
        f"{read}embeddings.position_embeddings.weight": (40, hidden),
        f"{read}embeddings.LayerNorm": (hidden,),
        "blip.vision_proj": (256, width),
        "blip.text_proj": (256, hidden),
    }
    for i in range(2):
        block, layer = f"{see}blocks.{i}.", f"{read}encoder.layer.{i}."
        shapes |= {f"{block}norm1": (width,), f"{block}norm2": (width,), f"{layer}output.LayerNorm": (hidden,)}
        shapes |= {f"{block}attn.qkv": (3 * width, width), f"{block}attn.proj": (width, width)}
        shapes |= {f"{block}mlp.fc1": (2 * width, width), f"{block}mlp.fc2": (width, 2 * width)}
        shapes |= {f"{layer}intermediate.dense": (inner, hidden), f"{layer}output.dense": (hidden, inner)}
        for name, from_width in (("attention", hidden), ("crossattention", width)):
            shapes |= {f"{layer}{name}.self.{part}": (hidden, from_width) for part in ("key", "value")}
            shapes |= {f"{layer}{name}.{part}": (hidden, hidden) for part in ("self.query", "output.dense")}
            shapes |= {f"{layer}{name}.output.LayerNorm": (hidden,)}

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    found = {f"{read}embeddings.position_ids": torch.arange(40)[None]}
    for name, shape in shapes.items():
        if name.endswith(("token", "embed", "weight")):
            # What sees starts faint, so that the epsilon of its norms tells.
            found[name] = drawn(*shape) * (0.5 if name.endswith("weight") else 0.01)
        elif len(shape) == 1:
            found[f"{name}.weight"], found[f"{name}.bias"] = 1 + 0.1 * drawn(*shape), 0.1 * drawn(*shape)
        else:
            faint = 0.01 if name.endswith("patch_embed.proj") else 1
            found[f"{name}.weight"] = faint * drawn(*shape) * 1.5 / math.prod(shape[1:]) ** 0.5
            found[f"{name}.bias"] = faint * 0.1 * drawn(shape[0])
    return found | {f"mlp.{name}": weight for name, weight in head(hidden).items()}


def image_reward(folder, **options):
    torch.save(blip_weights(), folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(BLIP_CONFIG))
    blip_tokenizer().save_pretrained(folder)
    return ImageReward(folder, folder, **options)


def hps_weights():
    """A CLIP's by open_clip's names, as HPSv2.1's checkpoint has them."""
    ours = tiny_clip.clip().state_dict()
    found = {
        "logit_scale": ours["logit_scale"],
        "token_embedding.weight": ours["text_model.embeddings.token_embedding.weight"],
    }
    found["visual.proj"] = ours["visual_projection.weight"].T.contiguous()
    found["text_projection"] = ours["text_projection.weight"].T.contiguous()
    found["positional_embedding"] = ours["text_model.embeddings.position_embedding.weight"]
    found["visual.positional_embedding"] = ours["vision_model.embeddings.position_embedding.weight"]
    found["visual.class_embedding"] = ours["vision_model.embeddings.class_embedding"]
    found["visual.conv1.weight"] = ours["vision_model.embeddings.patch_embedding.weight"]
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = ours[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = ours[f"vision_model.post_layernorm.{kind}"]
        found[f"ln_final.{kind}"] = ours[f"text_model.final_layer_norm.{kind}"]
        for model, prefix, i in (("vision", "visual.", 0), ("vision", "visual.", 1), ("text", "", 0), ("text", "", 1)):
            layer, block = f"{model}_model.encoder.layers.{i}.", f"{prefix}transformer.resblocks.{i}."
            found[f"{block}attn.in_proj_{kind}"] = torch.cat([ours[f"{layer}self_attn.{x}_proj.{kind}"] for x in "qkv"])
            found[f"{block}attn.out_proj.{kind}"] = ours[f"{layer}self_attn.out_proj.{kind}"]
            found[f"{block}ln_1.{kind}"] = ours[f"{layer}layer_norm1.{kind}"]
            found[f"{block}ln_2.{kind}"] = ours[f"{layer}layer_norm2.{kind}"]
            found[f"{block}mlp.c_fc.{kind}"] = ours[f"{layer}mlp.fc1.{kind}"]
            found[f"{block}mlp.c_proj.{kind}"] = ours[f"{layer}mlp.fc2.{kind}"]
    return found


def hps(folder, **options):
    torch.save({"epoch": 1, "name": "hps", "state_dict": hps_weights()}, folder / "HPS_v2.1_compressed.pt")
    tiny_clip.clip().config.save_pretrained(folder)
    tiny_clip.tokenizer().save_pretrained(folder)
    return Hps(folder, folder, **options)


MADE = {
    "clip_score": clip_score,
    "pick_score": pick_score,
    "aesthetic": aesthetic,
    "image_reward": image_reward,
    "hps": hps,
}
