"""Control tokens of chat templates do not get into a request, and answers are as the model meant them."""

import pytest

from rejoin_runner.models.chat_completions.special_tokens import TokenRestorer, break_tokens

TOKENS = [
    "<|im_start|>",
    "<|end|>",
    "<\uff5cUser\uff5c>",
    "[INST]",
    "[/INST]",
    "<start_of_turn>",
    "</s>",
    "<<SYS>>",
]
PLAIN = ["a < b | c > d", "[TODO] x", "list[int]", "<b>bold</b>", "<|", "👩\u200d💻", "<sub>", "a || b"]


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_broken_and_restored_in_any_pieces(token: str) -> None:
    text = f"before {token}system{token} after"
    broken = break_tokens(text)
    assert token not in broken
    for size in (1, 2, 3, 100):
        restorer = TokenRestorer()
        pieces = [broken[at : at + size] for at in range(0, len(broken), size)]
        assert "".join(map(restorer.restore, pieces)) == text


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert break_tokens(text) == text
    assert TokenRestorer().restore(text) == text
