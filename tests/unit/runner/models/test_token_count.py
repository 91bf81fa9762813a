"""The token estimate of a conversation, and its correction by the provider's counts."""

# ruff: noqa: RUF001 - the samples are texts in their own scripts

from typing import Any, NamedTuple

import pytest

from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.models.token_count import (
    CALIBRATION_MAX,
    CALIBRATION_MIN,
    CALIBRATION_TOKENS_MIN,
    FILE_TOKENS,
    SAMPLE_CHARS_MAX,
    calibrate,
    count_tokens,
    estimate_text_tokens,
)


class Sample(NamedTuple):
    text: str
    counts: tuple[int, int, int]
    """By OpenAI's o200k_base and cl100k_base, and by Claude 2's tokenizer."""


SAMPLES = {
    "english": Sample(
        "Yesterday evening the committee met for almost three hours, because nobody could agr"
        "ee on the budget for the new library. In the end they decided to postpone the questi"
        "on, to ask two architects for their opinion, and to publish all documents on the tow"
        "n's website, where every resident can read and comment on them until the end of Marc"
        "h.",
        (66, 66, 67),
    ),
    "german": Sample(
        "Gestern Abend tagte der Ausschuss fast drei Stunden lang, weil sich niemand über die"
        " Haushaltsmittel für die neue Stadtbücherei einigen konnte. Schließlich wurde beschl"
        "ossen, die Entscheidung zu verschieben, zwei Architekturbüros um Stellungnahmen zu b"
        "itten und sämtliche Unterlagen auf der Internetseite der Gemeinde zu veröffentlichen"
        ".",
        (66, 88, 99),
    ),
    "chinese": Sample(
        "昨天晚上委员会开了将近三个小时的会，因为大家对新图书馆的预算始终无法达成一致。最后他们决"
        "定推迟表决，先征求两位建筑师的意见，并把所有文件公布在市政府的网站上，让每一位居民在三月"
        "底以前都可以阅读并发表看法。",
        (71, 115, 107),
    ),
    "japanese": Sample(
        "昨日の夜、委員会は新しい図書館の予算について意見がまとまらず、三時間近く話し合いを続けま"
        "した。結局、採決を延期して二人の建築家に意見を求めることになり、すべての資料は町のウェブ"
        "サイトで公開され、住民は三月末まで自由に読んでコメントすることができます。",
        (96, 135, 137),
    ),
    "korean": Sample(
        "어제 저녁 위원회는 새 도서관의 예산에 대해 의견이 모이지 않아 거의 세 시간 "
        "동안 회의를 했습니다. 결국 표결을 미루고 두 명의 건축가에게 의견을 묻기로 했"
        "으며, 모든 자료는 시청 홈페이지에 공개되어 주민 누구나 삼월 말까지 읽고 의견"
        "을 남길 수 있습니다.",
        (78, 146, 161),
    ),
    "russian": Sample(
        "Вчера вечером комитет заседал почти три часа, потому что никто не мог договориться о"
        " бюджете новой библиотеки. В конце концов решили отложить вопрос, спросить мнение дв"
        "ух архитекторов и опубликовать все документы на сайте города, чтобы жители могли про"
        "читать их до конца марта.",
        (61, 126, 137),
    ),
    "python": Sample(
        "class Inventory:\n"
        '    """Counts items by their number."""\n'
        "\n"
        "    def __init__(self, capacity: int = 100) -> None:\n"
        "        self._items: dict[str, int] = {}\n"
        "        self._capacity = capacity\n"
        "\n"
        "    def add(self, number: str, count: int = 1) -> int:\n"
        "        if count < 1:\n"
        '            raise ValueError(f"count must be positive, got {count}")\n'
        "        total = sum(self._items.values()) + count\n"
        "        if total > self._capacity:\n"
        '            raise OverflowError("the inventory is full")\n'
        "        self._items[number] = self._items.get(number, 0) + count\n"
        "        return self._items[number]\n"
        "\n"
        "\n"
        "def report(inventory: Inventory) -> list[tuple[str, int]]:\n"
        "    return sorted(inventory._items.items(), key=lambda item: (-item[1], item[0]))\n",
        (181, 180, 188),
    ),
    "json": Sample(
        '{"orders":[{"id":"A-17","customerId":82411,"createdAt":"2026-03-10T09:11:05Z","items'
        '":[{"sku":"BK-9000","quantity":1,"priceCents":49900}],"status":"shipped","express":f'
        'alse,"note":null},{"id":"A-18","customerId":82448,"createdAt":"2026-03-11T09:18:05Z"'
        ',"items":[{"sku":"BK-9013","quantity":2,"priceCents":50050}],"status":"shipped","exp'
        'ress":false,"note":null},{"id":"A-19","customerId":82485,"createdAt":"2026-03-12T09:'
        '25:05Z","items":[{"sku":"BK-9026","quantity":3,"priceCents":50200}],"status":"shippe'
        'd","express":false,"note":null},{"id":"A-20","customerId":82522,"createdAt":"2026-03'
        '-13T09:32:05Z","items":[{"sku":"BK-9039","quantity":4,"priceCents":50350}],"status":'
        '"shipped","express":false,"note":null}]}',
        (261, 248, 255),
    ),
    "digits": Sample(
        "1106790 2693477 4280164 5866851 7453538 9040225 626893 2213580 3800267 5386954 69736"
        "41 8560328 146996 1733683 3320370 4907057 6493744 8080431 9667118 1253786 2840473 44"
        "27160 6013847 7600534 9187221 773889 2360576 3947263 5533950 7120637 8707324 293992 "
        "1880679 3467366 5054053 6640740 8227427 9814114 1400782 2987469",
        (155, 155, 122),
    ),
    "markdown": Sample(
        "## Result\n"
        "\n"
        "| Item | Count | Price |\n"
        "|---|---:|---:|\n"
        "| Red bicycle | 3 | 499.00 € |\n"
        "| Bell | 12 | 9.00 € |\n"
        "\n"
        "- **Shipped:** yes, on *Monday*\n"
        "- See [the order](https://shop.example/orders/A-17?lang=en)\n"
        "\n"
        "```sh\n"
        "curl -s https://shop.example/api/orders | jq '.orders[0].id'\n"
        "```\n",
        (96, 96, 108),
    ),
}
CALL = {
    "type": "tool-weather",
    "toolCallId": "c1",
    "state": "output-available",
    "input": {"city": "Oslo"},
    "output": {"t": 1},
}


