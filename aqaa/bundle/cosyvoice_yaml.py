"""Reads ``cosyvoice.yaml`` as data: its tags name Python objects, and none of them is ever imported.

The public files are written for HyperPyYAML. Four tags occur: ``!new:``, ``!name:`` and ``!apply:`` (each
followed by a dotted name) and ``!ref <key>``. Here the first three become ``Tagged`` values and references
are replaced by what they point at.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aqaa.errors import BundleCorrupt, BundleUnsupported

_REFERENCE = re.compile(r"<([\w.-]+)((?:\[[\w.-]+\])*)>")
_INNER_KEY = re.compile(r"\[([\w.-]+)\]")


@dataclass(frozen=True)
class Tagged:
    """What upstream would turn into an object: ``target`` is its dotted name, ``value`` the arguments."""

    target: str
    value: Any

    @property
    def class_name(self) -> str:
        return self.target.rpartition(".")[2]


@dataclass(frozen=True)
class _Reference:
    text: str


class _Loader(yaml.SafeLoader):
    """The safe loader plus the four tags, taken as plain data."""


def _plain(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]  # the third kind


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Tagged:
    return Tagged(suffix, _plain(loader, node))


def _reference(loader: yaml.SafeLoader, node: yaml.Node) -> _Reference:
    return _Reference(str(_plain(loader, node)))


for _tag in ("!new:", "!name:", "!apply:"):
    _Loader.add_multi_constructor(_tag, _tagged)
_Loader.add_constructor("!ref", _reference)


class Section:
    """One mapping of the file, read key by key; ``finish`` objects to keys that nobody asked for.

    An option that this code does not know could change the arithmetic, so none is passed over.
    """

    def __init__(self, path: str, value: Mapping[str, Any]) -> None:
        self.path = path
        self._value = value
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def _get(self, key: str) -> Any:
        self._read.add(key)
        try:
            return self._value[key]
        except KeyError:
            raise BundleUnsupported(f"{self.path}: no key {key!r}") from None

    def _wrong(self, key: str, expected: str) -> BundleUnsupported:
        return BundleUnsupported(f"{self.path}.{key} is {self._value[key]!r}, expected {expected}")

    def integer(self, key: str) -> int:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(key, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        if default is not None and key not in self:
            return default
        value = self._get(key)
        try:
            # YAML 1.1 takes 1e-06 (no point) for text.
            return float(value)
        except (TypeError, ValueError):
            raise self._wrong(key, "a number") from None

    def integers(self, key: str) -> tuple[int, ...]:
        value = self._get(key)
        if not isinstance(value, Sequence) or not all(type(item) is int for item in value):
            raise self._wrong(key, "a list of whole numbers")
        return tuple(value)

    def integer_lists(self, key: str) -> tuple[tuple[int, ...], ...]:
        value = self._get(key)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self._wrong(key, "a list of lists of whole numbers")
        whole = Section(f"{self.path}.{key}", {str(i): item for i, item in enumerate(value)})
        return tuple(whole.integers(str(i)) for i in range(len(value)))

    def section(self, key: str, class_name: str | None = None) -> "Section":
        """A nested mapping; with ``class_name`` it must be tagged with a class of that name."""
        value = self._get(key)
        if class_name is not None:
            if not isinstance(value, Tagged) or value.class_name != class_name:
                found = value.target if isinstance(value, Tagged) else repr(value)
                raise BundleUnsupported(f"{self.path}.{key} is {found}, expected a {class_name}")
            value = value.value
        if not isinstance(value, Mapping):
            raise self._wrong(key, "a mapping")
        return Section(f"{self.path}.{key}", value)

    def require(self, **expected: object) -> None:
        """Each given key, if present, must have this value: the only one this code implements."""
        for key, value in expected.items():
            if key in self and self._get(key) != value:
                raise self._wrong(key, repr(value))

    def ignore(self, *keys: str) -> None:
        """Keys that mean nothing here."""
        self._read.update(keys)

    def finish(self) -> None:
        if unknown := sorted(self._value.keys() - self._read):
            raise BundleUnsupported(f"{self.path}: options this code does not know: {', '.join(unknown)}")


def read_cosyvoice_yaml(path: Path) -> Section:
    """The file as one ``Section``.

    Raises:
        BundleCorrupt: missing, or not YAML.
        BundleUnsupported: another tag, or a reference that is not ``<key>`` or ``<key[inner]>`` of the file.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader: builds plain data only
    except FileNotFoundError as error:
        raise BundleCorrupt(f"{path}: no such file") from error
    except yaml.constructor.ConstructorError as error:
        raise BundleUnsupported(f"{path}: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleCorrupt(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise BundleCorrupt(f"{path}: holds a {type(content).__name__}, expected a mapping")
    try:
        return Section(path.name, _resolved(content, content))
    except RecursionError as error:
        raise BundleCorrupt(f"{path}: a reference or alias contains itself") from error


def _resolved(value: Any, root: Mapping[str, Any]) -> Any:
    if isinstance(value, _Reference):
        return _resolved(_target(value, root), root)
    if isinstance(value, Tagged):
        return Tagged(value.target, _resolved(value.value, root))
    if isinstance(value, dict):
        return {key: _resolved(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, root) for item in value]
    return value


def _target(reference: _Reference, root: Mapping[str, Any]) -> Any:
    match = _REFERENCE.fullmatch(reference.text)
    if match is None:
        raise BundleUnsupported(f"!ref {reference.text}: expected <key> or <key[inner]>, without arithmetic")
    value: Any = root
    for key in (match[1], *_INNER_KEY.findall(match[2])):
        value = value.value if isinstance(value, Tagged) else value
        if not isinstance(value, Mapping) or key not in value:
            raise BundleUnsupported(f"!ref {reference.text}: no key {key!r} there")
        value = value[key]
    return value
