"""The channel without its library: registration imports nothing, enabling it says what lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from palaver import BuildContext, ConfigurationError
from palaver_plugins.channels import mcp


@pytest.mark.slow
def test_registering_the_channel_imports_nothing_of_its_library() -> None:
    script = (
        "import sys\n"
        "from palaver_plugins.channels import mcp\n"
        "mcp.palaver_register_channels()\n"
        "print([name for name in ('mcp', 'mcp_types') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"


def test_building_it_without_the_library_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    [backend] = mcp.palaver_register_channels()
    with pytest.raises(ConfigurationError, match=r"pip install 'palaver-server\[mcp\]'"):
        backend.build(backend.settings(), BuildContext(tmp_path, Path))