def message(role: str, *parts: dict[str, Any], **metadata: Any) -> MessageDict:
    return {"id": "m", "role": role, "parts": list(parts), "metadata": metadata}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_estimate_is_near_what_tokenizers_count(name: str) -> None:
    """No more than 55 % above the thriftiest of them, no less than 65 % of the most generous one."""
    sample = SAMPLES[name]
    assert 0.65 * max(sample.counts) <= estimate_text_tokens(sample.text) <= 1.55 * min(sample.counts)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_long_text_is_estimated_from_slices(name: str) -> None:
    """As well as from the whole: the texts are the same, many times."""
    times = 20 * SAMPLE_CHARS_MAX // len(SAMPLES[name].text)
    whole = times * estimate_text_tokens(SAMPLES[name].text)
    assert estimate_text_tokens(SAMPLES[name].text * times) == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (text("word " * 40), 40),
        ({"type": "reasoning", "text": "word " * 8}, 8),
        ({"type": "data-operation", "data": "x" * 99}, 0),
        (
            {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64," + "A" * 10**6},
            FILE_TOKENS,
        ),
        (CALL, sum(map(estimate_text_tokens, ("weather", '{"city":"Oslo"}', '{"t":1}')))),
        (
            CALL | {"state": "output-error", "errorText": "x" * 21},
            sum(map(estimate_text_tokens, ("weather", '{"city":"Oslo"}'))) + 3,
        ),
        (
            CALL
            | {
                "output": {
                    "type": "content",
                    "value": [
                        text("word word"),
                        {"type": "media", "data": "A" * 10**6, "mediaType": "image/png"},
                    ],
                }
            },
            sum(map(estimate_text_tokens, ("weather", '{"city":"Oslo"}', "word word [file]"))) + FILE_TOKENS,
        ),
    ],
)
def test_text_is_estimated_and_files_by_the_piece(part: dict[str, Any], expected: int) -> None:
    assert count_tokens([message("assistant", part)]) == [expected]


@pytest.mark.parametrize("name", ["korean", "russian", "german"])
@pytest.mark.parametrize("tokenizer", [0, 1, 2])
def test_the_provider_s_own_counts_correct_the_estimate(name: str, tokenizer: int) -> None:
    """The error of a language's estimate is gone once the model has answered in it."""
    sample = SAMPLES[name]
    usage = {"inputTokens": 7, "outputTokens": sample.counts[tokenizer] * 5 + 90, "reasoningTokens": 90}
    answer = message("assistant", text(sample.text * 5), usage=usage)
    asked = message("user", text(sample.text))
    counted = count_tokens([answer, asked])
    assert counted == pytest.approx([sample.counts[tokenizer] * 5, sample.counts[tokenizer]], rel=0.05)


def test_outputs_of_tools_and_reasoning_are_not_what_the_model_was_counted_for() -> None:
    words = "word " * 400
    answer = message(
        "assistant",
        {"type": "reasoning", "text": words * 9},
        CALL | {"output": words * 9, "input": {}},
        text(words),
        usage={"outputTokens": 600},
    )
    assert calibrate([answer]) == pytest.approx(1.5, rel=0.02)


@pytest.mark.parametrize(
    ("metadata", "words", "expected"),
    [
        ({}, 400, 1.0),
        ({"usage": "?"}, 400, 1.0),
        ({"usage": {"outputTokens": 0}}, 400, 1.0),
        ({"usage": {"outputTokens": 600}}, CALIBRATION_TOKENS_MIN - 1, 1.0),
        ({"usage": {"outputTokens": CALIBRATION_TOKENS_MIN - 1}}, 400, 1.0),
        ({"usage": {"outputTokens": 600}, "compaction": {}}, 400, 1.0),
        ({"usage": {"outputTokens": 10**6}}, 400, CALIBRATION_MAX),
        ({"usage": {"outputTokens": 200}}, 4_000, CALIBRATION_MIN),
    ],
)
def test_a_count_that_cannot_be_compared_corrects_nothing_or_little(
    metadata: dict[str, Any], words: int, expected: float
) -> None:
    """A provider may count tokens that are not in the message, and a message may lack counted ones."""
    assert calibrate([message("assistant", text("word " * words), **metadata)]) == expected
