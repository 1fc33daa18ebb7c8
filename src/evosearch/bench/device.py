"""What a search costs on this device with the large models: their real networks at their real sizes, random weights.

Nothing is downloaded: the networks are made from their configurations, and embeddings of the right shape stand in for
the text encoders, which run once a search.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from evosearch.pipeline import PipelineSampler

library: Any = diffusers  # whose annotations take tuples of one length alone

STEPS = 4
"""Denoising steps of each timed run: enough, since all cost the same."""


@dataclass(frozen=True)
class Case:
    """A model to measure.

    Attributes:
        name: What people call it.
        build: Makes the pipeline; small ones are for machines without an accelerator.
        call: Arguments of its call at full size.
        small: Those that differ at small size.
        embeddings: Shapes of the embeddings that stand in for the prompt, full and small.
    """

    name: str
    build: Callable[[bool], Any]
    call: dict[str, Any]
    small: dict[str, Any]
    embeddings: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Row:
    """One measurement: NFE a second and peak memory in GiB, of the search and of the stock pipeline.

    A search of no speed did not fit into memory; the stock pipeline is timed on one micro-batch alone.
    """

    case: str
    setting: str
    batch: int
    population: int
    search: float | None
    search_memory: float | None
    stock: float | None = None
    stock_memory: float | None = None

    def __str__(self) -> str:
        speed = "does not fit" if self.search is None else f"{self.search:.2f} NFE/s"
        return f"{self.case}, {self.setting}, population of {self.population} by {self.batch}: {speed}"


def _stable_diffusion(full: bool) -> Any:
    unet = {
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    }
    small = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    }
    return library.StableDiffusionPipeline(
        vae=_autoencoder(full, latent_channels=4, scaling_factor=0.18215),
        text_encoder=None,
        tokenizer=None,
        unet=library.UNet2DConditionModel(**(unet if full else small)),
        scheduler=library.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
            clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def _flux(full: bool) -> Any:
    small = {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8), "in_channels": 16,
    }  # fmt: skip
    channels = 16 if full else 4
    return library.FluxPipeline(
        scheduler=library.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_autoencoder(full, latent_channels=channels, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=library.FluxTransformer2DModel(guidance_embeds=True, **({} if full else small)),
    )


def _wan(layers: int, heads: int, ffn: int) -> Callable[[bool], Any]:
    def build(full: bool) -> Any:
        size = {"num_layers": layers, "num_attention_heads": heads, "ffn_dim": ffn}
        small = {
            "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "text_dim": 32,
            "rope_max_seq_len": 32,
        }  # fmt: skip
        vae = {} if full else {"base_dim": 3, "num_res_blocks": 1}
        with torch.device("cpu"):
            scheduler = library.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            )
        return library.WanPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=library.AutoencoderKLWan(**vae),
            scheduler=scheduler,
            transformer=library.WanTransformer3DModel(**(size if full else small)),
        )

    return build


def _hunyuan(full: bool) -> Any:
    small = {
        "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2,
        "attention_head_dim": 10, "text_embed_dim": 32, "pooled_projection_dim": 32, "rope_axes_dim": (2, 4, 4),
        "in_channels": 4, "out_channels": 4, "patch_size": 1,
    }  # fmt: skip
    vae = {} if full else {
        "latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4,
    }  # fmt: skip
    return library.HunyuanVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        vae=library.AutoencoderKLHunyuanVideo(**vae),
        scheduler=library.FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=library.HunyuanVideoTransformer3DModel(guidance_embeds=True, **({} if full else small)),
    )


def _autoencoder(full: bool, **kwargs: Any) -> Any:
    channels = (128, 256, 512, 512) if full else (16, 16, 16, 16)
    return library.AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2 if full else 1,
        norm_num_groups=32 if full else 8,
        **kwargs,
    )


_TEXT = {"prompt_embeds": ((512, 4096), (16, 32)), "negative_prompt_embeds": ((512, 4096), (16, 32))}
_WAN_CALL = {"height": 480, "width": 832, "num_frames": 33, "guidance_scale": 5.0}
_WAN_SMALL = {"height": 16, "width": 16, "num_frames": 5}

CASES = (
    Case(
        "SD 2.1", _stable_diffusion, {"height": 768, "width": 768, "guidance_scale": 7.5},
        {"height": 64, "width": 64},
        {"prompt_embeds": ((77, 1024), (16, 32)), "negative_prompt_embeds": ((77, 1024), (16, 32))},
    ),
    Case(
        "FLUX.1-dev", _flux, {"height": 1024, "width": 1024, "guidance_scale": 3.5}, {"height": 64, "width": 64},
        {"prompt_embeds": ((512, 4096), (16, 32)), "pooled_prompt_embeds": ((768,), (32,))},
    ),
    Case("Wan 2.1 1.3B", _wan(30, 12, 8960), _WAN_CALL, _WAN_SMALL, _TEXT),
    Case("Wan 2.1 14B", _wan(40, 40, 13824), _WAN_CALL, _WAN_SMALL, _TEXT),
    Case(
        "HunyuanVideo 13B", _hunyuan, {"height": 544, "width": 960, "num_frames": 33, "guidance_scale": 6.0},
        {"height": 16, "width": 16, "num_frames": 5},
        {"prompt_embeds": ((256, 4096), (16, 32)), "pooled_prompt_embeds": ((768,), (32,)),
         "prompt_attention_mask": ((256,), (16,))},
    ),
)  # fmt: skip
"""Each at the size and the number of frames of the paper's experiments; SD 2.1 and FLUX at their own."""


