"""What a recipe may say about a server. The key is never a setting: only its variable's name is."""

from __future__ import annotations

import os
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reasoning.errors import ConfigError
from reasoning.naming import check_settings, explain

Flavour = Literal["auto", "vllm", "completions", "chat"]


class Settings(BaseModel):
    """Arguments of `openai/<model>`.

    base_url: up to and including /v1 (a bare host gets /v1); default: $OPENAI_BASE_URL.
    api_key_env: name of the environment variable that holds the key.
    flavour: `auto` asks the server what it is.
    tokenizer: folder (or a Tokenizer) for token ids; default: the server's model root, if it is a
        folder here. Only vLLM speaks ids; elsewhere it is an error.
    context_length: in tokens; default: what the server says, else 32768.
    seeding: `group` draws the n continuations of a request together: chain i of a request is a
        function of (first stream, position, i). `stream` sends one request for each continuation,
        so that a chain is a function of its own stream, at n times the requests.
    max_concurrency: requests open at once; lowered while the server pushes back.
    *_timeout: seconds. First byte: until the status line; without a sink a server answers only
        when all is decoded, so it bounds the whole generation there. Idle: between two reads.
    attempts: most times one request is sent. retry_budget: retries that may be outstanding in
        advance; each success earns an eighth of one (default: max_concurrency).
    retry_after_cap: most seconds a server's Retry-After is obeyed.
    recovery_seconds: how long a server that stopped answering is waited for.
    max_reply_bytes: a longer reply is cut off and an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    flavour: Flavour = "auto"
    tokenizer: Any = None
    context_length: int | None = Field(default=None, ge=2)
    seeding: Literal["group", "stream"] = "group"
    max_concurrency: int = Field(default=1024, ge=1)
    connect_timeout: float = Field(default=10.0, gt=0)
    first_byte_timeout: float = Field(default=600.0, gt=0)
    idle_timeout: float = Field(default=120.0, gt=0)
    total_timeout: float = Field(default=3600.0, gt=0)
    attempts: int = Field(default=6, ge=1)
    retry_budget: float | None = Field(default=None, ge=0)
    retry_after_cap: float = Field(default=60.0, ge=0)
    backoff: float = Field(default=0.25, gt=0)
    recovery_seconds: float = Field(default=120.0, ge=0)
    max_reply_bytes: int = Field(default=256 << 20, ge=1024)


def read(arguments: dict[str, Any]) -> Settings:
    """Checked settings. Raises ConfigError naming the argument that is unknown or wrong."""
    if "api_key" in arguments:
        raise ConfigError(
            "engine 'openai': a key is never given as an argument; put it into the "
            "environment variable OPENAI_API_KEY (or the one that `api_key_env` names)"
        )
    check_settings("engine 'openai'", Settings, arguments, ("model",))
    try:
        return Settings(**arguments)
    except ValidationError as error:
        raise ConfigError(f"engine 'openai': {explain(error)}") from None


def base_url(settings: Settings) -> str:
    """The URL that paths like /completions are appended to. Raises ConfigError."""
    given = settings.base_url or os.environ.get("OPENAI_BASE_URL")
    if not given:
        raise ConfigError(
            "engine 'openai' needs `base_url` (for example http://localhost:8000/v1), "
            "or the environment variable OPENAI_BASE_URL"
        )
    parts = urlsplit(given)
    if "@" in parts.netloc:
        raise ConfigError(
            "engine 'openai': `base_url` holds a user name or password, which would end in logs "
            f"and run files; put the key into the environment variable {settings.api_key_env}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"engine 'openai': `base_url` {given!r} is not an http(s) URL")
    if parts.query or parts.fragment:
        raise ConfigError("engine 'openai': `base_url` must have no query and no fragment")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))


def api_key(settings: Settings) -> str | None:
    """The key, from the environment only. Raises ConfigError for one that no header can hold."""
    key = os.environ.get(settings.api_key_env, "").strip()
    if not all(33 <= ord(character) < 127 for character in key):
        raise ConfigError(f"the key in {settings.api_key_env} holds spaces or odd characters")
    return key or None
