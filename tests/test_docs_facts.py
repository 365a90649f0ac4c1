"""What the documentation says of the code is so."""

import importlib
import inspect
import json
import math
import re
import struct
import tomllib
from pathlib import Path

import pytest
from tests.own_plugins import load_own_plugins
from tests.server.web.live_server import LiveServer

from palaver import errors
from palaver.engine import MAX_ASPECT_RATIO, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_IMAGES
from palaver.errors import PalaverError
from palaver.hooks import Hooks
from palaver.plugins import KINDS
from palaver.turns.image_memory import IMAGE_MEMORY
from palaver_plugins import starter

ROOT = Path(__file__).parents[1]
REGISTRY = load_own_plugins()
CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, PalaverError)
]


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def section(text: str, heading: str) -> str:
    """Return the part of a page under a heading, up to the next one."""
    return re.split(r"\n#+ ", text.split(f"{heading}\n", 1)[1], maxsplit=1)[0]


def test_the_protocol_lists_every_code_with_its_status() -> None:
    table = section(page("docs/protocol.md"), "### Codes")
    listed = {
        code: set(map(int, statuses.split(", ")))
        for code, statuses in re.findall(r"^\| `(\w+)` \| ([\d, ]+) \|", table, re.MULTILINE)
    }
    codes: dict[str, set[int]] = {}
    for kind in CLASSES:
        codes.setdefault(kind.code, set()).add(kind.status)
    assert listed == codes


def test_the_tree_of_errors_names_every_class_with_its_status() -> None:
    tree = re.findall(r"[├└]── (\w+) +(\d{3})?", errors.__doc__ or "")
    assert {name for name, _ in tree} == {kind.__name__ for kind in CLASSES} - {"PalaverError"}
    statuses = {kind.__name__: kind.status for kind in CLASSES}
    wrong = {name: status for name, status in tree if status and statuses[name] != int(status)}
    assert wrong in ({}, {"ConfigurationError": "78"}), "78 is an exit code"


def test_the_size_of_the_starter_model_is_that_of_its_weights() -> None:
    weights = Path(next(iter(starter.__path__))) / "model.safetensors"
    with weights.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    tensors = [value["shape"] for name, value in header.items() if name != "__metadata__"]
    size = f"{sum(map(math.prod, tensors)) / 1e6:.1f} million parameters"
    for name in ("README.md", "plugins/palaver_plugins/starter/README.md",
                 "docs/decisions/0002-embedded-engine.md"):  # fmt: skip
        assert size in page(name), name


def test_the_layers_of_the_architecture_are_those_of_the_import_contract() -> None:
    project = tomllib.loads(page("pyproject.toml"))
    (contract, *_) = project["tool"]["importlinter"]["contracts"]
    layers = [sorted(re.findall(r"\w+", layer)) for layer in reversed(contract["layers"])]
    (listed,) = re.findall(r"^    errors, .*?(?=\n\n)", page("docs/architecture.md"), re.M | re.S)
    assert [sorted(re.findall(r"\w+", layer)) for layer in listed.split("←")] == layers


def test_the_layout_of_the_architecture_names_every_module_and_folder() -> None:
    layout = section(page("docs/architecture.md"), "## Layout").split("\n\n")[0]
    core = ROOT / "server" / "palaver"
    modules = {path.name for path in core.glob("*.py")}
    folders = {path.parent.name + "/" for path in core.glob("*/__init__.py")}
    assert not {name for name in modules | folders if f" {name}" not in layout}
    named = set(re.findall(r"[a-z_]+\.py", layout))
    assert named == modules


def test_the_commands_of_the_makefile_and_the_scripts_are_described() -> None:
    table = section(page("docs/architecture.md"), "## Commands")
    (targets,) = re.findall(r"^\.PHONY: (.+)$", page("Makefile"), re.MULTILINE)
    assert set(re.findall(r"`make ([\w-]+)`", table)) == set(targets.split())
    for script in re.findall(r"`(scripts/[\w-]+)`", table):
        assert (ROOT / script).is_file(), script


