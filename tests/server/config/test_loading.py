"""Sources of the settings, and the messages about wrong values."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.server.config import settings_plugin

from palaver.checks import validate_plugin_settings
from palaver.config.loading import load_settings, plugin_settings
from palaver.config.settings import Secret, Settings
from palaver.errors import ConfigurationError
from palaver.plugins import PluginRegistry, load_plugins

ROOT = Path(__file__).parents[3]


@pytest.fixture
def registry() -> PluginRegistry:
    return registry_of()


def registry_of(module: str = settings_plugin.__name__) -> PluginRegistry:
    return load_plugins([importlib.metadata.EntryPoint("test", module, "palaver")])


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "palaver.toml") -> Path:
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def error_of(
    toml: str = "", environ: Mapping[str, str] | None = None, *flags: str, plugins: bool = False
) -> str:
    """Return the error message about these settings."""

    def load() -> None:
        settings = load_settings(write(toml), environ or {}, flags)
        if plugins:
            validate_plugin_settings(settings, registry_of())

    with pytest.raises(ConfigurationError) as caught:
        load()
    return str(caught.value)


# Where values come from


def test_without_any_source_the_defaults_apply() -> None:
    assert load_settings(None, {}) == Settings()


def test_flags_override_the_environment_which_overrides_the_file() -> None:
    write("[server]\nport = 1\nhost = 'a'\ndrain = 3")
    environ = {"PALAVER__SERVER__PORT": "2", "PALAVER__SERVER__HOST": "b"}
    server = load_settings(None, environ, ["server.port=3"]).server
    assert (server.port, server.host, server.drain) == (3, "b", 3.0)


def test_the_environment_can_name_the_file() -> None:
    write("[server]\nport = 1")
    write("[server]\nport = 2", "other.toml")
    assert load_settings(None, {"PALAVER_CONFIG": "other.toml"}).server.port == 2
    assert load_settings(Path("palaver.toml"), {"PALAVER_CONFIG": "other.toml"}).server.port == 1


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("https://a.example, https://b.example", ("https://a.example", "https://b.example")),
        ('["https://a.example"]', ("https://a.example",)),
        ("https://a.example", ("https://a.example",)),
        ("", ()),
    ],
)
def test_a_list_is_written_as_toml_or_with_commas(text: str, origins: tuple[str, ...]) -> None:
    assert load_settings(None, {"PALAVER__SERVER__ORIGINS": text}).server.origins == origins


@pytest.mark.parametrize("text", ["7", "true", "2026-01-01", '"7"'])
def test_text_is_not_parsed_as_another_type(text: str) -> None:
    settings = load_settings(None, {}, [f"routing.default={text}"])
    assert settings.routing.default == text.strip('"')


def test_the_environment_reaches_tables_in_tables() -> None:
    settings = load_settings(None, {"PALAVER__AUTH__KEYS__BOB__SECRET": "env:BOB"})
    assert settings.auth.keys["bob"].secret.root == "env:BOB"


def test_the_environment_reaches_the_settings_of_plugins(registry: PluginRegistry) -> None:
    environ = {
        "PALAVER__ENGINE__ECHO__URLS": "http://a,http://b",
        "PALAVER__ENGINE__ECHO__PAUSE": "0.5",
        "PALAVER__ENGINE__ECHO__OPTIONS__DEPTH": "3",
    }
    settings = load_settings(None, environ)
    validate_plugin_settings(settings, registry)
    given = plugin_settings(settings, "engine", "echo", settings_plugin.EchoSettings)
    assert given.urls == ("http://a", "http://b")
    assert given.pause == 0.5
    assert given.options == {"depth": 3}


def test_common_environment_names_are_fallbacks() -> None:
    environ = {
        "REDIS_URL": "redis://:hunter2@r:6379/0",
        "OPENAI_API_KEY": "sk-hunter2",
        "OPENAI_BASE_URL": "http://a/v1",
        "HF_TOKEN": "hf-hunter2",
    }
    settings = load_settings(None, environ)
    assert settings.ledger.of("redis") == {"url": "env:REDIS_URL"}
    assert settings.engine.of("openai") == {"api_key": "env:OPENAI_API_KEY", "urls": "http://a/v1"}
    assert settings.models.hub_token is not None
    assert settings.models.hub_token.root == "env:HF_TOKEN"
    assert "hunter2" not in repr(settings)
    write("[ledger.redis]\nurl = 'redis://mine'")
    assert load_settings(None, environ).ledger.of("redis") == {"url": "redis://mine"}


def test_a_common_environment_name_for_a_plugin_that_is_not_installed_is_no_error(
    registry: PluginRegistry,
) -> None:
    validate_plugin_settings(load_settings(None, {"REDIS_URL": "redis://r"}), registry)


@pytest.mark.parametrize("name", ["development", "production"])
def test_the_example_files_load(name: str) -> None:
    settings = load_settings(ROOT / "config" / f"{name}.toml", {})
    assert settings.plugins.strict


# Messages


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        (
            "[server]\n\nprot = 1",
            "unknown key 'server.prot' (palaver.toml, line 3); did you mean 'server.port'?",
        ),
        (
            "[servr]\nport = 1",
            "unknown key 'servr' (palaver.toml, line 2); did you mean 'server'?",
        ),
        (
            "[server]\nmax_running = 1",
            (
                "unknown key 'server.max_running' (palaver.toml, line 2); "
                "did you mean 'jobs.max_running'?"
            ),
        ),
        (
            "engine.model = 'big'",
            (
                "unknown key 'engine.model' (palaver.toml, line 1); settings of a backend "
                "go into its own table, such as [engine.openvino]"
            ),
        ),
        ("zzz = 1", "unknown key 'zzz' (palaver.toml, line 1)"),
        (
            "[server]\nport = 'abc'",
            "server.port must be a whole number, not 'abc' (palaver.toml, line 2)",
        ),
        (
            "[server]\nport = 70000",
            "server.port must be at most 65535, not 70000 (palaver.toml, line 2)",
        ),
        ("[engine]\nuse = 3", "engine.use must be text (palaver.toml, line 2)"),
        ("[server]\norigins = 3", "server.origins must be a list (palaver.toml, line 2)"),
        ("server = 3", "server must be a table (palaver.toml, line 1)"),
        (
            "[plugins]\nstrict = 'perhaps'",
            "plugins.strict must be true or false, not 'perhaps' (palaver.toml, line 2)",
        ),
        (
            "[auth.keys.bob]\ntenant = 't'",
            "auth.keys.bob.secret must be set (palaver.toml, line 2)",
        ),
        (
            "[auth.keys.bob]\nsecret = 'hunter2'",
            (
                "auth.keys.bob.secret: a secret must be a reference: 'env:NAME' or 'file:PATH' "
                "(palaver.toml, line 2)"
            ),
        ),
        (
            "[auth.keys]\nbob = 'hunter2'",
            "auth.keys.bob must be a table (palaver.toml, line 2)",
        ),
        (
            "[server\nport = 1",
            (
                "palaver.toml cannot be read: Expected ']' at the end of a table declaration "
                "(at line 1, column 8)"
            ),
        ),
    ],
)
def test_a_mistake_in_the_file_is_reported_with_its_line(toml: str, sentence: str) -> None:
    assert error_of(toml) == sentence


def test_a_mistake_in_the_environment_is_reported_with_its_name() -> None:
    assert error_of("", {"PALAVER__SERVER__PROT": "1"}) == (
        "unknown key 'server.prot' (environment PALAVER__SERVER__PROT); did you mean 'server.port'?"
    )
    assert error_of("", {"PALAVER__SERVER": "x", "PALAVER__SERVER__PORT": "1"}) == (
        "server is a value (environment PALAVER__SERVER), so there is no 'server.port' "
        "(environment PALAVER__SERVER__PORT) in it"
    )


def test_a_mistake_in_a_flag_is_reported_with_the_flag() -> None:
    assert error_of("", {}, "dispatch.leese=1") == (
        "unknown key 'dispatch.leese' (--set dispatch.leese); did you mean 'dispatch.lease'?"
    )
    assert error_of("", {}, "port") == "--set 'port' is not of the form section.key=value"


def test_all_mistakes_are_reported_at_once() -> None:
    assert error_of("[server]\nprot = 1\ndrain = 'x'").splitlines() == [
        "unknown key 'server.prot' (palaver.toml, line 2); did you mean 'server.port'?",
        "server.drain must be a number, not 'x' (palaver.toml, line 3)",
    ]


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        (
            "[engine.echo]\npuase = 1",
            (
                "unknown key 'engine.echo.puase' (palaver.toml, line 2); "
                "did you mean 'engine.echo.pause'?"
            ),
        ),
        (
            "[engine.ecko]\npause = 1",
            "unknown key 'engine.ecko' (palaver.toml, line 2); did you mean 'engine.echo'?",
        ),
        (
            "[engine.echo]\npause = 'long'",
            "engine.echo.pause must be a number, not 'long' (palaver.toml, line 2)",
        ),
        (
            "[engine.echo]\nkey = 'hunter2'",
            (
                "engine.echo.key: a secret must be a reference: 'env:NAME' or 'file:PATH' "
                "(palaver.toml, line 2)"
            ),
        ),
        (
            "[engine.echo]\nmode = 'hunter2'",
            "engine.echo.mode must be 'fast' or 'slow', not 'hunter2' (palaver.toml, line 2)",
        ),
        (
            "[skills.parrot]\nvolume = -1",
            "skills.parrot.volume must be at least 0, not -1 (palaver.toml, line 2)",
        ),
        (
            "[skills.parot]\nvolume = 1",
            "unknown key 'skills.parot' (palaver.toml, line 2); did you mean 'skills.parrot'?",
        ),
        ("[channels.slack]\nx = 1", "unknown key 'channels.slack' (palaver.toml, line 2)"),
    ],
)
def test_a_plugins_own_table_is_checked_though_it_is_not_in_use(toml: str, sentence: str) -> None:
    assert error_of(toml, plugins=True) == sentence


def test_a_named_file_must_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"there is no settings file 'none\.toml'"):
        load_settings(None, {"PALAVER_CONFIG": "none.toml"})


# Secrets


def test_a_secret_is_read_from_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOB", "hunter2")
    write("hunter3\n", "secret")
    write("[auth.keys]\na.secret = 'env:BOB'\nb.secret = 'file:secret'")
    settings = load_settings(None, {})
    assert [key.secret.reveal() for key in settings.auth.keys.values()] == ["hunter2", "hunter3"]
    assert "hunter" not in repr(settings) + str(settings)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("env:MISSING", "env:MISSING is empty or not set"),
        ("file:nowhere", "file:nowhere: No such file or directory"),
    ],
)
def test_a_missing_secret_is_named_by_its_reference(reference: str, sentence: str) -> None:
    settings = load_settings(None, {}, [f"auth.keys.bob.secret={reference}"])
    with pytest.raises(ConfigurationError) as caught:
        settings.auth.keys["bob"].secret.reveal()
    assert str(caught.value) == sentence


# Encodings

TOML = "[server]\r\nport = 1\r\nhost = 'b\u00fccher'\r\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_of_the_settings_file_is_taken_off(newline: str) -> None:
    text = TOML.replace("\r\n", newline)
    Path("palaver.toml").write_bytes(text.encode("utf-8-sig"))
    server = load_settings(None, {}).server
    assert (server.port, server.host) == (1, "bücher")
    Path("palaver.toml").write_bytes(f"[server]{newline}{newline}port = 'x'".encode("utf-8-sig"))
    with pytest.raises(ConfigurationError, match=r"palaver\.toml, line 3"):
        load_settings(None, {})


WRONG_ENCODINGS = [
    ("utf-16", "it is UTF-16; save it as UTF-8"),
    ("utf-16-be", "it is UTF-16 or no text; save it as UTF-8"),
    ("utf-32", "it is UTF-32; save it as UTF-8"),
    ("latin-1", "it is in another encoding: line 3 is not UTF-8; save it as UTF-8"),
]


@pytest.mark.parametrize(("encoding", "sentence"), WRONG_ENCODINGS)
def test_another_encoding_of_the_settings_file_is_named(encoding: str, sentence: str) -> None:
    Path("palaver.toml").write_bytes(TOML.encode(encoding))
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, {})
    assert str(caught.value) == f"palaver.toml cannot be read: {sentence}"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfhunter3",
        b"hunter3\r\n",
        b"\xef\xbb\xbf hunter3\n\n",
        b"\xef\xbb\xbfhunter3\r\n",
    ],
)
def test_a_secret_is_what_a_person_sees_in_its_file(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("secret").write_bytes(data)
    assert Secret("file:secret").reveal() == "hunter3"
    monkeypatch.setenv("BOB", data.decode())
    assert Secret("env:BOB").reveal() == "hunter3"


@pytest.mark.parametrize("encoding", [encoding for encoding, _ in WRONG_ENCODINGS])
def test_another_encoding_of_a_secrets_file_is_named_and_not_shown(encoding: str) -> None:
    Path("secret").write_bytes("hünter3".encode(encoding))
    with pytest.raises(
        ConfigurationError, match=r"^file:secret cannot be read: .* as UTF-8$"
    ) as it:
        Secret("file:secret").reveal()
    assert "nter" not in str(it.value)
    assert it.value.__cause__ is None


def test_a_file_of_a_mark_alone_is_empty() -> None:
    Path("secret").write_bytes(b"\xef\xbb\xbf\r\n")
    with pytest.raises(ConfigurationError, match="empty"):
        Secret("file:secret").reveal()
