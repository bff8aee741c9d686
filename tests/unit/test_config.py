"""Settings: which source wins, and what is said when one is wrong."""

import tomllib
from typing import Literal

import pytest
from pydantic import Field, SecretStr, ValidationError, model_validator

from aqaa.config import ServiceSettings
from aqaa.errors import SettingsError


class ToySettings(ServiceSettings):
    """What a toy can be told."""

    service = "toy"

    threads: int = Field(1, ge=1, le=8, description="threads of a pass")
    share: float = Field(0.5, gt=0, description="of 100% of a core")
    engine: Literal["torch", "triton"] = "torch"
    replicas: tuple[str, ...] = ()
    redis_url: SecretStr | None = None

    @model_validator(mode="after")
    def _fits(self):
        if self.engine == "triton" and not self.replicas:
            raise ValueError("engine = 'triton' needs replicas, expected at least one")
        return self


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "aqaa.toml"
    path.write_text("[toy]\nthreads = 2\nshare = 0.25\nengine = 'torch'\n[other]\nthreads = 99\n")
    return path


def test_defaults_yield_to_the_file_the_environment_and_the_flags_in_turn(file):
    assert ToySettings.load().threads == 1
    environ = {"AQAA_CONFIG": str(file)}
    assert (ToySettings.load([], environ).threads, ToySettings.load([], environ).share) == (2, 0.25)
    environ["AQAA_TOY_THREADS"] = "3"
    assert ToySettings.load([], environ).threads == 3
    settings = ToySettings.load(["--threads", "4"], environ)
    assert (settings.threads, settings.share) == (4, 0.25)


def test_the_flag_names_the_file_before_the_environment_does(file, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text("[toy]\nthreads = 7\n")
    assert ToySettings.load(["--config", str(other)], {"AQAA_CONFIG": str(file)}).threads == 7


def test_the_environment_of_the_process_is_not_looked_at_behind_ones_back(monkeypatch):
    monkeypatch.setenv("AQAA_TOY_THREADS", "5")
    assert ToySettings().threads == 1
    assert ToySettings.load([], {}).threads == 1


def test_lists_are_json_in_text_and_lists_in_files(tmp_path):
    assert ToySettings.load(["--replicas", '["a:1", "b:2"]']).replicas == ("a:1", "b:2")
    path = tmp_path / "a.toml"
    path.write_text('[toy]\nreplicas = ["c:3"]\n')
    assert ToySettings.load(["--config", str(path)]).replicas == ("c:3",)
    with pytest.raises(SettingsError, match="AQAA_TOY_REPLICAS: expected JSON"):
        ToySettings.load([], {"AQAA_TOY_REPLICAS": "a,b"})


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        ToySettings().threads = 3


def test_every_wrong_setting_is_one_line_with_key_value_origin_and_range(file):
    environ = {"AQAA_CONFIG": str(file), "AQAA_TOY_SHARE": "-1", "AQAA_TOY_ENGINE": "jax"}
    with pytest.raises(SettingsError) as found:
        ToySettings.load(["--threads", "9", "--port", "x"], environ)
    assert sorted(str(found.value).splitlines()) == [
        "engine = 'jax' (from AQAA_TOY_ENGINE): expected one of torch, triton",
        "port = 'x' (from --port): expected integer, 0 … 65535",
        "share = '-1' (from AQAA_TOY_SHARE): expected number, more than 0",
        "threads = '9' (from --threads): expected integer, 1 … 8",
    ]


def test_settings_that_do_not_fit_together_say_so():
    with pytest.raises(SettingsError) as found:
        ToySettings.load(["--engine", "triton"])
    assert str(found.value) == "engine = 'triton' needs replicas, expected at least one"


@pytest.mark.parametrize(
    ("flags", "environ", "said"),
    [
        ([], {"AQAA_TOY_THRAEDS": "2"}, "AQAA_TOY_THRAEDS: no such setting, did you mean AQAA_TOY_THREADS?"),
        (["--thraeds", "2"], {}, "flags: unknown --thraeds"),
        (["--redis-url", "redis://:geheim@host"], {}, "flags: unknown --redis-url"),
        (["stray"], {}, "flags: unknown value without a flag"),
        (["--threads"], {}, "--threads: expected one argument"),
        (["--config", "nowhere.toml"], {}, "nowhere.toml: cannot be read"),
    ],
)
def test_a_name_that_is_not_known_is_refused(flags, environ, said):
    with pytest.raises(SettingsError) as found:
        ToySettings.load(flags, environ)
    assert said in str(found.value)
    assert "geheim" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[toy]\nprot = 1\n", "no such setting, did you mean port?"),
        ("toy = 3\n", "expected a table [toy]"),
        ("[toy\n", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, said):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as found:
        ToySettings.load(["--config", str(path)])
    assert said in str(found.value)
    assert str(path) in str(found.value)


def test_the_dump_is_a_file_that_gives_the_same_settings_without_secrets(tmp_path):
    environ = {"AQAA_TOY_REDIS_URL": "redis://:geheim@host", "AQAA_TOY_REPLICAS": '["ä\\"b"]'}
    settings = ToySettings.load(["--threads", "4"], environ)
    dump = settings.dump()
    assert settings.redis_url.get_secret_value() == "redis://:geheim@host"
    assert "geheim" not in dump + repr(settings) + str(settings)
    assert "threads = 4  # --threads" in dump
    assert "share = 0.5  # default" in dump
    assert "# redis_url is a secret  # AQAA_TOY_REDIS_URL" in dump
    assert tomllib.loads(dump)["toy"]["replicas"] == ['ä"b']
    path = tmp_path / "dump.toml"
    path.write_text(dump)
    again = ToySettings.load(["--config", str(path)])
    assert again.model_dump(exclude={"redis_url"}) == settings.model_dump(exclude={"redis_url"})


def test_a_secret_that_is_wrong_is_not_shown(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[toy]\nredis_url = 424242\n")
    with pytest.raises(SettingsError, match="redis_url") as found:
        ToySettings.load(["--config", str(path)])
    assert "424242" not in str(found.value)


def test_at_start_up_a_wrong_setting_ends_the_program(capsys):
    with pytest.raises(SystemExit) as found:
        ToySettings.at_start_up(["--threads", "0"], {})
    assert found.value.code == 2
    said = capsys.readouterr().err
    assert said == "aqaa-toy cannot start:\nthreads = '0' (from --threads): expected integer, 1 … 8\n"


def test_at_start_up_the_settings_and_the_flags_can_be_printed(capsys):
    with pytest.raises(SystemExit) as found:
        ToySettings.at_start_up(["--print-config"], {})
    assert found.value.code == 0
    assert capsys.readouterr().out.startswith("[toy]\nprofile = ")
    with pytest.raises(SystemExit):
        ToySettings.at_start_up(["--help"], {})
    shown = capsys.readouterr().out
    assert "--threads" in shown
    assert "100% of a core" in shown
    assert "--redis-url" not in shown
    assert ToySettings.at_start_up(["--threads", "2"], {}).threads == 2
