"""Engines without their packages: registration imports nothing, the start fails clearly."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.plugins.engines.conftest import build_engine

from palaver.errors import ConfigurationError
from palaver_plugins.engines import llamacpp, openvino, transformers

HEAVY = ("openvino", "openvino_genai", "gguf", "torch", "transformers", "xllamacpp")


def test_registering_the_engines_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from palaver_plugins.engines import llamacpp, openvino, transformers\n"
        "openvino.palaver_register_engines(), transformers.palaver_register_engines()\n"
        "llamacpp.palaver_register_engines()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(
    ("plugin", "package"),
    [(openvino, "openvino_genai"), (transformers, "torch"), (llamacpp, "xllamacpp")],
)
async def test_starting_without_the_packages_says_how_to_install_them(
    model: Path, monkeypatch: pytest.MonkeyPatch, plugin: ModuleType, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    engine = build_engine(plugin, model)
    with pytest.raises(
        ConfigurationError, match=r"pip install 'palaver-server\[(openvino|transf.*|llamacpp)\]'"
    ):
        await engine.start()
