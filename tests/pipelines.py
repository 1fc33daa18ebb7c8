"""Tiny diffusers pipelines of the real classes: random weights, float32, CPU, nothing downloaded.

Text is tokenised a character at a time, so different prompts give different embeddings.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import peft
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from PIL import Image
from tokenizers import pre_tokenizers
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

_CHARS = [*string.ascii_letters, *string.digits, *string.punctuation]

# The user's words alone: the systems' are long, and a character is a token here.
_CHAT = "{% for m in messages if m.role == 'user' %}user: {{ m.content }}{% endfor %}"
_CHAT_OF_PARTS = "{% for m in messages if m.role == 'user' %}user: {{ m.content[0].text }}{% endfor %}"

_MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}


@dataclass(frozen=True)
class Case:
    """A pipeline, and what a call needs beyond prompt, latents, num_inference_steps and output_type."""

    build: Callable[[], DiffusionPipeline]
    kwargs: dict[str, Any]
    video: bool = False


_IMAGE = {"height": 32, "width": 32}
_UNBINNED = {**_IMAGE, "use_resolution_binning": False, "clean_caption": False}
_VIDEO = {"height": 16, "width": 16, "num_frames": 5}
_TEXT = {"max_sequence_length": 64}
_PICTURE = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
_MASKED = {"image": _PICTURE, "mask_image": Image.linear_gradient("L").resize((32, 32)).rotate(90)}


# Tokenisers and text encoders


def _clip_tokenizer() -> transformers.CLIPTokenizer:
    tokens = [*_CHARS, *(char + "</w>" for char in _CHARS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def _clip_config(tokenizer: transformers.CLIPTokenizer) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _clip() -> dict[str, Any]:
    tokenizer = _clip_tokenizer()
    return {"tokenizer": tokenizer, "text_encoder": transformers.CLIPTextModel(_clip_config(tokenizer))}


def _clip_projected() -> dict[str, Any]:
    tokenizer = _clip_tokenizer()
    encoder = transformers.CLIPTextModelWithProjection(_clip_config(tokenizer))
    return {"tokenizer": tokenizer, "text_encoder": encoder}


def _t5_tokenizer() -> transformers.T5Tokenizer:
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((char, -2.0) for char in ["▁", *_CHARS])]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=77)


def _t5_size(tokenizer: transformers.T5Tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 2,
    }


def _t5() -> dict[str, Any]:
    tokenizer = _t5_tokenizer()
    config = transformers.T5Config(**_t5_size(tokenizer))
    return {"tokenizer": tokenizer, "text_encoder": transformers.T5EncoderModel(config)}


def _umt5() -> dict[str, Any]:
    tokenizer = _t5_tokenizer()
    config = transformers.UMT5Config(**_t5_size(tokenizer))
    return {"tokenizer": tokenizer, "text_encoder": transformers.UMT5EncoderModel(config)}


def _qwen_tokenizer() -> transformers.Qwen2Tokenizer:
    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = transformers.Qwen2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    tokenizer.chat_template = _CHAT
    return tokenizer


def _decoder_size(tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, Any]:
    """The size of every decoder-only language model here."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen3(model: type[transformers.PreTrainedModel]) -> dict[str, Any]:
    tokenizer = _qwen_tokenizer()
    config = transformers.Qwen3Config(**_decoder_size(tokenizer))
    return {"tokenizer": tokenizer, "text_encoder": model(config)}


def _qwen_vl() -> dict[str, Any]:
    tokenizer = _qwen_tokenizer()
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_decoder_size(tokenizer), "rope_parameters": _MROPE},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
    )
    return {"tokenizer": tokenizer, "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config)}


def _qwen_vl_text() -> dict[str, Any]:
    tokenizer = _qwen_tokenizer()
    config = transformers.Qwen2_5_VLTextConfig(**_decoder_size(tokenizer), rope_parameters=_MROPE)
    return {"tokenizer": tokenizer, "text_encoder": Qwen2_5_VLTextModel(config)}


def _byt5() -> dict[str, Any]:
    tokenizer = transformers.ByT5Tokenizer()
    config = transformers.T5Config(**_t5_size(tokenizer))
    return {"tokenizer": tokenizer, "text_encoder": transformers.T5EncoderModel(config)}


def _gemma_tokenizer() -> transformers.GemmaTokenizer:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *_CHARS]
    return transformers.GemmaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


def _gemma2() -> dict[str, Any]:
    tokenizer = _gemma_tokenizer()
    config = transformers.Gemma2Config(**_decoder_size(tokenizer), query_pre_attn_scalar=8)
    return {"tokenizer": tokenizer, "text_encoder": transformers.Gemma2Model(config)}


