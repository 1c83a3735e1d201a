"""Chat templates in Jinja, as Hugging Face's folders carry them: the texts whose ids the formats of tokenizer/ make.

Two differences are in the nature of a template, which writes text and leaves it to the tokenizer: a content that spells
a control token becomes that token there, and white space at the beginning of a content may join the line breaks before
it, which Meta's code encodes apart.
"""

from __future__ import annotations

from ..tokenizer.chat import TemplateName
from ..tokenizer.tool_calls import BUILT_IN, CODE_INTERPRETER

CALL = """\
{%- macro write_call(call) %}
  {%- set function = call.function if call.function is defined else call %}
  {%- if function.name == 'CODE' and function.arguments is mapping and function.arguments.code is string %}
    {{- function.arguments.code }}
  {%- elif function.name in BUILT_IN and function.arguments is mapping and function.arguments | list == ['query'] %}
    {{- function.name + '.call(query="' + function.arguments.query + '")' }}
  {%- else %}
    {{- '{"type": "function", "name": ' + function.name | tojson(ensure_ascii=true) + ', "parameters": ' }}
    {{- function.arguments if function.arguments is string else function.arguments | tojson(ensure_ascii=true) }}
    {{- '}' }}
  {%- endif %}
{%- endmacro %}
""".replace("'CODE'", repr(CODE_INTERPRETER)).replace("BUILT_IN", repr(list(BUILT_IN)))

LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
  {%- set role = 'ipython' if message.role == 'tool' else message.role %}
  {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
  {%- set calls = message.tool_calls or [] %}
  {%- if calls and (calls[0].function or calls[0]).name == 'CODE' %}
    {{- '<|python_tag|>' }}
  {%- endif %}
  {{- CONTENT }}
  {%- for call in calls %}
    {{- write_call(call) }}
  {%- endfor %}
  {{- '<|eom_id|>' if message.awaits_tool else '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""".replace("'CODE'", repr(CODE_INTERPRETER))

CHATML = """\
{%- for message in messages %}
  {%- set role = 'tool' if message.role == 'ipython' else message.role %}
  {{- '<|im_start|>' + role + '\\n' + (message.content or '') }}
  {%- for call in message.tool_calls or [] %}
    {{- '\\n' if message.content or not loop.first }}
    {{- write_call(call) }}
  {%- endfor %}
  {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA2 = """\
{%- set has_system = messages and messages[0].role == 'system' %}
{%- set turns = messages[1:] if has_system else messages %}
{%- for message in turns %}
  {%- if (message.role == 'user') != (loop.index0 % 2 == 0) or message.role not in ['user', 'assistant'] %}
    {{- raise_exception('user and assistant take turns after an optional system message') }}
  {%- elif message.role == 'user' %}
    {%- set content = message.content %}
    {%- if loop.first and has_system %}
      {%- set content = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' + content %}
    {%- endif %}
    {{- bos_token + '[INST] ' + (content | trim) + ' [/INST]' }}
  {%- else %}
    {{- ' ' + (message.content | trim) + ' ' + eos_token }}
  {%- endif %}
{%- endfor %}
"""


def jinja_of(name: TemplateName, start: str, end: str) -> str | None:
    """The template of a format; `start` and `end` are what ChatML's marks are called. None: it cannot be written."""
    if name in ("llama3", "llama3-strip"):
        content = "(message.content or '') | trim" if name == "llama3-strip" else "message.content or ''"
        return CALL + LLAMA3.replace("CONTENT", content)
    if name == "chatml":
        return CALL + CHATML.replace("<|im_start|>", start).replace("<|im_end|>", end)
    return LLAMA2 if name == "llama2" else None
