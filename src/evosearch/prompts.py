"""Sets of prompts, from the files that benchmarks publish.

`LAYOUTS` is the table of contents: a file's columns or keys tell what it is, never its name. Text is one prompt a line;
CSV has a header; JSON is a list of objects, an object of objects, or an object a line. A prompt keeps all that its file
says of it. Prompts that come twice stay twice: suites number samples by the place of the prompt in the file.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

_T = TypeVar("_T")

_SHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_ENDINGS = (".txt", ".csv", ".jsonl", ".json")


@dataclass(frozen=True)
class Layout:
    """How a set is laid out.

    Attributes:
        name: The sets that are laid out so.
        text: Column or key of the prompt.
        keys: What else tells the layout.
    """

    name: str
    text: str
    keys: tuple[str, ...] = ()


LAYOUTS = (
    Layout("VBench, VBench-2.0", "prompt_en", ("dimension",)),
    Layout("VBench-2.0, each prompt once", "caption", ("dimension",)),
    Layout("GenEval", "prompt", ("tag", "include")),
    Layout("DrawBench", "prompts", ("category",)),
    # Sets in English and Chinese, as those of VideoGen-Eval and TA-Hard are, and anybody's own.
    *(Layout("others", text) for text in ("prompt_en", "prompt", "prompts", "text", "caption")),
)
"""The first that fits is taken; capitals make no difference."""


class Prompt(str):
    """A prompt and where it comes from.

    Attributes:
        source: Name of its file.
        place: Its number there, from 0.
        of: Prompts in the file.
        entry: What the file says of it, the prompt included; empty in a text file.
    """

    source: str
    place: int
    of: int
    entry: dict[str, Any]

    @property
    def origin(self) -> dict[str, Any]:
        """All but the text, for a manifest."""
        return {"source": self.source, "place": self.place, "of": self.of, "entry": self.entry}


def read(source: str | Path) -> list[Prompt]:
    """The prompts of a set, in order.

    Args:
        source: A file in UTF-8, ``owner/dataset`` on the hub, or ``hf://datasets/owner/dataset/file``.

    Raises:
        ValueError: There is no such file, or a place in it is not as expected.
    """
    path = _file(str(source))
    records = _records(_text(path), path)
    if not records:
        raise ValueError(f"prompts must be a file with prompts in it, but {path} is empty")
    entries = [(where, cast("dict[str, Any]", entry)) for where, entry in records if isinstance(entry, dict)]
    layout = _layout(entries[0][1]) if entries else None
    if entries and layout is None:
        raise _wrong(path, entries[0][0], f"one of {_known()} as the prompt", _named(entries[0][1]))
    prompts: list[Prompt] = []
    for where, entry in records:
        prompt = Prompt(_prompt(path, where, entry, layout))
        prompt.source, prompt.place, prompt.of = path.name, len(prompts), len(records)
        prompt.entry = dict(entry) if isinstance(entry, dict) else {}
        prompts.append(prompt)
    return prompts


def _prompt(path: Path, where: str, entry: Any, layout: Layout | None) -> str:
    text = entry
    if layout is not None:
        if not isinstance(entry, dict):
            raise _wrong(path, where, f"an object with {layout.text!r}, as before", repr(entry))
        if (key := _key(entry, layout.text)) is None:
            raise _wrong(path, where, f"{layout.text!r}, as before", _named(entry))
        text = entry[key]
    if not isinstance(text, str) or not text.strip():
        raise _wrong(path, where, "a prompt", repr(text))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _wrong(path, where, "a prompt of whole characters", ascii(text)) from None
    return text


def _records(text: str, path: Path) -> list[tuple[str, Any]]:
    """Where each entry stands, and the entry: text or an object."""
    ending = path.suffix.lower()
    first = next((line for line in text.split("\n") if line.strip()), "")
    if ending in (".json", ".jsonl") or _is_json(first, text):
        return _json(text, path)
    if ending == ".csv" or _is_header(first):
        return list(_csv(text, path))
    return [(f"line {k}", line.strip()) for k, line in enumerate(text.split("\n"), 1) if line.strip()]


def _is_json(first: str, text: str) -> bool:
    if first.lstrip()[:1] not in ("{", "["):
        return False
    for part in (first, text):
        try:
            json.loads(part)
            return True
        except (ValueError, RecursionError):
            continue
    return False


def _is_header(line: str) -> bool:
    """Whether this is the header of a named set; prompts may have commas, too."""
    layout = _layout(dict.fromkeys(cell.strip(' "') for cell in line.split(",")))
    return layout is not None and bool(layout.keys)


def _csv(text: str, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    # Line ends stay as they are in quotes; strict, since a quote left open would swallow the rest.
    rows = csv.reader(re.findall(r"[^\n]*\n|[^\n]+", text), strict=True)
    header: list[str] = []
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [name.strip() for name in row]
            elif len(row) != len(header):
                expected = f"{len(header)} cells as in the header (quotes around a prompt with commas)"
                raise _wrong(path, f"line {rows.line_num}", expected, f"{len(row)}: {', '.join(row)}")
            else:
                yield f"line {rows.line_num}", {name: cell for name, cell in zip(header, row, strict=True) if name}
    except csv.Error as error:
        raise _wrong(path, f"line {rows.line_num}", "CSV", str(error)) from None


def _json(text: str, path: Path) -> list[tuple[str, Any]]:
    try:
        whole = json.loads(text) if text.strip() else []
    except RecursionError:
        raise _wrong(path, "line 1", "a list of prompts", "lists within lists without end") from None
    except ValueError as error:
        lines = [(k, line) for k, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) == 1 or not _is_object(lines[0][1]):
            line = getattr(error, "lineno", 1)
            raise _wrong(path, f"line {line}", "JSON, or an object a line", str(error)) from None
        return [(f"line {k}", _object(path, k, line)) for k, line in lines]
    if isinstance(whole, dict):
        values = list(cast("dict[str, Any]", whole).values())
        whole = values if values and all(isinstance(v, dict) for v in values) else [whole]
    if not isinstance(whole, list):
        raise _wrong(path, "line 1", "a list of prompts", repr(whole))
    return [(f"entry {k}", entry) for k, entry in enumerate(cast("list[Any]", whole), 1)]


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict | str)
    except (ValueError, RecursionError):
        return False


def _object(path: Path, k: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"line {k}", "a JSON object", str(error)) from None


def _layout(entry: Mapping[str, Any]) -> Layout | None:
    return next((row for row in LAYOUTS if all(_key(entry, key) is not None for key in (row.text, *row.keys))), None)


def _key(entry: Mapping[str, Any], name: str) -> str | None:
    """A key as the entry writes it."""
    return next((key for key in entry if key.casefold() == name), None)


def _known() -> str:
    return ", ".join(dict.fromkeys(row.text for row in LAYOUTS))


def _named(entry: Iterable[str]) -> str:
    return ", ".join(entry) or "nothing"


def _wrong(path: Path, where: str, expected: str, got: str) -> ValueError:
    got = got if len(got) <= 200 else f"{got[:199]}…"
    return ValueError(f"prompts file {path}, {where}: expected {expected}, got {got}")


def _text(path: Path) -> str:
    """The file's text, lines ended by a line feed alone."""
    if path.suffix.lower() in _SHEETS:
        raise ValueError(f"prompts must be text, CSV or JSON, but {path} is a spreadsheet; export it as csv, in UTF-8")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"prompts must be a text file in UTF-8, but {path} is not ({error.reason} in line {line}); save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"prompts must be a text file in UTF-8, but {path} is not (NUL in line {line})")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _file(source: str) -> Path:
    """The file itself, from the hub where it is named so."""
    from_hub = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", source)
    path = Path(source)
    if source.startswith("hf://"):
        if from_hub is None:
            raise ValueError(f"prompts on the hub must be hf://datasets/owner/dataset/file, got {source!r}")
        return _download(from_hub[1], from_hub[3], from_hub[2])
    if path.is_file():
        return path
    if path.exists():
        raise ValueError(f"prompts must be a text file with one prompt a line, CSV or JSON, but {path} is no file")
    if path.suffix.lower() in _ENDINGS or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise ValueError(
            "prompts must be a text file with one prompt a line, CSV, JSON or a dataset on the hub, but there is no "
            f"file {path}"
        )
    return _download(source, None, None)


def _download(repo: str, name: str | None, revision: str | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    where: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
    if name is None:
        name = _only_file(repo, _asked(repo, lambda: HfApi().list_repo_files(repo, **where)))
    return Path(_asked(repo, lambda: hf_hub_download(repo, name, **where)))


def _asked(repo: str, question: Callable[[], _T]) -> _T:
    """The hub's answer."""
    from huggingface_hub.utils import logging

    told = logging.get_verbosity()
    logging.set_verbosity_error()  # it would tell of each try
    try:
        return question()
    except Exception as error:  # of its HTTP client, too, which is another in other releases
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(
            f"prompts {repo} cannot be had from the hub ({first}); check its name and the network, or give a file"
        ) from None
    finally:
        logging.set_verbosity(told)


def _only_file(repo: str, files: list[str]) -> str:
    readable = [file for file in files if Path(file).suffix.lower() in _ENDINGS]
    if len(readable) != 1:
        found = f"these: {', '.join(readable)}" if readable else f"none of {', '.join(_ENDINGS)}"
        raise ValueError(
            f"prompts must name one file of {repo}, as hf://datasets/{repo}/file, since it has {found[:400]}"
        )
    return readable[0]
