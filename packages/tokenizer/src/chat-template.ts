/**
 * DeepSeek-V3's chat format in Jinja, for tokenizer_config.json: so that other programs can chat
 * with what we train. It renders what `encodeChat` encodes, see there for its oddities.
 */
export const CHAT_TEMPLATE: string = `
{{- bos_token }}
{%- set told = namespace(first=true) %}
{%- for m in messages %}
  {%- if m.role == 'system' %}
    {{- m.content if told.first else '\\n\\n' + m.content }}
    {%- set told.first = false %}
  {%- endif %}
{%- endfor %}
{%- set opened = namespace(calls=false, outputs=false) %}
{%- set after = namespace(outputs=false) %}
{%- for m in messages %}
  {%- if m.role == 'user' %}
    {{- '<｜User｜>' + m.content }}
    {%- set after.outputs = false %}
  {%- elif m.role == 'tool' %}
    {{- '\\n' if opened.outputs else '<｜tool▁outputs▁begin｜>' }}
    {{- '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}
    {%- set opened.outputs = true %}
    {%- set after.outputs = true %}
  {%- elif m.role == 'assistant' and m.content is string %}
    {{- '<｜tool▁outputs▁end｜>' if after.outputs else '<｜Assistant｜>' }}
    {{- m.content + '<｜end▁of▁sentence｜>' }}
    {%- set after.outputs = false %}
  {%- elif m.role == 'assistant' %}
    {%- for call in m.tool_calls %}
      {{- '\\n' if opened.calls else '<｜Assistant｜><｜tool▁calls▁begin｜>' }}
      {{- '<｜tool▁call▁begin｜>' + call.type + '<｜tool▁sep｜>' + call.function.name }}
      {{- '\\n\`\`\`json\\n' + call.function.arguments + '\\n\`\`\`<｜tool▁call▁end｜>' }}
      {{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' if opened.calls else '' }}
      {%- set opened.calls = true %}
    {%- endfor %}
    {%- set after.outputs = false %}
  {%- endif %}
{%- endfor %}
{%- if after.outputs %}
  {{- '<｜tool▁outputs▁end｜>' }}
{%- elif add_generation_prompt %}
  {{- '<｜Assistant｜>' }}
{%- endif %}
`.trim();
