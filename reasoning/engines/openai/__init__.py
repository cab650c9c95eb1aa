"""openai/: any OpenAI-compatible server; against `vllm serve`, token ids end to end.

settings.py    what a recipe may say about the server
engine.py      the seam's methods
meeting.py     which dialect a server is spoken to in, and what it can do then
discovery.py   what kind of server answers, and which model it serves
token_ids.py   requests and replies in token ids (vLLM)
text.py        requests and replies in text (completions and chat of any server)
standin.py     the tokenizer that stands in where there are no token ids
assembly.py    continuations put together from a stream of deltas
sending.py     retries, their budget, the circuit breaker
pooling.py     the reward head of a pooling model
gate.py        adaptive concurrency
transport.py   one HTTP session, with separate timeouts and a cap on sizes
faults.py      what can go wrong, and the error a caller sees
"""

from reasoning.engines.openai.engine import OpenAIEngine

__all__ = ["OpenAIEngine"]
