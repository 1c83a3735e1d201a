"""Writes a Meta folder as GGUF in bfloat16, without a vocabulary, for llama-bench: FOLDER FILE."""

import sys
from pathlib import Path

import gguf
import torch

from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.params import read_params
from llama_cli.convert.gguf import NAMES


def main(folder: str, path: str) -> None:
    checkpoint = open_checkpoint(Path(folder))
    args = read_params(checkpoint.params, vocab_size=checkpoint.vocab_size)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(args.dim)
    writer.add_block_count(args.n_layers)
    writer.add_feed_forward_length(args.ffn_dim)
    writer.add_head_count(args.n_heads)
    writer.add_head_count_kv(args.n_kv_heads)
    writer.add_rope_freq_base(args.rope_theta)
    writer.add_rope_dimension_count(args.head_dim)
    writer.add_layer_norm_rms_eps(args.norm_eps)
    writer.add_vocab_size(args.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("none")
    for name, tensor in checkpoint.tensors(args):
        if tensor.dim() == 1:
            writer.add_tensor(NAMES.theirs_of(name), tensor.float().numpy())
        else:
            raw = tensor.view(torch.uint8).view(*tensor.shape[:-1], -1).numpy()
            writer.add_tensor(NAMES.theirs_of(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(*sys.argv[1:])
