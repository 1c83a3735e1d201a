"""llama.cpp in a process of its own: its converter, and what its engine answers.

python llama_cpp.py convert FOLDER MODEL OUT.gguf CUTS    CUTS names how text is cut, where it does not know that
python llama_cpp.py answer MODEL.gguf N < prompts.json    greedy texts of so many tokens, as JSON
"""

import json
import sys


def convert(converter, model, out, cuts):
    sys.path[:0] = [converter, converter + "/gguf-py"]
    from conversion import base

    known = base.TextModel.get_vocab_base_pre

    def cuts_of(self, tokenizer):
        """It knows vocabularies by a hash of ids, and asks whoever brings another to write the name in here."""
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            return cuts

    base.TextModel.get_vocab_base_pre = cuts_of
    import convert_hf_to_gguf

    sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", out, "--outtype", "f32"]
    convert_hf_to_gguf.main()


def answer(path, n_tokens):
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.warmup = path, 1024, False
    settings.cpuparams.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(settings)
    asked = [{"prompt": prompt, "max_tokens": int(n_tokens), "temperature": 0} for prompt in json.load(sys.stdin)]
    answers = [server.handle_completions(each) for each in asked]
    shown = [{"text": one["choices"][0]["text"], "prompt_tokens": one["usage"]["prompt_tokens"]} for one in answers]
    sys.stdout.write(json.dumps(shown))


if __name__ == "__main__":
    {"convert": convert, "answer": answer}[sys.argv[1]](*sys.argv[2:])
