"""The picture at the top of README: a prompt a row, and the best sample at a growing budget."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from evosearch import models
from evosearch.run import search

PROMPTS = (
    "a red star left of a blue circle and two green squares",
    "a purple circle above a yellow star, a green triangle and a blue square",
    "three red stars and a cyan circle",
)
BUDGETS = ("1x", "10x", "100x")

_SIDE, _GAP, _TEXT, _LABEL = 192, 12, 300, 34
_INK, _PAPER, _GREY = (28, 28, 30), (255, 255, 255), (110, 110, 118)


def picture(
    model: str = "shapes-diffusion", prompts: Sequence[str] = PROMPTS, budgets: Sequence[str] = BUDGETS, seed: int = 0
) -> Image.Image:
    """Search every prompt at every budget, and lay the best out.

    Args:
        model: A bundled pipeline's name, a folder or a hub id.
        prompts: A row each.
        budgets: A column each, in samples' worth.
        seed: Run seed; the 1x column is the plain sample of this seed.
    """
    pipe = models.load(model)
    width = _TEXT + len(budgets) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _LABEL + len(prompts) * (_SIDE + _LABEL + _GAP)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for column, budget in enumerate(budgets):
        middle = _TEXT + column * (_SIDE + _GAP) + _SIDE / 2
        draw.text((middle, _LABEL / 2), budget, _INK, font, anchor="mm")
    for row, prompt in enumerate(prompts):
        top = _LABEL + row * (_SIDE + _LABEL + _GAP)
        draw.multiline_text((_GAP, top + _SIDE / 2), _wrapped(prompt), _INK, font, anchor="lm", spacing=6)
        for column, budget in enumerate(budgets):
            best = search(pipe, prompt, "shapes", budget=budget, seed=seed, progress=False).best
            assert isinstance(best.sample, Image.Image)
            left = _TEXT + column * (_SIDE + _GAP)
            sheet.paste(best.sample.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (left, top))
            draw.text((left + _SIDE / 2, top + _SIDE + 14), f"{best.reward:.2f}", _GREY, font, anchor="mm")
    return sheet


def _wrapped(prompt: str, width: int = 26) -> str:
    lines = [""]
    for word in prompt.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f"{word} "
    return "\n".join(line.strip() for line in lines)
