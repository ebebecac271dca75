"""YAML that anybody may have written: its events are looked at before anything is made of them."""

from __future__ import annotations

from typing import Any

LONGEST_TEXT = 4096
_MOST_VALUES = 2_000_000
_MOST_DEPTH = 20


def read_plain_yaml(text: str) -> Any:
    """What ``yaml.safe_load`` makes of it, where it is as large as it looks.

    An alias stands for whatever its anchor marks, aliases included, and a few lines of these are billions of
    values to whoever walks or merges them. JSON has no such thing, and neither has this.

    Raises:
        ValueError: it is no YAML, has an alias or a tag, is nested too deep, or has more values or a longer
            text than the limits.
        ImportError: PyYAML is not installed.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is some five times as fast
    try:
        _require_plain(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _require_plain(events: Any) -> None:
    depth = 0
    for count, event in enumerate(events):
        kind = type(event).__name__
        if kind == "AliasEvent":
            raise ValueError(f"it has the alias *{event.anchor[:80]}; write out what that stands for")
        if getattr(event, "tag", None) not in (None, "!"):  # the latter is a text in quotes
            raise ValueError(f"it has the tag {event.tag[:80]!r}; write the value without it")
        if kind in ("SequenceStartEvent", "MappingStartEvent"):
            depth += 1
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            depth -= 1
        elif kind == "ScalarEvent" and len(event.value) > LONGEST_TEXT:
            raise ValueError(f"it has a text of more than {LONGEST_TEXT:,} characters")
        if depth > _MOST_DEPTH:
            raise ValueError("it is nested too deep")
        if count > _MOST_VALUES:
            raise ValueError(f"it has more than the limit of {_MOST_VALUES:,} values")
