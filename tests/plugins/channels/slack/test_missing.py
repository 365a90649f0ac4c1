"""The channel without its libraries: registration imports nothing, enabling it says what lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from palaver import BuildContext, CheckableChannel, ConfigurationError
from palaver_plugins.channels import slack


def test_registering_the_channel_imports_none_of_its_libraries() -> None:
    script = (
        "import sys\n"
        "from palaver_plugins.channels import slack\n"
        "slack.palaver_register_channels(), slack.palaver_register_commands()\n"
        "print([name for name in ('slack_sdk', 'slack_bolt') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("package", ["slack_sdk", "slack_bolt"])
def test_building_it_without_them_says_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    [backend] = slack.palaver_register_channels()
    with pytest.raises(ConfigurationError, match=r"pip install 'palaver-server\[slack\]'"):
        backend.build(backend.settings(), BuildContext(tmp_path, Path))


def test_the_channel_is_built_with_them(tmp_path: Path) -> None:
    [backend] = slack.palaver_register_channels()
    assert isinstance(
        backend.build(backend.settings(), BuildContext(tmp_path, Path)), CheckableChannel
    )