def test_the_glossary_is_ordered() -> None:
    names = re.findall(r"^\| (.+?) \|", page("docs/glossary.md"), re.MULTILINE)[2:]
    assert names == sorted(names, key=str.casefold)


@pytest.mark.parametrize(
    ("module", "name", "limit"),
    [
        ("palaver_skills.citations", "_MAX_PARSED", "400,000 characters"),
        ("palaver_skills.code_check", "_LONGEST_CHECKED", "200,000 characters"),
        ("palaver_plugins.knowledge.html_pages", "MAX_DEPTH", "| 1,000; "),
        ("palaver_plugins.knowledge.html_pages", "MAX_ATTRIBUTES", "; 2,000 |"),
    ],
)
def test_the_page_of_limits_has_the_fixed_ones(module: str, name: str, limit: str) -> None:
    assert f"{getattr(importlib.import_module(module), name):,}" in limit
    assert limit in page("docs/security.md")


async def test_the_page_of_keys_names_every_route_without_one(live_server: LiveServer) -> None:
    _, document = await live_server.get("/openapi.json")
    public = {
        re.sub(r"^(/c/|/s/|/static/).*", r"\1…", path)
        for path, methods in document["paths"].items()
        if any("x-right" not in operation for operation in methods.values())
    }
    (text,) = re.findall(
        r"^(`/`.*?)\n\nWithout configured keys", page("docs/security.md"), re.M | re.S
    )
    assert set(re.findall(r"`(/[^`]*)`", text)) == public - {"/ws"}  # its hello has the key


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_hooks_says_what_each_hook_returns_and_who_has_it(kind: str) -> None:
    hook = f"palaver_register_{kind}"
    (row,) = re.findall(rf"^\| `{hook}\(\) -> (.+?)` \|.*\| (.+?) \|$", page("docs/hooks.md"), re.M)
    returned, own = row
    declared = inspect.signature(getattr(Hooks, hook)).return_annotation
    wanted = re.sub(r"\w+\.(?!Command)|typing\.", "", str(declared)).removesuffix(" | None")
    assert returned.replace("click.", "") == wanted.replace("click.", "").strip("'\"")
    assert set(own.split(", ")) == set(getattr(REGISTRY, kind))


@pytest.mark.parametrize(
    ("frame", "code", "close_code"),
    [
        ({"type": "send", "id": "m", "text": "hello"}, "invalid_input", 4400),
        ({"type": "hello", "thread": "{"}, "invalid_input", 4400),
        ({"type": "hello", "thread": "theirs", "person": "bob"}, "forbidden", 4403),
    ],
)
async def test_an_error_frame_comes_before_the_close_code_of_a_refused_hello(
    live_server: LiveServer, frame: dict[str, str], code: str, close_code: int
) -> None:
    path = "/v1/conversations/theirs/messages?wait=true"
    await live_server.post(path, {"text": "mine", "person": "ada"})
    async with live_server.open_websocket() as client:
        await client.send(frame)
        assert await client.close_code() == close_code
        (error,) = client.frames
        assert (error["type"], error["code"]) == ("error", code)


def test_the_pages_examples_of_a_proxy_name_settings_that_exist() -> None:
    text = section(page("docs/security.md"), "### Behind a reverse proxy")
    settings = page("docs/settings.md")
    for name in re.findall(r"`((?:server|connections)\.\w+)`", text):
        assert f"`{name}`" in settings, name


def test_the_page_of_limits_has_the_memory_for_images() -> None:
    assert f"holds {IMAGE_MEMORY >> 20} MiB of images" in page("docs/security.md")


def test_the_page_of_engines_has_the_limits_of_images() -> None:
    text = " ".join(page("docs/engines.md").split())
    for fact in (
        f"at most {MAX_IMAGES}, have {MAX_IMAGE_BYTES >> 20} MiB",
        f"{MAX_IMAGE_PIXELS // 1_000_000} million pixels",
        f"may be {MAX_ASPECT_RATIO} times its shortest",
    ):
        assert fact in text
