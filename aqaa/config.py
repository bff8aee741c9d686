"""Settings of a service: frozen, from defaults < file < environment < flags, refused at start-up when wrong.

    class TokenizerSettings(ServiceSettings):
        \"\"\"What the tokenizer can be told.\"\"\"

        service = "tokenizer"
        threads: int = Field(1, ge=1, le=64, description="threads of a pass through the model")

    settings = TokenizerSettings.at_start_up(sys.argv[1:], os.environ)

reads the table ``[tokenizer]`` of the TOML file that ``--config`` or ``AQAA_CONFIG`` names, then
``AQAA_TOKENIZER_THREADS``, then ``--threads``. Needs the ``serve`` extra: clients do not import it.

A name that is not known is refused, in the environment too. Kubernetes puts ``AQAA_TOKENIZER_PORT=tcp://…``
into every pod beside a Service ``aqaa-tokenizer``: its pods need ``enableServiceLinks: false``.
"""

import argparse
import difflib
import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Self

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UndecodableSetting

from aqaa.errors import SettingsError

CONFIG_VARIABLE = "AQAA_CONFIG"
DEFAULT = "default"


class Settings(BaseSettings):
    """The base. A subclass names its ``service`` and adds fields, each with a description and its range.

    Fields are flat: numbers, text, choices, paths, lists of these. A SecretStr has no flag (a command line is
    for all to see) and is never printed.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    service: ClassVar[str]

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Made directly, settings are what they are given; only ``load`` looks further."""
        return (init_settings,)

    @classmethod
    def load(cls, flags: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Self:
        """``flags``: without the program's name. ``environ``: none at all by default.

        Raises:
            SettingsError: one line for each setting that is wrong, with its value, its origin and what is
                allowed.
        """
        given = cls._parse(flags)
        return cls._load(given, {} if environ is None else environ)

    @classmethod
    def at_start_up(cls, flags: Sequence[str], environ: Mapping[str, str]) -> Self:
        """As ``load`` for a program's first line: says what is wrong and ends it with status 2.

        ``--print-config`` prints what ``dump`` gives, ``--help`` the flags; both end the program.
        """
        try:
            given = cls._parse(flags)
            settings = cls._load(given, environ)
        except SettingsError as error:
            sys.exit(_say(f"aqaa-{cls.service} cannot start:\n{error}"))
        if given.print_config:
            print(settings.dump(), end="")
            sys.exit(0)
        return settings

    def dump(self) -> str:
        """The settings as a file that ``--config`` reads, each with its origin. No secret is in it."""
        lines = [f"[{self.service}]"]
        for name, schema in _schemas(type(self)).items():
            value, origin = getattr(self, name), self._origins.get(name, DEFAULT)
            if value is None:
                lines.append(f"# {name} is not set")
            elif _is_secret(schema):
                lines.append(f"# {name} is a secret  # {origin}")
            else:
                lines.append(f"{name} = {_toml(value)}  # {origin}")
        return "\n".join(lines) + "\n"

    @classmethod
    def _parse(cls, flags: Sequence[str]) -> argparse.Namespace:
        given, rest = cls._parser().parse_known_args(list(flags))
        if rest:  # values are not repeated: a secret may be among them
            names = [word.partition("=")[0] for word in rest if word.startswith("-")]
            raise SettingsError(f"flags: unknown {' '.join(names) or 'value without a flag'}; see --help")
        return given

    @classmethod
    def _parser(cls) -> "_Parser":
        parser = _Parser(prog=f"aqaa-{cls.service}", description=cls.__doc__, allow_abbrev=False)
        parser.add_argument(
            "--config", metavar="FILE", help=f"TOML, table [{cls.service}]; or {CONFIG_VARIABLE}"
        )
        parser.add_argument("--print-config", action="store_true", help="print the settings and end")
        for name, schema in _schemas(cls).items():
            if not _is_secret(schema):
                about = [schema.get("description", ""), f"[{_allowed(schema)}]"]
                about += (
                    [f"(default: {_toml(schema['default'])})"] if schema.get("default") is not None else []
                )
                parser.add_argument(
                    _flag(name),
                    metavar="VALUE",
                    default=argparse.SUPPRESS,
                    help=" ".join(about).replace("%", "%%"),
                )
        return parser

    @classmethod
    def _load(cls, given: argparse.Namespace, environ: Mapping[str, str]) -> Self:
        prefix = f"AQAA_{cls.service.upper()}_"
        file = given.config or environ.get(CONFIG_VARIABLE)
        flags = {
            f"{prefix}{name.upper()}": value
            for name, value in vars(given).items()
            if name in cls.model_fields
        }
        in_environ = {name: value for name, value in environ.items() if name.startswith(prefix)}
        known = {f"{prefix}{name.upper()}" for name in cls.model_fields}
        wrong = [
            f"{name}: no such setting{_nearest(name, known)}"
            for name in sorted(in_environ)
            if name not in known
        ]

        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        layers: list[tuple[dict[str, Any], Callable[[str], str]]] = [
            (cls._from_file(Path(file), wrong), lambda name: str(file)) if file else ({}, str),
            (cls._from_text(in_environ, prefix, wrong), lambda name: f"{prefix}{name.upper()}"),
            (cls._from_text(flags, prefix, wrong), _flag),
        ]
        for layer, origin in layers:
            values |= layer
            origins |= {name: origin(name) for name in layer}
        try:
            settings = cls(**values)
        except ValidationError as error:
            schemas = _schemas(cls)
            wrong += [cls._fault(dict(fault), schemas, origins) for fault in error.errors(include_url=False)]
        if wrong:
            raise SettingsError("\n".join(wrong))
        settings._origins.update(origins)
        return settings

    @classmethod
    def _from_file(cls, file: Path, wrong: list[str]) -> dict[str, Any]:
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            wrong.append(f"{file}: cannot be read: {error}")
            return {}
        except tomllib.TOMLDecodeError as error:
            wrong.append(f"{file}: not TOML: {error}")
            return {}
        table = tables.get(cls.service, {})
        if not isinstance(table, dict):
            wrong.append(f"{file}: {cls.service} = {table!r}, expected a table [{cls.service}]")
            return {}
        unknown = [name for name in table if name not in cls.model_fields]
        wrong += [f"{name} in {file}: no such setting{_nearest(name, cls.model_fields)}" for name in unknown]
        return {name: value for name, value in table.items() if name in cls.model_fields}

    @classmethod
    def _from_text(cls, texts: Mapping[str, str], prefix: str, wrong: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for variable, text in texts.items():
            try:
                found |= _TextSource(cls, {variable: text}, prefix)()
            except UndecodableSetting:
                wrong.append(f'{variable}: expected JSON, as in ["a", "b"]')
        return found

    @classmethod
    def _fault(
        cls, fault: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]], origins: Mapping[str, str]
    ) -> str:
        message = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:
            return str(message)
        name = str(fault["loc"][0])
        schema, origin = schemas[name], origins.get(name, DEFAULT)
        if fault["type"] == "missing":
            variable = f"AQAA_{cls.service.upper()}_{name.upper()}"
            return f"{name}: not set, expected {_allowed(schema)}; set {variable}"
        if _is_secret(schema):
            return f"{name} (from {origin}): a secret that cannot be used, expected {_allowed(schema)}"
        custom = f": {message}" if fault["type"] == "value_error" else ""
        return f"{name} = {fault['input']!r} (from {origin}): expected {_allowed(schema)}{custom}"