def _llama() -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", "<pad>", "▁", *_CHARS]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = transformers.LlamaTokenizerFast(vocab=vocab, merges=[], pad_token="<pad>")
    config = transformers.LlamaConfig(**_decoder_size(tokenizer))
    return {"tokenizer": tokenizer, "text_encoder": transformers.LlamaModel(config)}


def _gemma3() -> dict[str, Any]:
    tokenizer = _gemma_tokenizer()
    config = transformers.Gemma3Config(
        text_config={**_decoder_size(tokenizer), "query_pre_attn_scalar": 8},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    )
    return {"tokenizer": tokenizer, "text_encoder": transformers.Gemma3ForConditionalGeneration(config)}


def _mistral() -> dict[str, Any]:
    tokenizer = _gemma_tokenizer()
    tokenizer.chat_template = _CHAT_OF_PARTS
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**_decoder_size(tokenizer)),
        vision_config=transformers.PixtralVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8
        ),
    )
    return {"tokenizer": tokenizer, "text_encoder": transformers.Mistral3ForConditionalGeneration(config)}


def _numbered(parts: dict[str, Any], number: int) -> dict[str, Any]:
    """The same components as a pipeline's second or third text encoder."""
    return {f"{name}_{number}": part for name, part in parts.items()}


# Parts shared by several pipelines


def _vae(**config: Any) -> diffusers.AutoencoderKL:
    """Halves height and width."""
    return diffusers.AutoencoderKL(
        **{
            "block_out_channels": (8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "latent_channels": 4,
            "norm_num_groups": 4,
            **config,
        }
    )


def _unet(**config: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 16,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 16,
            "attention_head_dim": 2,
            **config,
        }
    )


def _ddim(**config: Any) -> diffusers.DDIMScheduler:
    """Stable Diffusion 2.1's."""
    return diffusers.DDIMScheduler(
        **{
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            **config,
        }
    )


def _flux_flow(**config: Any) -> diffusers.FlowMatchEulerDiscreteScheduler:
    """FLUX's: the shift follows the image's size."""
    return diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **config)


def _ready(pipe: DiffusionPipeline) -> DiffusionPipeline:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


# Images


def _sd_parts(**unet: Any) -> dict[str, Any]:
    return {
        **_clip(),
        "unet": _unet(**unet),
        "vae": _vae(),
        "scheduler": _ddim(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def stable_diffusion() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(diffusers.StableDiffusionPipeline(**_sd_parts()))


def stable_diffusion_lora() -> DiffusionPipeline:
    torch.manual_seed(0)
    pipe = diffusers.StableDiffusionPipeline(**_sd_parts())
    lora = peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(lora, adapter_name="style")
    return _ready(pipe)


def stable_diffusion_img2img() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(diffusers.StableDiffusionImg2ImgPipeline(**_sd_parts()))


def stable_diffusion_inpaint() -> DiffusionPipeline:
    """With the plain UNet: the pipeline pastes the known part back after every step."""
    torch.manual_seed(0)
    return _ready(diffusers.StableDiffusionInpaintPipeline(**_sd_parts()))


def stable_diffusion_inpaint_concat() -> DiffusionPipeline:
    """With the inpainting UNet: the mask and the masked image are five more channels of its input."""
    torch.manual_seed(0)
    return _ready(diffusers.StableDiffusionInpaintPipeline(**_sd_parts(in_channels=9)))


def stable_diffusion_controlnet() -> DiffusionPipeline:
    torch.manual_seed(0)
    parts = _sd_parts()
    controlnet = diffusers.ControlNetModel.from_unet(
        parts["unet"], conditioning_embedding_out_channels=(8, 16), load_weights_from_unet=False
    )
    for name, weight in controlnet.named_parameters():
        if not weight.any() and not name.endswith("bias"):  # its zero convolutions would do nothing
            torch.nn.init.normal_(weight, std=0.1)
    return _ready(diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=controlnet))


def stable_diffusion_xl() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(
        diffusers.StableDiffusionXLPipeline(
            **_clip(),
            **_numbered(_clip_projected(), 2),
            unet=_unet(
                cross_attention_dim=32,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 16,
            ),
            vae=_vae(scaling_factor=0.13025),
            scheduler=diffusers.EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                steps_offset=1,
                timestep_spacing="leading",
            ),
            add_watermarker=False,
        )
    )


