"""Makes reader_fid_*.npz: what Hugging Face's T5ForConditionalGeneration answers as a fusion-in-decoder reader.

    python tests/goldens/make_reader_goldens.py [small] [base]

needs torch and transformers (made with 2.13 and 5.23).

Question and passage tokens are written together, encoded row by row, laid end to end, and given to `generate` as
`encoder_outputs`, which is FiD as its authors' code does it. Everything is decoded a second time in float64, and the
goldens are written only if no token changes and no greedy choice was closer than 1e-3, so that the tests' equality does
not hang on rounding.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import reader_weights as weights
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

STACKS = {
    "attention": ("0.SelfAttention", "0.layer_norm"),
    "self_attention": ("0.SelfAttention", "0.layer_norm"),
    "cross_attention": ("1.EncDecAttention", "1.layer_norm"),
}
NORMS = {"attention_norm": 0, "self_norm": 0, "cross_norm": 1}


def torch_name(name: str) -> str:
    """The reader's tensor name -> Hugging Face's."""
    parts = name.split(".")
    stack, last = parts[0], {"encoder": 1, "decoder": 2}[parts[0]]
    if name == "encoder.embedding":
        return "shared.weight"
    if name == "decoder.lm_head.kernel":
        return "lm_head.weight"
    if parts[1] == "relative_bias":
        return f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    if parts[1] == "final_norm":
        return f"{stack}.final_layer_norm.weight"
    layer, kind = f"{stack}.block.{parts[2]}.layer", parts[3]
    if kind in STACKS:
        return f"{layer}.{STACKS[kind][0]}.{parts[4]}.weight"
    if kind in NORMS:
        return f"{layer}.{NORMS[kind]}.layer_norm.weight"
    if kind == "mlp_norm":
        return f"{layer}.{last}.layer_norm.weight"
    return f"{layer}.{last}.DenseReluDense.{parts[4]}.weight"


def build(shape: weights.Shape) -> transformers.T5ForConditionalGeneration:
    """The model with the shared random weights, float32, eager attention."""
    config = transformers.T5Config(
        vocab_size=weights.VOCABULARY,
        d_model=shape.d_model,
        d_ff=shape.d_ff,
        d_kv=shape.d_kv,
        num_heads=shape.heads,
        num_layers=shape.layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        eos_token_id=weights.EOS,
        pad_token_id=0,
        dropout_rate=0.0,
    )
    config._attn_implementation = "eager"
    model = transformers.T5ForConditionalGeneration(config).eval()
    state = {}
    for name, value in weights.random_tensors(shape).items():
        tensor = torch.from_numpy(value)
        state[torch_name(name)] = tensor.T.contiguous() if name.endswith(".kernel") else tensor
    for alias in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        state[alias] = state["shared.weight"]
    # transformers 5 ties the head to the embedding whatever the configuration says, until they are set apart.
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing, missing
    assert not unexpected, unexpected
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    assert not model.config.scale_decoder_outputs
    return model


def encode(model: transformers.T5ForConditionalGeneration, data: weights.Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Every question with each of its passages -> states [B, k*S, D] and mask [B, k*S], padding last in each row."""
    batch, count, width = data.passages.shape
    width += data.question.shape[1]
    tokens = torch.zeros(batch, count, width, dtype=torch.long)
    mask = torch.zeros(batch, count, width, dtype=torch.long)
    for b in range(batch):
        question = data.question[b, : data.question_lengths[b]]
        for p in range(count):
            length = data.passage_lengths[b, p]
            if length:
                row = np.concatenate([question, data.passages[b, p, :length]])
                tokens[b, p, : len(row)] = torch.from_numpy(row.astype(np.int64))
                mask[b, p, : len(row)] = 1
    states = model.encoder(input_ids=tokens.view(-1, width), attention_mask=mask.view(-1, width)).last_hidden_state
    return states.view(batch, count * width, -1), mask.view(batch, count * width)


def decode(
    model: transformers.T5ForConditionalGeneration,
    states: torch.Tensor,
    mask: torch.Tensor,
    search: tuple[int, float, bool | str],
) -> list[list[int]]:
    """One answer a question, cut after the end-of-answer token."""
    beams, penalty, early = search
    out = model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=weights.MAX_NEW_TOKENS,
        **({"length_penalty": penalty, "early_stopping": early} if beams > 1 else {}),
    )
    answers = []
    for row in out[:, 1:].tolist():
        answers.append(row[: row.index(weights.EOS) + 1] if weights.EOS in row else row)
    return answers


def closest_call(model: transformers.T5ForConditionalGeneration, states: torch.Tensor, mask: torch.Tensor) -> float:
    """Smallest gap between the best and the second best logit over all steps of greedy decoding, ended ones aside."""
    out = model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=weights.MAX_NEW_TOKENS,
        output_logits=True,
        return_dict_in_generate=True,
    )
    gaps = []
    for row in range(len(states)):
        for step, logits in enumerate(out.logits):
            best = logits[row].topk(2).values
            gaps.append(float(best[0] - best[1]))
            if int(out.sequences[row, step + 1]) == weights.EOS:
                break
    return min(gaps)


def padded(answers: list[list[int]]) -> np.ndarray:
    """Answers as int32 [B,T], 0 after the end."""
    rows = np.zeros((len(answers), weights.MAX_NEW_TOKENS), np.int32)
    for row, answer in zip(rows, answers, strict=True):
        row[: len(answer)] = answer
    return rows


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    data = weights.inputs()
    for shape in (weights.SMALL, weights.BASE):
        if shape.name not in (sys.argv[1:] or [shape.name]):
            continue
        model = build(shape)
        states, mask = encode(model, data)
        first = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=torch.zeros(len(data.question), 1, dtype=torch.long),
        ).logits[:, 0]
        searches = ((1, 1.0, False), *weights.SEARCHES)
        answers = [decode(model, states, mask, search) for search in searches]
        margin = closest_call(model, states, mask)
        assert margin > 1e-3, f"{shape.name}: a greedy margin of {margin}; choose another seed"
        model = model.double()
        exact_states, _ = encode(model, data)
        for search, found in zip(searches, answers, strict=True):
            print(shape.name, search, found)
            again = decode(model, exact_states, mask, search)
            assert again == found, f"{shape.name} {search}: a close call; choose another seed: {found} {again}"
        real = states[mask.bool()].numpy()
        path = Path(__file__).parent / f"reader_fid_{shape.name}.npz"
        np.savez_compressed(
            path,
            states=real[:, :: shape.d_model // 32],  # 32 of the features, every real token
            first_logits=first.numpy()[:, ::16],
            answers=np.stack([padded(found) for found in answers]),
        )
        print(path.name, path.stat().st_size, "bytes; largest logit", float(first.abs().max()), "margin", margin)


if __name__ == "__main__":
    main()