class ServiceSettings(Settings):
    """What every service can be told."""

    profile: Literal["production", "development"] = Field(
        "production", description="development: reflection, a default caller, messages in logged tracebacks"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="gRPC port, 0 for any free one")
    metrics_host: str = Field("127.0.0.1", description="address of the metrics")
    metrics_port: int = Field(0, ge=0, le=65535, description="HTTP port of the metrics, 0 for any free one")
    drain_seconds: float = Field(
        25.0, ge=0, le=3600, description="from SIGTERM until calls that still run are ended"
    )
    max_message_bytes: int = Field(5 * 2**20, ge=2**16, le=2**28, description="of a request or response")
    keepalive_seconds: float = Field(30.0, ge=10, le=3600, description="between pings of an open connection")
    keepalive_timeout_seconds: float = Field(10.0, ge=1, le=600, description="for the answer to a ping")
    connection_age_seconds: float = Field(
        300.0,
        ge=1,
        le=86400,
        description="until a client is asked to connect anew, perhaps to another replica",
    )
    connection_age_grace_seconds: float = Field(
        3600.0, ge=1, le=86400, description="for calls on a connection that has reached its age"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level of log lines"
    )
    otlp_endpoint: str | None = Field(None, description="where traces go, http://host:4317; unset: nowhere")
    trace_ratio: float = Field(1.0, ge=0, le=1, description="share of traces begun here that are recorded")

    @property
    def development(self) -> bool:
        """Whether callers are trusted and more may be shown."""
        return self.profile == "development"


class _TextSource(EnvSettingsSource):
    """Values written as text: of the environment, and of flags under the same names."""

    def __init__(self, settings_cls: type[BaseSettings], texts: Mapping[str, str], prefix: str) -> None:
        self._texts = {name.lower(): value for name, value in texts.items()}
        super().__init__(settings_cls, case_sensitive=False, env_prefix=prefix)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._texts


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"flags: {message}; see --help")


def _schemas(settings: type[Settings]) -> dict[str, dict[str, Any]]:
    """JSON schema of each field, in order."""
    properties: dict[str, dict[str, Any]] = settings.model_json_schema().get("properties", {})
    return properties


def _is_secret(schema: Mapping[str, Any]) -> bool:
    return bool(schema.get("writeOnly")) or any(map(_is_secret, schema.get("anyOf", ())))


def _allowed(schema: Mapping[str, Any]) -> str:
    """A field's type and range in words: ``integer, 0 … 65535``."""
    if kinds := schema.get("anyOf"):
        return " or ".join(_allowed(kind) for kind in kinds if kind.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    words = str(schema.get("type", "a value"))
    if words == "array":
        words = f"list of {_allowed(schema.get('items', {}))}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        words += f", {_number(low)} … {_number(high)}"
    limits = {
        "at least": low if high is None else None,
        "at most": high if low is None else None,
        "more than": schema.get("exclusiveMinimum"),
        "less than": schema.get("exclusiveMaximum"),
    }
    words += "".join(f", {how} {_number(limit)}" for how, limit in limits.items() if limit is not None)
    if "pattern" in schema:
        words += f" like {schema['pattern']}"
    if schema.get("minLength"):
        words += ", not empty"
    return words


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _toml(value: Any) -> str:
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False)


def _say(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