def stable_diffusion_3() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(
        diffusers.StableDiffusion3Pipeline(
            **_clip_projected(),
            **_numbered(_clip_projected(), 2),
            **_numbered(_t5(), 3),
            transformer=diffusers.SD3Transformer2DModel(
                sample_size=16,
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                caption_projection_dim=16,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                pos_embed_max_size=16,
            ),
            vae=_vae(shift_factor=0.0609, scaling_factor=1.5305),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )


def pixart_sigma() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(
        diffusers.PixArtSigmaPipeline(
            **_t5(),
            transformer=diffusers.PixArtTransformer2DModel(
                sample_size=16,
                num_layers=1,
                patch_size=2,
                attention_head_dim=8,
                num_attention_heads=2,
                cross_attention_dim=16,
                caption_channels=32,
                in_channels=4,
                out_channels=8,
            ),
            vae=_vae(scaling_factor=0.13025),
            scheduler=diffusers.DPMSolverMultistepScheduler(),
        )
    )


def sana() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(
        diffusers.SanaPipeline(
            **_gemma2(),
            transformer=diffusers.SanaTransformer2DModel(
                sample_size=16,
                patch_size=1,
                in_channels=4,
                out_channels=4,
                num_layers=1,
                num_attention_heads=2,
                attention_head_dim=8,
                num_cross_attention_heads=2,
                cross_attention_head_dim=8,
                cross_attention_dim=16,
                caption_channels=16,
            ),
            vae=diffusers.AutoencoderDC(
                latent_channels=4,
                attention_head_dim=4,
                encoder_block_types=("ResBlock", "EfficientViTBlock"),
                decoder_block_types=("ResBlock", "EfficientViTBlock"),
                encoder_block_out_channels=(8, 8),
                decoder_block_out_channels=(8, 8),
                encoder_layers_per_block=(1, 1),
                decoder_layers_per_block=(1, 1),
                encoder_qkv_multiscales=((), (5,)),
                decoder_qkv_multiscales=((), (5,)),
                scaling_factor=0.41407,
            ),
            scheduler=diffusers.DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
    )


def flux() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(
        diffusers.FluxPipeline(
            **_clip(),
            **_numbered(_t5(), 2),
            transformer=diffusers.FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=16,
                guidance_embeds=True,
                axes_dims_rope=(4, 4, 8),
            ),
            vae=_vae(scaling_factor=0.3611, shift_factor=0.1159),
            scheduler=_flux_flow(),
        )
    )


def _flux2_parts(guidance_embeds: bool) -> dict[str, Any]:
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    return {"vae": vae, "transformer": transformer, "scheduler": _flux_flow()}


def flux2() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(diffusers.Flux2Pipeline(**_mistral(), **_flux2_parts(guidance_embeds=True)))


def flux2_klein() -> DiffusionPipeline:
    torch.manual_seed(0)
    text = _qwen3(transformers.Qwen3ForCausalLM)
    return _ready(diffusers.Flux2KleinPipeline(**text, **_flux2_parts(guidance_embeds=False)))


def qwen_image() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(
        diffusers.QwenImagePipeline(
            **_qwen_vl(),
            transformer=diffusers.QwenImageTransformer2DModel(
                in_channels=16,
                out_channels=4,
                num_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(4, 4, 8),
            ),
            vae=diffusers.AutoencoderKLQwenImage(
                base_dim=8,
                z_dim=4,
                dim_mult=[1, 2],
                num_res_blocks=1,
                temperal_downsample=[False],
                latents_mean=[-0.8, -0.3, 0.1, 1.5],
                latents_std=[2.8, 1.5, 2.3, 1.1],
            ),
            scheduler=_flux_flow(shift_terminal=0.02),
        )
    )


def z_image() -> DiffusionPipeline:
    torch.manual_seed(0)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():  # they come uninitialised
        transformer.x_pad_token.normal_()
        transformer.cap_pad_token.normal_()
    return _ready(
        diffusers.ZImagePipeline(
            **_qwen3(transformers.Qwen3Model),
            transformer=transformer,
            vae=_vae(scaling_factor=0.3611, shift_factor=0.1159),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )


# Videos


def _wan_transformer() -> diffusers.WanTransformer3DModel:
    return diffusers.WanTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,  # a row of 2 · 16 numbers fills whole vectors of a processor, as real widths do
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        rope_max_seq_len=32,
    )


def _wan_parts() -> dict[str, Any]:
    return {
        **_umt5(),
        "transformer": _wan_transformer(),
        "vae": diffusers.AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[-0.8, -0.3, 0.1, 1.5],
            latents_std=[2.8, 1.5, 2.3, 1.1],
            scale_factor_temporal=2,
            scale_factor_spatial=2,
        ),
        "scheduler": diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }


