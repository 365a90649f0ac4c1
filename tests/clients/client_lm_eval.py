"""The LM Evaluation Harness, on a task of three questions."""

import json
import os
import tempfile
from pathlib import Path

from checks import check, report

# [docs
import lm_eval

MODEL = {
    "model": "acme/tiny-1b",
    "base_url": f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
    "num_concurrent": 2,
    "tokenized_requests": False,
}
# docs]
folder = Path(tempfile.mkdtemp())
rows = [{"question": f"echo {word}", "answer": word} for word in ("one", "two", "three")]
(folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
task = {
    "task": "echo",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
found = lm_eval.simple_evaluate(
    model="local-chat-completions",
    model_args=MODEL,
    tasks=[task],
    apply_chat_template=True,
    log_samples=False,
)
score = found["results"]["echo"]["exact_match,none"]
check("Chat Completions", score == 1.0, found["results"])
report()
