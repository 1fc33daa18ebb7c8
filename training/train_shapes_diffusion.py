"""Train the bundled pipeline `shapes-diffusion` from nothing; export it as a stock StableDiffusionPipeline.

    python training/train_shapes_diffusion.py
    python training/train_shapes_diffusion.py denoiser export --minutes 120

Stages resume from their checkpoints in the runs folder; delete a checkpoint to start its stage afresh.
"""

import argparse
import os
import shutil
from pathlib import Path

import autoencoder
import denoiser
import tokens
import torch
from diffusers import StableDiffusionPipeline
from loop import Plan

ROOT = Path(__file__).parents[1]
STAGES = ("autoencoder", "denoiser", "export")


def main() -> None:
    """Run the stages named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"any of {', '.join(STAGES)}; default all")
    parser.add_argument("--minutes", type=float, help="limit of each training stage (default: 25, then 60)")
    parser.add_argument("--steps", type=int, help="limit of each training stage; alone, it makes a run repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=ROOT / "training/runs/shapes-diffusion")
    parser.add_argument("--out", type=Path, default=ROOT / "src/evosearch/models/shapes-diffusion")
    args = parser.parse_args()
    stages = args.stages or STAGES
    if unknown := set(stages) - set(STAGES):
        parser.error(f"unknown stage {', '.join(unknown)}; expected any of {', '.join(STAGES)}")

    def plan(learning_rate: float, minutes: float) -> Plan:
        minutes_or_none = None if args.steps and not args.minutes else args.minutes or minutes
        return Plan(learning_rate, args.steps, minutes_or_none, seed=args.seed)

    args.runs.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    first, second = (args.runs / f"{stage}.safetensors" for stage in ("autoencoder", "denoiser"))
    if "autoencoder" in stages:
        autoencoder.fit(plan(1e-3, minutes=25), first, device)
    if "denoiser" in stages:
        vae = autoencoder.load(first, device)
        denoiser.fit(plan(1e-3, minutes=60), second, vae, tokens.tokenizer(), device)
    if "export" in stages:
        export(first, second, args.out)


def export(autoencoder_checkpoint: Path, denoiser_checkpoint: Path, folder: Path) -> None:
    """Write the pipeline, each file whole or not at all.

    The text encoder stays in single precision: transformers loads the precision it finds, diffusers single
    precision, and the pipeline needs both alike.
    """
    vocabulary = tokens.tokenizer()
    model = denoiser.load(denoiser_checkpoint, vocabulary)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.load(autoencoder_checkpoint, torch.device("cpu")).half(),
        text_encoder=model.text_encoder,
        tokenizer=vocabulary,
        unet=model.unet.half(),
        scheduler=denoiser.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    temporary = folder.with_name(f"{folder.name}.tmp")
    pipeline.save_pretrained(temporary)
    for source in filter(Path.is_file, temporary.rglob("*")):
        target = folder / source.relative_to(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.chmod(0o644)  # safetensors writes files for their owner alone
        os.replace(source, target)
    shutil.rmtree(temporary)


if __name__ == "__main__":
    main()
