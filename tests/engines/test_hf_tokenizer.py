"""HFTokenizer: what stands before a base model's prompt."""

from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
from tokenizers import (  # noqa: E402
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)

from reasoning.engines.hf_tokenizer import HFTokenizer  # noqa: E402

ASKED = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
BOS = 1


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """load(bos, template): a tokenizer of a few characters that puts BOS before a text, or not."""

    def made(bos: bool, template: str | None = None) -> HFTokenizer:
        # So many that it is not taken for a vocabulary that drops what it does not know.
        tokens = ["<unk>", "<s>", *"abehi\n", *map(str, range(10, 1010))]
        vocabulary = {token: place for place, token in enumerate(tokens)}
        fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        fast.decoder = decoders.Fuse()
        if bos:
            fast.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", BOS)]
            )
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=fast, bos_token="<s>", unk_token="<unk>", chat_template=template
        ).save_pretrained(tmp_path)
        return HFTokenizer(tmp_path)

    return made


@pytest.mark.parametrize("bos", [True, False])
def test_a_base_models_prompt_begins_as_its_tokenizer_begins_a_text(load: Any, bos: bool) -> None:
    tokenizer = load(bos)
    opening = [BOS] if bos else []
    assert tokenizer.render(ASKED) == opening + tokenizer.encode("be\nhi\n")
    assert tokenizer.transcript(ASKED) == opening + tokenizer.encode("be\nhi")
    assert BOS not in tokenizer.encode("hi")  # steps go on


def test_a_template_writes_its_own_beginning(load: Any) -> None:
    tokenizer = load(True, "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert tokenizer.render(ASKED) == [BOS, *tokenizer.encode("behi")]
