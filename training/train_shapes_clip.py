"""Train the bundled reward model `shapes-clip` from nothing; export it as a stock CLIPModel.

    python training/train_shapes_clip.py --compile

Stages resume from their checkpoints in the runs folder; delete a checkpoint to start its stage afresh.
"""

from pathlib import Path

import clip
import evaluate_clip
import tokens
from command import Command
from export import trained, write
from transformers import CLIPImageProcessorPil

STAGES = ("clip", "export", "card")


def main() -> None:
    """Run the stages named on the command line."""
    command = Command(__doc__, "shapes-clip", STAGES)
    checkpoint = command.checkpoint("clip")
    if "clip" in command.stages:
        model = command.start(clip.build, clip.restore)
        clip.fit(model, command.plan(1e-3, steps=1600, muon=5), checkpoint, command.compiled)
    if "export" in command.stages:
        export(checkpoint, command.out)
    if "card" in command.stages:
        evaluate_clip.write_card(command.out)


def export(checkpoint: Path, folder: Path) -> None:
    """Write the model with its tokenizer and its image processor."""
    half, square = [0.5] * 3, {"height": 64, "width": 64}
    processor = CLIPImageProcessorPil(image_mean=half, image_std=half, size={"shortest_edge": 64}, crop_size=square)
    parts = (clip.load(trained(checkpoint)), tokens.tokenizer(), processor)
    write(lambda at: [part.save_pretrained(at) for part in parts], folder, [checkpoint])


if __name__ == "__main__":
    main()
