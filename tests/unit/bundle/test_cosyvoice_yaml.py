"""``cosyvoice.yaml`` is read as data: tags never run, references resolve, unknown options are refused."""

from pathlib import Path

import pytest

from aqaa.bundle.cosyvoice_yaml import Section, Tagged, read_cosyvoice_yaml
from aqaa.errors import BundleCorrupt, BundleUnsupported


def read(tmp_path: Path, text: str) -> Section:
    path = tmp_path / "cosyvoice.yaml"
    path.write_text(text, encoding="utf-8")
    return read_cosyvoice_yaml(path)


def test_tags_of_the_public_files_are_data(tmp_path: Path) -> None:
    """The head of a public file: calls, names with and without arguments, lists of references."""
    document = read(
        tmp_path,
        """
__set_seed1: !apply:random.seed [1986]
sample_rate: 22050
get_tokenizer: !name:whisper.tokenizer.get_tokenizer
    multilingual: True
opener: !name:cosyvoice.dataset.processor.parquet_opener
pipeline: [
    !ref <opener>,
    !ref <get_tokenizer>
]
flow: !new:some.place.Flow
    rate: !ref <sample_rate>
    inner: {rate: !ref "<flow[rate]>"}
""",
    )
    flow = document.section("flow", "Flow")
    assert flow.integer("rate") == 22050
    assert flow.section("inner").integer("rate") == 22050
    assert document.section("get_tokenizer", "get_tokenizer").path == "cosyvoice.yaml.get_tokenizer"


def test_an_object_tag_is_never_built(tmp_path: Path) -> None:
    marker = tmp_path / "touched"
    document = read(tmp_path, f"x: !apply:os.system ['touch {marker}']\ny: !new:pathlib.Path ['{marker}']")
    with pytest.raises(BundleUnsupported, match=r"x is os.system, expected a Flow"):
        document.section("x", "Flow")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "x: !!python/object/apply:os.system ['true']",
            BundleUnsupported,
            "could not determine a constructor",
        ),
        ("x: !include other.yaml", BundleUnsupported, "could not determine a constructor"),
        ("x: !ref <y>", BundleUnsupported, r"!ref <y>: no key 'y'"),
        ("y: 3\nx: !ref <y> * 2", BundleUnsupported, "without arithmetic"),
        ("y: {z: 1}\nx: !ref <y[a]>", BundleUnsupported, "no key 'a'"),
        ("x: !ref <y>\ny: !ref <x>", BundleCorrupt, "contains itself"),
        ("x: [1", BundleCorrupt, "not YAML"),
        ("- 1", BundleCorrupt, "holds a list, expected a mapping"),
    ],
)
def test_files_refused(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleCorrupt, match="no such file"):
        read_cosyvoice_yaml(tmp_path / "absent.yaml")


def test_numbers_without_a_point(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-06 for text; upstream means the number."""
    document = read(tmp_path, "sigma: 1e-06\nword: fast")
    assert document.number("sigma") == 1e-6
    assert document.number("absent", 0.25) == 0.25
    with pytest.raises(BundleUnsupported, match=r"cosyvoice.yaml.word is 'fast', expected a number"):
        document.number("word")


def test_every_key_must_be_asked_for() -> None:
    section = Section("flow", {"a": 1, "b": 2, "c": 3, "d": 4})
    section.integer("a")
    section.require(b=2, absent=7)
    section.ignore("c")
    with pytest.raises(BundleUnsupported, match="flow: options this code does not know: d"):
        section.finish()


def test_faults_name_key_value_and_expectation() -> None:
    section = Section("hift", {"n": True, "list": [1, "2"], "lists": 4, "mapping": 5, "kind": "b"})
    with pytest.raises(BundleUnsupported, match=r"hift\.n is True, expected a whole number"):
        section.integer("n")
    with pytest.raises(BundleUnsupported, match=r"hift: no key 'm'"):
        section.integer("m")
    with pytest.raises(BundleUnsupported, match=r"hift\.list is .* expected a list of whole numbers"):
        section.integers("list")
    with pytest.raises(BundleUnsupported, match=r"hift\.lists is 4, expected a list of lists"):
        section.integer_lists("lists")
    with pytest.raises(BundleUnsupported, match=r"hift\.mapping is 5, expected a mapping"):
        section.section("mapping")
    with pytest.raises(BundleUnsupported, match=r"hift\.mapping is 5, expected a Flow"):
        section.section("mapping", "Flow")
    with pytest.raises(BundleUnsupported, match=r"hift\.kind is 'b', expected 'a'"):
        section.require(kind="a")


def test_class_name_is_the_last_part() -> None:
    assert Tagged("cosyvoice.flow.flow.MaskedDiffWithXvec", None).class_name == "MaskedDiffWithXvec"
