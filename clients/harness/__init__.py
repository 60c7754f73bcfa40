"""lm-evaluation-harness against a Sluice server: its command with one more model, "sluice".

    pip install -e '.[lm-eval]'
    python -m clients.harness run --model sluice --tasks gsm8k \\
        --model_args server=127.0.0.1:7700,budget=2500,policy=r_kv,concurrency=64 \\
        --apply_chat_template --gen_kwargs max_gen_toks=8192

lm-eval 0.4.13 finds models by an explicit list only (it reads no entry points), so the command is
ours; what follows is its own. In Python: import `clients.harness.model`, then
`lm_eval.simple_evaluate(model="sluice", ...)`.
"""
