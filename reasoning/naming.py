"""Specs: how recipes and callers name an extension, and how it is built from its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reasoning.errors import ConfigError
from reasoning.registry import Registry

if TYPE_CHECKING:
    from pydantic import ValidationError

# A registry name, or a mapping with `name` and settings.
Spec = str | dict[str, Any]


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
    from pydantic import ValidationError  # loaded with the kind; `import reasoning` does without

    try:
        return kind(**settings)
    except ValidationError as error:
        raise ConfigError(f"{registry.kind} {name!r}: {explain(error)}") from None
    except TypeError as error:
        raise ConfigError(f"{registry.kind} {name!r}: {error}") from None


def explain(error: ValidationError) -> str:
    """A pydantic error as one line: where, and what is wrong there."""
    parts = []
    for problem in error.errors(include_url=False, include_context=False, include_input=True):
        where = ".".join(str(part) for part in problem["loc"]) or "value"
        given = repr(problem.get("input"))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            parts.append(f"unknown setting `{where}`")
        else:
            parts.append(f"`{where}`: {message} (given {given[:60]})")
    return "; ".join(parts)
