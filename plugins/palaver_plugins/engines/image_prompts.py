"""Prompts with images for engine ``transformers``: the model's own processor encodes them."""

import asyncio
import dataclasses
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from palaver import MAX_IMAGE_PIXELS, ChatMessage, Image, ToolDefinition, UnusableImage
from palaver_plugins.engines.image_decoding import decode_image
from palaver_plugins.engines.padded_batch import (
    CausalModel,
    PaddedBatch,
    probe_prompts,
    score_difference,
)
from palaver_plugins.engines.tokenization import ChatTokenizer

Untyped = Any  # torch and transformers are absent from most installations that are type-checked


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Tokens of a prompt. ``images``: further arguments of the forward pass that reads them all."""

    tokens: list[int]
    images: Mapping[str, Untyped] = dataclasses.field(default_factory=dict)


class ImagePromptEncoder:
    """Encoder of messages with images. It encodes one prompt at a time, in a thread of its own: a
    small file may hold very many pixels."""

    def __init__(self, tokenizer: ChatTokenizer, processor: Untyped) -> None:
        self._tokenizer = tokenizer
        self._processor = processor
        self._executor = ThreadPoolExecutor(1, "engine-images")

    async def encode_in_thread(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> EncodedPrompt:
        """See `encode`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self.encode, messages, tools)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def encode(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> EncodedPrompt:
        """Raises `UnusableImage` for an image that the processor refuses."""
        images = [image for message in messages for image in message.images]
        try:
            decoded = [decode_image(image.data, max_pixels=MAX_IMAGE_PIXELS) for image in images]
            inputs = self._processor(
                images=decoded,
                text=[self._tokenizer.render(messages, tools)],
                add_special_tokens=False,
                return_tensors="pt",
            )
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            raise UnusableImage(str(error)) from error
        tokens: list[int] = inputs["input_ids"][0].tolist()
        self._tokenizer.check(tokens)
        names = set(inputs) - {"input_ids", "attention_mask"}
        return EncodedPrompt(tokens, {name: inputs[name] for name in names})


def load_encoder(folder: Path, tokenizer: ChatTokenizer) -> ImagePromptEncoder:
    """Return the encoder of the model in ``folder``. Raises any exception when it has none, or when
    a package that it needs is missing."""
    import PIL.Image  # noqa: F401  the processor loads without it, and fails at the first image
    import transformers

    if not tokenizer.takes_images:
        raise ValueError("its chat template takes no images")
    processor = transformers.AutoProcessor.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    if not hasattr(processor, "image_processor"):
        raise ValueError("it has no processor for images")
    return ImagePromptEncoder(tokenizer, processor)


PROBE_SIZE = 64, 48  # pixels


def vision_obstacle(model: CausalModel, encoder: ImagePromptEncoder, *, batched: bool) -> str:
    """Return the reason why the engine cannot run prompts with images; empty when it can.

    This is tried out: the scores after a prompt with an image must be the same alone and beside
    another sequence. Some architectures keep the positions of the last image for all sequences.
    """
    try:
        return _try_images(model, encoder, batched=batched)
    except Exception as error:  # noqa: BLE001  each architecture has errors of its own
        return f"{type(error).__name__}: {error}"


def _try_images(model: CausalModel, encoder: ImagePromptEncoder, *, batched: bool) -> str:
    image, other = (encoder.encode([_probe_message(shade)]) for shade in (60, 200))
    text, _ = probe_prompts(model)
    first_scores, cache = model.forward([image.tokens], None, **image.images)
    other_scores, _ = model.forward([other.tokens], None, **other.images)
    if not score_difference(first_scores, other_scores, model.network.dtype):
        return "its scores are the same for different images"
    token = text[0]
    alone, _ = model.forward([[token]], cache)
    _, cache = model.forward([image.tokens], None, **image.images)
    _, text_cache = model.forward([text], None)
    if not batched:
        beside, _ = model.forward([[token]], cache)
        return score_difference(beside, alone, model.network.dtype)
    batch: PaddedBatch[int] = PaddedBatch(model)
    batch.add(0, text_cache)
    batch.add(1, cache)
    beside = batch.forward([token, token])[1:]
    return score_difference(beside, alone, model.network.dtype)


def _probe_message(shade: int) -> ChatMessage:
    """Return a message with an image: a gradient of grey from ``shade``."""
    import PIL.Image

    width, height = PROBE_SIZE
    pixels = bytes((shade + column) % 256 for _ in range(height) for column in range(width))
    file = io.BytesIO()
    PIL.Image.frombytes("L", PROBE_SIZE, pixels).convert("RGB").save(file, "PNG")
    return ChatMessage("user", "Hi", (Image("image/png", file.getvalue()),))
