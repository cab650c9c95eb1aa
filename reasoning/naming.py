"""Specs: how recipes and callers name an extension, and how it is built from its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from reasoning.errors import ConfigError
from reasoning.registry import Registry, nearest

if TYPE_CHECKING:
    from pydantic import ValidationError

# A registry name, or a mapping with `name` and settings.
Spec = str | dict[str, Any]
# By kind, what stands among the settings and is read before the object is built.
_BESIDES = {"task": ("count",), "chain_policy": ("label",), "verifier": ("model",)}


def build(registry: Registry, spec: Any) -> Any:
    """The object that a spec names. One that has been built is returned as it is.

    Raises UnknownName for a name, ConfigError for a setting that does not exist or is wrong.
    """
    if spec is None or isinstance(spec, int | float | list | tuple):
        raise ConfigError(
            f"{spec!r} is no {registry.kind}: give its name, or a mapping with `name` and settings"
        )
    if not isinstance(spec, str | dict):
        return spec
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"a {registry.kind} needs a `name`: {spec!r}")
    kind = registry.get(name)
    who = f"{registry.kind} {name!r}"
    check_settings(who, kind, settings, _BESIDES.get(registry.kind, ()))
    from pydantic import ValidationError  # loaded with the kind; `import reasoning` does without

    try:
        return kind(**settings)
    except ValidationError as error:
        raise ConfigError(f"{who}: {explain(error)}") from None
    except TypeError as error:
        raise ConfigError(f"{who}: {error}") from None


def check_settings(
    who: str, kind: Callable[..., Any], given: Iterable[Any], besides: Iterable[str] = ()
) -> None:
    """Raise ConfigError for a setting that `kind` does not take, with those that it does."""
    parameters = inspect.signature(kind).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [*parameters, *besides]
    for name in map(str, given):
        if name not in known:
            raise ConfigError(
                f"{who}: unknown setting `{name}`: {nearest(name, known)}"
                f"known are {', '.join(known) or 'none'}"
            )


def explain(error: ValidationError) -> str:
    """A pydantic error as one line: where, and what is wrong there."""
    parts = []
    for problem in error.errors(include_url=False, include_context=False, include_input=True):
        where = ".".join(str(part) for part in problem["loc"])
        given = repr(problem.get("input"))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            parts.append(f"unknown setting `{where}`")
        else:
            place = f"`{where}`: " if where else ""
            parts.append(f"{place}{message} (given {given[:60]})")
    return "; ".join(parts)
