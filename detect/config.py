"""How YAML becomes validated settings. Every mistake of a file is listed at once, unknown keys included."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from detect.errors import ConfigError

_PLAIN_KEYS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


class Settings(BaseModel):
    """Base of every settings model: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


S = TypeVar("S", bound=Settings)


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping read safely. ConfigError names the file and the line."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), remedy="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path), remedy="save it as UTF-8 text") from error
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            twice = _key_twice(loader, node)
            value = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except Exception as error:  # PyYAML's constructors raise whatever a value makes them meet: 2024-13-45 is no date
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"not valid YAML: {problem}", where=where, remedy="mend that line") from error
    if twice is not None:
        what = f"the key '{twice.value}' stands twice"
        raise ConfigError(what, where=f"{path}:{twice.start_mark.line + 1}", remedy="leave one of the two")
    if not isinstance(value, dict):
        raise ConfigError(f"expected 'key: value' lines, got {type(value).__name__}", where=str(path))
    return value


def _key_twice(loader: yaml.SafeLoader, root: Any) -> Any:
    """The node of a key that stands twice in one mapping, of which YAML would keep the last silently; else None."""
    waiting: list[Any] = [] if root is None else [root]
    known: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in known or isinstance(node, yaml.ScalarNode):  # an alias may lead back to where it stands
            continue
        known.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        seen: set[Any] = set()
        for key, value in node.value:
            waiting.append(value)
            # As Python sees it: 1 and 01 are one key. Tags such as that of '<<' make no value of their own.
            said = loader.construct_object(key) if key.tag in _PLAIN_KEYS else (key.tag, str(key.value))
            if said in seen:
                return key
            seen.add(said)
    return None


def parse(model: type[S], values: dict[str, Any], where: str) -> S:
    """`values` as settings of `model`; ConfigError lists every mistake with its key, value and likely remedy."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, e) for e in error.errors()]
        raise ConfigError(
            f"{len(lines)} mistake{'s' if len(lines) > 1 else ''} in the settings:\n  - " + "\n  - ".join(lines),
            where=where,
            remedy="correct the keys named above",
        ) from None


def load(model: type[S], path: Path) -> S:
    """The settings of `model` read from a YAML file."""
    return parse(model, load_yaml(path), str(path))


def dump(settings: BaseModel) -> str:
    """Settings as YAML text, keys in their order of definition."""
    text: str = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    return text


def _explain(model: type[BaseModel], error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else (f"; known keys: {', '.join(known)}" if known else "")
        return f"{key}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{key}: missing"
    if isinstance(error["input"], dict | BaseModel):  # a rule over several keys; the whole mapping says nothing
        return f"{key}: {error['msg']}" if key else str(error["msg"])
    return f"{key}: {error['msg']}, got {error['input']!r}"


def _keys_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    models = [model]
    for part in loc:
        inner = [
            m for known in models if part in known.model_fields for m in _models_in(known.model_fields[part].annotation)
        ]
        models = inner or models  # a number or a key within a list or mapping of settings
    return [name for known in models for name in known.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]
