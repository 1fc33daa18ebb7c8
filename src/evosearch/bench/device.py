"""What a search costs on this device with the large models: their real networks at their real sizes, random weights.

Nothing is downloaded: the networks are made from their configurations, and embeddings of the right shape stand in for
the text encoders, which run once a search.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch

from evosearch.checks import first_line
from evosearch.pipeline import PipelineSampler
from evosearch.run import search

library: Any = diffusers  # whose annotations take tuples of one length alone

STEPS = 4
"""Denoising steps of each timed run. Each sample is decoded, too, so that NFE/s are lower than with more steps."""

_GOOD = 0.95  # of the highest speed: a larger micro-batch that gains less is not worth its memory
_FULL = "does not fit"


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

    The stock pipeline is timed on one micro-batch alone. What failed has a reason instead of figures.
    """

    case: str
    setting: str
    batch: int
    population: int
    search: float | None = None
    search_memory: float | None = None
    stock: float | None = None
    stock_memory: float | None = None
    failure: str = ""

    def __str__(self) -> str:
        speed = self.failure or f"{self.search:.2f} NFE/s"
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
        batches: Particles in a pass of the model, from small to large, up to the first that fails.

    Yields:
        A row a setting. The stock pipeline runs on the same batch, steps and arguments, decoding included.
    """
    dtype = torch.bfloat16 if full else torch.float32
    try:
        pipe = _built(case, full, device, dtype)
    except torch.OutOfMemoryError:
        yield Row(case.name, "as it is", 1, 1, failure=_FULL)
        pipe = None
    best = batches[0]
    if pipe is not None:
        rows: list[Row] = []
        for batch in batches:
            rows.append(_row(case, "as it is", pipe, full, batch, batch, device))
            yield rows[-1]
            if rows[-1].search is None:
                break
        if fitting := [row for row in rows if row.search]:
            fastest = max(row.search or 0.0 for row in fitting)
            best = next(row.batch for row in fitting if (row.search or 0.0) >= _GOOD * fastest)
            for times in (4, 16):
                yield _row(case, "as it is", pipe, full, best, times * best, device)
            if device != "cpu":
                denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
                yield _row(case, "compiled", pipe, full, best, best, device, denoiser.compile)
        del pipe
    if device != "cpu":
        _free(device)
        pipe = _built(case, full, "cpu", dtype)
        pipe.enable_model_cpu_offload(device=torch.device(device))
        yield _row(case, "offload=model", pipe, full, best, best, device)
        del pipe
        _free(device)


def bill(batches: tuple[int, ...] = (1, 2, 4, 8, 16)) -> int:
    """NFE that one model takes at the most: all batches fit, and the largest is the best."""
    compared = (*batches, batches[-1], batches[-1])  # compiled and offloaded, too
    return STEPS * (4 * sum(compared) + 20 * batches[-1])


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| model | setting | micro-batch | population | search, NFE/s | stock, NFE/s | ratio | search, GiB | stock |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        speed = row.failure or f"{row.search:.2f}"
        ratio = f"{row.search / row.stock:.2f}" if row.search and row.stock else ""
        stock, memory, other = (
            "" if value is None else f"{value:.{digits}f}"
            for value, digits in ((row.stock, 2), (row.search_memory, 1), (row.stock_memory, 1))
        )
        figures = (row.case, row.setting, row.batch, row.population, speed, stock, ratio, memory, other)
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


def _built(case: Case, full: bool, device: str, dtype: torch.dtype) -> Any:
    with torch.device(device), _default(dtype):
        pipe = case.build(full)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _call(case: Case, full: bool, batch: int, device: str) -> dict[str, Any]:
    """Arguments of the pipeline's call for so many samples, as its own text encoders would fill them."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if full else torch.float32
    call = case.call if full else {**case.call, **case.small}
    for name, (large, small) in case.embeddings.items():
        shape = (batch, *(large if full else small))
        value = torch.ones(shape) if name.endswith("mask") else torch.randn(shape, generator=generator)
        call = {**call, name: value.to(device, dtype)}
    return call


def _row(
    case: Case,
    setting: str,
    pipe: Any,
    full: bool,
    batch: int,
    population: int,
    device: str,
    prepare: Callable[[], object] = lambda: None,
) -> Row:
    """One measurement; what fails is a row of its own and ends nothing else."""
    row = Row(case.name, setting, batch, population)
    try:
        prepare()
        call = _call(case, full, batch, device)
        cold, nfe = population == batch, population * STEPS
        found = _measured("search", lambda: _search(pipe, call, batch, population), nfe, device, cold)
        if population == batch:
            found |= _measured("stock", lambda: _stock(pipe, call), nfe, device, cold)
        return replace(row, **found)
    except torch.OutOfMemoryError:
        return replace(row, failure=_FULL)
    except RuntimeError as error:  # no compiler, a kernel that does not take this shape, ...
        return replace(row, failure=f"{type(error).__name__}: {first_line(error)[:80]}")
    finally:
        _free(device)


def _search(pipe: Any, call: dict[str, Any], batch: int, population: int) -> None:
    """The best of a population by a reward that costs nothing."""
    sampler = PipelineSampler(pipe, None, steps=STEPS, batch_size=batch, **call)
    search(sampler, "any", _brightness, "best_of_n", n=population, progress=False)


def _stock(pipe: Any, call: dict[str, Any]) -> None:
    pipe(num_inference_steps=STEPS, output_type="pt", **call)


def _brightness(samples: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    del prompts
    return samples.flatten(1).mean(1)


def _measured(name: str, work: Callable[[], None], nfe: int, device: str, cold: bool) -> dict[str, float]:
    """NFE a second and the peak of memory in GiB, after a run to warm up where this is the first of its shape."""
    accelerated = device != "cpu"
    if cold:
        work()
    gc.collect()
    if accelerated:
        torch.accelerator.synchronize()
        torch.accelerator.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    if accelerated:
        torch.accelerator.synchronize()
    found = {name: nfe / (time.perf_counter() - start)}
    return found | ({f"{name}_memory": torch.accelerator.max_memory_allocated() / 2**30} if accelerated else {})


def _free(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.accelerator.empty_cache()
