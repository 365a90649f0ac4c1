"""Training itself: packed rows, resuming, and the exported model in transformers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from training.starter import code_data, grounded_data, mixture, tokenization
from training.starter.groups import Group, Source, seeded_random
from training.starter.packing import Encoder, Packer, collate

from palaver_skills import prompts

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.training

STARTER = Path(__file__).parents[2] / "plugins" / "palaver_plugins" / "starter"


def grounded_source(index: int) -> Group:
    return grounded_data.make_group(seeded_random("test", index))


def translation_source(index: int) -> Group:
    system = prompts.build_translation_system("English", "French")
    return Group("translation", system, (((f"I see {index} cats.", f"Je vois {index} chats."),),))


def streams() -> dict[str, Source]:
    pairs = [f"en-{x}" for x in mixture.TRANSLATION] + [f"{x}-en" for x in mixture.TRANSLATION]
    code = code_data.training_source()
    return dict.fromkeys(pairs, translation_source) | {
        "grounded": grounded_source,
        "long": grounded_source,
        **dict.fromkeys(("code", "chat", "summary", "routing", "recall"), code),
    }


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return a tokenizer of 512 entries, as the size micro has."""
    groups = [source(n) for source in streams().values() for n in range(20)]
    texts = [turn[side] for g in groups for b in g.branches for turn in b for side in (0, 1)]
    return tokenization.train_tokenizer(iter(texts + [g.system + g.shared for g in groups]), 512)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: the results must not depend on the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def open_run(tokenizer: Tokenizer) -> Any:
    from training.starter.model import SIZES, Network
    from training.starter.train import TrainingRun

    torch.manual_seed(3)
    mix = mixture.Mixture.open(streams(), tokenizer, 1024)
    return TrainingRun(Network(SIZES["micro"]), mix, torch.device("cpu"), torch.float32, workers=1)


def test_a_resumed_run_gives_the_same_weights_as_an_uninterrupted_one(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from training.starter import train

    whole, first, second = (open_run(tokenizer) for _ in range(3))
    for _ in range(4):
        whole.step(0.5)
    for _ in range(2):
        first.step(0.5)
    train.save_checkpoint(first, tmp_path)
    second.restore(train.load_checkpoint(tmp_path))
    for _ in range(2):
        second.step(0.5)
    assert second.progress == whole.progress
    assert second.cursors == whole.cursors
    for mine, other in zip(second.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(mine, other)
    for run in (whole, first, second):
        run.close()


def test_a_step_lowers_the_loss_on_the_same_data(tokenizer: Tokenizer) -> None:
    run = open_run(tokenizer)
    before = run.step(0.5)["grounded"]
    for _ in range(12):
        after = run.step(0.5)
    assert after["grounded"] < before - 0.5
    run.close()


def test_a_packed_row_gives_the_logits_of_its_examples_alone(tokenizer: Tokenizer) -> None:
    from training.starter.model import SIZES, Network

    encoder = Encoder(tokenizer)
    torch.manual_seed(1)
    network = Network(replace(SIZES["micro"], vocabulary=tokenizer.get_vocab_size()))
    batch = collate(
        [(Packer(grounded_source, encoder).fill_row(512), 1.0)], 512, encoder.pad, ["x"]
    )
    packed = network(
        torch.from_numpy(batch.tokens), torch.from_numpy(batch.positions),
        torch.from_numpy(batch.mask()), torch.float32,
    )  # fmt: skip
    for number in sorted(set(batch.segments[0].tolist()))[2:4]:
        (seen,) = batch.mask()[0][batch.segments[0] == number][-1].nonzero()
        alone = torch.from_numpy(batch.tokens[:, seen])
        length = alone.shape[1]
        places = torch.arange(length)[None]
        single = network(alone, places, torch.ones(1, length, length).tril().bool(), torch.float32)
        assert batch.positions[0, seen].tolist() == list(range(length))
        torch.testing.assert_close(packed[0, seen], single[0], atol=1e-4, rtol=1e-4)


def test_the_exported_model_gives_the_same_logits_in_transformers(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    from training.starter.model import SIZES, Network, export_network, load_network

    shape = SIZES["micro"]
    export_network(Network(shape), tmp_path, end=1, pad=0)
    tokenization.save_tokenizer(tokenizer, tmp_path, shape.context)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = load_network(tmp_path, shape)
    ids = torch.tensor([[2, 40, 50, 60, 3, 70, 4]])
    mask = torch.ones(1, 7, 7).tril().bool()
    with torch.no_grad():
        mine = ours.logits(ours(ids, torch.arange(7)[None], mask, torch.float32))
        torch.testing.assert_close(mine, theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_template_opens_an_answer_and_continues_one() -> None:
    transformers = pytest.importorskip("transformers")
    reader = transformers.AutoTokenizer.from_pretrained(STARTER)
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    opened = reader.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert opened == "<|system|>Be kind.<|user|>Hi<|assistant|>"
    begun = [*chat, {"role": "assistant", "content": "Hello, my"}]
    continued = reader.apply_chat_template(begun, tokenize=False, continue_final_message=True)
    assert continued == opened + "Hello, my"
    ended = reader.apply_chat_template(begun, tokenize=False)
    assert ended == opened + "Hello, my<|end|>"
    assert reader.eos_token == "<|end|>"