def wan() -> DiffusionPipeline:
    """Wan 2.1."""
    torch.manual_seed(0)
    return _ready(diffusers.WanPipeline(**_wan_parts()))


def wan_two_stage() -> DiffusionPipeline:
    """Wan 2.2: of four steps each transformer takes two."""
    torch.manual_seed(0)
    parts = _wan_parts()
    return _ready(diffusers.WanPipeline(**parts, transformer_2=_wan_transformer(), boundary_ratio=0.875))


def hunyuan_video() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(
        diffusers.HunyuanVideoPipeline(
            **_llama(),
            **_numbered(_clip(), 2),
            transformer=diffusers.HunyuanVideoTransformer3DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=16,
                num_layers=1,
                num_single_layers=1,
                num_refiner_layers=1,
                text_embed_dim=16,
                pooled_projection_dim=16,
                rope_axes_dim=(4, 4, 8),
            ),
            vae=diffusers.AutoencoderKLHunyuanVideo(
                latent_channels=4,
                down_block_types=("HunyuanVideoDownBlock3D",) * 3,
                up_block_types=("HunyuanVideoUpBlock3D",) * 3,
                block_out_channels=(8, 8, 16),
                layers_per_block=1,
                norm_num_groups=4,
                spatial_compression_ratio=4,
                temporal_compression_ratio=4,
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        )
    )


def ltx() -> DiffusionPipeline:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=1,
    )
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    return _ready(
        diffusers.LTXPipeline(
            **_t5(),
            transformer=diffusers.LTXVideoTransformer3DModel(
                in_channels=8,
                out_channels=8,
                num_attention_heads=2,
                attention_head_dim=8,
                cross_attention_dim=16,
                num_layers=1,
                caption_channels=32,
            ),
            vae=vae,
            scheduler=_flux_flow(base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1),
        )
    )


def cogvideox() -> DiffusionPipeline:
    torch.manual_seed(0)
    return _ready(
        diffusers.CogVideoXPipeline(
            **_t5(),
            transformer=diffusers.CogVideoXTransformer3DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                time_embed_dim=8,
                text_embed_dim=32,
                num_layers=1,
                sample_width=8,
                sample_height=8,
                sample_frames=5,
                temporal_compression_ratio=2,
                max_text_seq_length=_TEXT["max_sequence_length"],
            ),
            vae=diffusers.AutoencoderKLCogVideoX(
                down_block_types=("CogVideoXDownBlock3D",) * 2,
                up_block_types=("CogVideoXUpBlock3D",) * 2,
                block_out_channels=(8, 16),
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=4,
                temporal_compression_ratio=2,
            ),
            scheduler=diffusers.CogVideoXDDIMScheduler(
                prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
            ),
        )
    )


def animatediff() -> DiffusionPipeline:
    torch.manual_seed(0)
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )
    return _ready(
        diffusers.AnimateDiffPipeline(
            **_clip(),
            unet=_unet(),
            motion_adapter=adapter,
            vae=_vae(),
            scheduler=_ddim(beta_schedule="linear"),
        )
    )


def hunyuan_video15() -> DiffusionPipeline:
    """Guidance comes from its guider; its text lengths are attributes, not arguments."""
    torch.manual_seed(0)
    pipe = diffusers.HunyuanVideo15Pipeline(
        **_qwen_vl_text(),
        **_numbered(_byt5(), 2),
        transformer=diffusers.HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            text_embed_2_dim=32,
            image_embed_dim=12,
            rope_axes_dim=(4, 4, 8),
            target_size=16,
            task_type="t2v",
        ),
        vae=diffusers.AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(16, 16),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=2,
            downsample_match_channel=False,
            upsample_match_channel=False,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
    )
    pipe.tokenizer_max_length = 64
    pipe.tokenizer_2_max_length = 8
    pipe.prompt_template_encode_start_idx = len("user: ")
    pipe.vision_num_semantic_tokens = 4
    return _ready(pipe)


