"""DSPy."""

from checks import check, report

# [docs
import dspy

lm = dspy.LM("openai/acme/tiny-1b")  # OPENAI_BASE_URL=http://127.0.0.1:7252/v1
dspy.configure(lm=lm, adapter=dspy.JSONAdapter())
found = dspy.Predict("question -> name: str, age: int")(question="Who is Ada?")
print(found)
# docs]
MODEL = "openai/acme/tiny-1b"

check("structured output", (found.name, found.age) == ("Ada", 36), found)
check("Chat Completions", bool(dspy.LM("openai/auto")("Hello")))
check("Responses", bool(dspy.LM("openai/auto", model_type="responses")("Hello")))
vectors = dspy.Embedder(MODEL)(["a", "b"])
check("embeddings", len(vectors) == 2, vectors)
report()
