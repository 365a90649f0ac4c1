"""The starter model's network: Qwen2 in plain PyTorch, and its export for transformers and vLLM.

Written out (about a hundred lines) for three reasons that a stock implementation does not serve:
weights stay float32 while the arithmetic runs in bfloat16, the attention mask is a tree (several
short examples share one prefix), and logits are computed only where there is something to learn.
`tests/training` checks that the exported weights give the same logits in transformers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from training.starter.tokenization import write_json


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a network; `context` is the longest sequence in tokens."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int = 8192
    context: int = 1024
    rope_theta: float = 10000.0
    epsilon: float = 1e-6

    @property
    def head_width(self) -> int:
        """Return the width of one attention head; vLLM and OpenVINO need a multiple of 32."""
        return self.hidden // self.heads


SIZES = {
    "micro": Shape(hidden=64, layers=2, heads=2, feed_forward=128, vocabulary=512),
    "tiny": Shape(hidden=256, layers=4, heads=4, feed_forward=512),
    "small": Shape(hidden=512, layers=8, heads=8, feed_forward=1408, vocabulary=16384),
    "medium": Shape(hidden=768, layers=12, heads=12, feed_forward=2048, vocabulary=32768),
}


class Linear(nn.Module):
    """Linear layer with float32 weights, applied in the precision of its input."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, scale: float = 1.0) -> None:
        super().__init__()
        spread = scale * inputs**-0.5
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * spread)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Norm(nn.Module):
    """Root-mean-square normalisation, computed in float32."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return (wide * scale * self.weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to `x` [batch, heads, length, width]."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Mix values [batch, heads, length, width] by attention; `bias` [batch, 1, length, length].

    On a CPU and for short rows, plain products are two to three times faster than the fused kernel.
    """
    batch, heads, length, width = query.shape
    if query.device.type != "cpu" or length > 512:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    flat = (batch * heads, length, width)
    spread = bias.expand(batch, heads, length, length).reshape(batch * heads, length, length)
    scores = torch.baddbmm(
        spread, query.reshape(flat), key.reshape(flat).transpose(1, 2), alpha=width**-0.5
    )
    mixed = torch.bmm(torch.softmax(scores, dim=-1), value.reshape(flat))
    return mixed.view(batch, heads, length, width)


class Attention(nn.Module):
    """Multi-head attention under a given mask."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.width = shape.heads, shape.head_width
        self.q_proj = Linear(shape.hidden, shape.hidden, bias=True)
        self.k_proj = Linear(shape.hidden, shape.hidden, bias=True)
        self.v_proj = Linear(shape.hidden, shape.hidden, bias=True)
        self.o_proj = Linear(
            shape.hidden, shape.hidden, bias=False, scale=(2 * shape.layers) ** -0.5
        )

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.width).transpose(1, 2)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        query = rotate(self.split(self.q_proj(x)), cos, sin)
        key = rotate(self.split(self.k_proj(x)), cos, sin)
        value = self.split(self.v_proj(x))
        mixed = attend(query, key, value, mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """The gated feed-forward part (SwiGLU)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden, shape.feed_forward, bias=False)
        self.up_proj = Linear(shape.hidden, shape.feed_forward, bias=False)
        self.down_proj = Linear(
            shape.feed_forward, shape.hidden, bias=False, scale=(2 * shape.layers) ** -0.5
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and feed-forward, each added to the residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden, shape.epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Network(nn.Module):
    """The decoder; parameter names are those of `Qwen2Model` in transformers."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.epsilon)
        half = torch.arange(0, shape.head_width, 2) / shape.head_width
        angles = torch.outer(torch.arange(shape.context).float(), shape.rope_theta**-half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Return the last hidden state [batch, length, hidden].

        `mask` [batch, length, length] is true where a position may look.
        """
        bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        bias = bias.masked_fill_(~mask, -torch.inf).unsqueeze(1)
        cos = self.cos[positions].unsqueeze(1).to(dtype)
        sin = self.sin[positions].unsqueeze(1).to(dtype)
        x = self.embed_tokens(tokens).to(dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, bias)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every vocabulary entry for the given hidden states (tied embeddings)."""
        return F.linear(hidden, self.embed_tokens.weight.to(hidden.dtype))

    def losses(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the losses of predicting `targets`, and every loss.

        `hidden` [targets, hidden]; only the sum has a gradient.
        """
        total, losses = TiedCrossEntropy.apply(hidden, self.embed_tokens.weight, targets, weights)  # type: ignore[no-untyped-call]
        return total, losses


class TiedCrossEntropy(torch.autograd.Function):
    """Cross-entropy under tied embeddings, its gradient computed at once.

    The table of probabilities is the largest array of a step; this way it is written once, in the
    precision of the network, and not kept.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        matrix = embedding.to(hidden.dtype)
        chance = torch.softmax(F.linear(hidden, matrix), dim=-1)
        rows = torch.arange(len(targets), device=targets.device)
        right = chance[rows, targets].float()
        losses = -torch.log(right.clamp_min(1e-30))
        chance[rows, targets] = (right - 1.0).to(chance.dtype)
        chance.mul_(weights[:, None].to(chance.dtype))
        ctx.save_for_backward(chance @ matrix, (chance.T @ hidden).to(embedding.dtype))
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        inputs, matrix = ctx.saved_tensors
        return inputs * total.to(inputs.dtype), matrix * total, None, None


def count_parameters(network: Network) -> int:
    """Count the weights; the tied embedding counts once."""
    return sum(weight.numel() for weight in network.parameters())


def transformers_config(shape: Shape, *, end: int, pad: int) -> dict[str, Any]:
    """Describe the network as the `config.json` of a `Qwen2ForCausalLM`."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.epsilon,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
    }


def export_network(network: Network, folder: Path, *, end: int, pad: int) -> None:
    """Write `config.json`, `generation_config.json` and bfloat16 `model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = transformers_config(network.shape, end=end, pad=pad)
    generation = {"do_sample": False, "eos_token_id": end, "pad_token_id": pad}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation)
    weights = {
        f"model.{name}": weight.detach().to("cpu", torch.bfloat16).contiguous()
        for name, weight in network.state_dict().items()
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def load_network(folder: Path, shape: Shape) -> Network:
    """Read an exported folder back into a network of the given shape."""
    from safetensors.torch import load_file

    network = Network(shape)
    weights = load_file(str(folder / "model.safetensors"))
    network.load_state_dict({name.removeprefix("model."): w.float() for name, w in weights.items()})
    return network


def shape_fields(shape: Shape) -> dict[str, Any]:
    """Return the shape as plain data, for checkpoints."""
    return asdict(shape)