def ltx2() -> DiffusionPipeline:
    """Video and audio: two latents."""
    torch.manual_seed(0)
    audio_vae = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=1,
        decoder_causal=False,
    )
    return _ready(
        diffusers.LTX2Pipeline(
            **_gemma3(),
            transformer=diffusers.LTX2VideoTransformer3DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                cross_attention_dim=16,
                audio_in_channels=4,
                audio_out_channels=4,
                audio_num_attention_heads=2,
                audio_attention_head_dim=4,
                audio_cross_attention_dim=8,
                num_layers=1,
                caption_channels=16,
                rope_double_precision=False,
                rope_type="split",
            ),
            connectors=LTX2TextConnectors(
                caption_channels=16,
                text_proj_in_factor=3,
                video_connector_num_attention_heads=2,
                video_connector_attention_head_dim=8,
                video_connector_num_layers=1,
                video_connector_num_learnable_registers=None,
                audio_connector_num_attention_heads=2,
                audio_connector_attention_head_dim=8,
                audio_connector_num_layers=1,
                audio_connector_num_learnable_registers=None,
                connector_rope_base_seq_len=32,
                rope_double_precision=False,
                rope_type="split",
            ),
            vae=vae,
            audio_vae=audio_vae,
            vocoder=LTX2Vocoder(
                in_channels=16,
                hidden_channels=8,
                upsample_kernel_sizes=[4, 4],
                upsample_factors=[2, 2],
                resnet_kernel_sizes=[3],
                resnet_dilations=[[1, 3, 5]],
                output_sampling_rate=16000,
            ),
            scheduler=_flux_flow(base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1),
        )
    )


_NO_STG = {"stg_scale": 0.0, "modality_scale": 1.0, "audio_stg_scale": 0.0, "audio_modality_scale": 1.0}
_CFG = {"guidance_scale": 5.0}
_TRUE_CFG = {"true_cfg_scale": 3.0, "negative_prompt": "dull"}
_LAYERS = {"text_encoder_out_layers": (1, 2)}

CASES: dict[str, Case] = {
    "stable_diffusion": Case(stable_diffusion, {**_IMAGE, **_CFG}),
    "stable_diffusion_lora": Case(stable_diffusion_lora, {**_IMAGE, **_CFG, "cross_attention_kwargs": {"scale": 0.8}}),
    "stable_diffusion_img2img": Case(stable_diffusion_img2img, {"image": _PICTURE, "strength": 0.75, **_CFG}),
    "stable_diffusion_inpaint": Case(stable_diffusion_inpaint, {**_IMAGE, **_MASKED, **_CFG}),
    "stable_diffusion_inpaint_concat": Case(stable_diffusion_inpaint_concat, {**_IMAGE, **_MASKED, **_CFG}),
    "stable_diffusion_controlnet": Case(stable_diffusion_controlnet, {"image": _PICTURE, **_IMAGE, **_CFG}),
    "stable_diffusion_xl": Case(stable_diffusion_xl, {**_IMAGE, **_CFG}),
    "stable_diffusion_3": Case(stable_diffusion_3, {**_IMAGE, **_CFG, **_TEXT}),
    "pixart_sigma": Case(pixart_sigma, {**_UNBINNED, **_CFG, **_TEXT}),
    "sana": Case(sana, {**_UNBINNED, **_CFG, **_TEXT, "complex_human_instruction": None}),
    "flux": Case(flux, {**_IMAGE, **_TRUE_CFG, **_TEXT}),
    "flux2": Case(flux2, {**_IMAGE, **_TEXT, **_LAYERS}),
    "flux2_klein": Case(flux2_klein, {**_IMAGE, **_CFG, **_TEXT, **_LAYERS}),
    "qwen_image": Case(qwen_image, {**_IMAGE, **_TRUE_CFG}),
    "z_image": Case(z_image, {**_IMAGE, **_CFG, **_TEXT}),
    "wan": Case(wan, {**_VIDEO, **_CFG, **_TEXT}, video=True),
    "wan_two_stage": Case(wan_two_stage, {**_VIDEO, **_CFG, "guidance_scale_2": 3.0, **_TEXT}, video=True),
    "hunyuan_video": Case(
        hunyuan_video,
        {**_VIDEO, **_TRUE_CFG, **_TEXT, "prompt_template": {"template": "video: {}", "crop_start": 8}},
        video=True,
    ),
    "ltx": Case(ltx, {**_IMAGE, "num_frames": 9, **_CFG, **_TEXT}, video=True),
    "cogvideox": Case(cogvideox, {**_VIDEO, **_CFG, **_TEXT}, video=True),
    "animatediff": Case(animatediff, {**_VIDEO, **_CFG}, video=True),
    "hunyuan_video15": Case(hunyuan_video15, _VIDEO, video=True),
    "ltx2": Case(ltx2, {**_IMAGE, "num_frames": 5, **_CFG, **_TEXT, **_NO_STG}, video=True),
}