def measure(case: Case, *, full: bool, device: str, batches: tuple[int, ...] = (1, 2, 4, 8, 16)) -> Iterator[Row]:
    """Time one model: each micro-batch that fits, larger populations by the best of them, compiled, offloaded.

    Args:
        case: The model.
        full: Real size, in bfloat16; else small, in float32.
        device: Where; on a CPU nothing is compiled or offloaded.
        batches: Particles in a pass of the model, from small to large, up to the first that does not fit.

    Yields:
        A row a setting. The stock pipeline runs on the same batch, steps and arguments, decoding included.
    """
    dtype = torch.bfloat16 if full else torch.float32
    with torch.device(device), _default(dtype):
        pipe = case.build(full)
    pipe.set_progress_bar_config(disable=True)
    call = _call(case, full, device, dtype)
    best = Row(case.name, "", batches[0], batches[0], None, None)
    for batch in batches:
        yield (row := _row(case, "as it is", pipe, call, batch, batch, device))
        if row.search is None:
            break
        best = max(best, row, key=lambda row: row.search or 0.0)
    if best.search is not None:
        for times in (4, 16):
            yield _row(case, "as it is", pipe, call, best.batch, times * best.batch, device)
    if device == "cpu":
        return
    if best.search is not None:
        denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
        denoiser.compile()
        yield _row(case, "compiled", pipe, call, best.batch, best.batch, device)
        denoiser._compiled_call_impl = None
    pipe.enable_model_cpu_offload(device=torch.device(device))
    yield _row(case, "offload=model", pipe, call, best.batch, best.batch, device)
    del pipe
    _free(device)


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| model | setting | micro-batch | population | search, NFE/s | stock, NFE/s | ratio | search, GiB | stock |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        search = "does not fit" if row.search is None else f"{row.search:.2f}"
        ratio = f"{row.search / row.stock:.2f}" if row.search and row.stock else ""
        stock, memory, other = (
            "" if value is None else f"{value:.{digits}f}"
            for value, digits in ((row.stock, 2), (row.search_memory, 1), (row.stock_memory, 1))
        )
        figures = (row.case, row.setting, row.batch, row.population, search, stock, ratio, memory, other)
        lines.append(f"| {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


@contextmanager
def _default(dtype: torch.dtype) -> Generator[None]:
    """Make new weights in this precision from the first: in twice the memory, the largest would not fit."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _call(case: Case, full: bool, device: str, dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    call = case.call if full else {**case.call, **case.small}
    for name, (large, small) in case.embeddings.items():
        shape = (1, *(large if full else small))
        mask = name.endswith("mask")
        value = torch.ones(shape) if mask else torch.randn(shape, generator=generator)
        call = {**call, name: value.to(device, dtype)}
    return call


def _row(case: Case, setting: str, pipe: Any, call: dict[str, Any], batch: int, population: int, device: str) -> Row:
    try:
        search, memory = _searched(pipe, call, batch, population, device)
        stock, other = _stock(pipe, call, batch, device) if population == batch else (None, None)
        return Row(case.name, setting, batch, population, search, memory, stock, other)
    except torch.OutOfMemoryError:
        return Row(case.name, setting, batch, population, None, None)
    finally:
        _free(device)


def _free(device: str) -> None:
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def _searched(pipe: Any, call: dict[str, Any], batch: int, population: int, device: str) -> tuple[float, float | None]:
    """NFE a second of denoising and decoding a population in micro-batches, and the peak of memory."""
    sampler = PipelineSampler(pipe, None, steps=STEPS, batch_size=batch, **call)

    def work() -> None:
        for p in sampler.prior(population).split(batch):
            sampler.decode(sampler.run(p, sampler.steps)[0])

    return _rate(work, population * STEPS, device)


def _stock(pipe: Any, call: dict[str, Any], batch: int, device: str) -> tuple[float, float | None]:
    many = "num_videos_per_prompt" if "num_frames" in call else "num_images_per_prompt"
    return _rate(
        lambda: pipe(num_inference_steps=STEPS, output_type="pt", **{many: batch}, **call), batch * STEPS, device
    )


def _rate(work: Callable[[], Any], nfe: int, device: str) -> tuple[float, float | None]:
    cuda = torch.device(device).type == "cuda"
    work()
    gc.collect()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return nfe / seconds, torch.cuda.max_memory_allocated() / 2**30 if cuda else None
