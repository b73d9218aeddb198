"""Deterministic mixed text for comparing and timing tokenizers: nothing is read from anywhere."""

import random

WORDS = (
    "the of and to in is that for it was on are as with they at be this from have or by one had not but what all were"
    " when we there can an your which their said if do will each about how up out them then she many some so these"
    " would other into has more two like him see time could no make than first been its who now people my made over"
    " did down only way find use may water long little very after words called just where most know attention"
    " transformer cached tokens internationalization Streptococcus antidisestablishmentarianism Reykjavík naïve"
    " don't I'll we've they're it's you'd I'm DON'T It'S"
).split()

CODE = '''\
def merge(left: list[int], right: list[int]) -> list[int]:
    """Merges two sorted lists."""
    out, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            out.append(left[i]); i += 1
        else:
            out.append(right[j]); j += 1
    return out + left[i:] + right[j:]


template <typename T, std::size_t N>
constexpr auto Sum(const std::array<T, N>& values) noexcept -> T {
\tT total{};
\tfor (const auto& value : values) total += value;  // 0x1F, 1e-9, 3.14159
\treturn total;
}
#define MAX(a,b) ((a)>(b)?(a):(b))\r
SELECT name, COUNT(*) FROM users WHERE id >= 1000 GROUP BY name HAVING COUNT(*) > 3;\r
{"key": [1, 22, 333, 4444], "nested": {"a": null, "b": true}, "escaped": "\\n\\u00e9"}
'''

SCRIPTS = [
    "人工知能は、データから学習する。今日は良い天気ですね。カタカナとひらがな。",
    "大语言模型把相同的文本放进许多提示里，缓存可以重复使用。第３章：结论！",
    "인공지능은 텍스트를 토큰으로 나눕니다. 안녕하세요 세계.",
    "Машинное обучение и нейронные сети — это интересно, правда?",
    "الذكاء الاصطناعي يتعلم من البيانات ١٢٣٤٥.",
    "बड़े भाषा मॉडल टोकन का उपयोग करते हैं। १२३",
    "ปัญญาประดิษฐ์เรียนรู้จากข้อมูล",
    "Ελληνικά κείμενα με τόνους· άέήίόύώ",
    "Tiếng Việt có nhiều dấu: ặ ệ ỗ ữ ỷ",
    "בינה מלאכותית לומדת מנתונים",
    "ქართული ენა, հայերեն, አማርኛ",
]

ODD = [
    "👩‍👩‍👧‍👦👍🏽🇩🇪🏳️‍🌈🤖🔥✨",
    "e\u0301 a\u0308 n\u0303 o\u0302\u0301 \u1100\u1161\u11a8 \u212b \u2126 \ufb01 \u01c5",
    "Z̸̢͇a̵l̴g̶o̷ \u0315\u0300\u05ae\u0301",
    "\u00a0\u2003\u3000 \u200b\u200d\ufeff\u00ad\u180e\u2028\u2029\u0085",
    "½ ⅓ ² ³ ① Ⅷ ৴ 𝟘𝟙𝟚 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "'ſ 'S 'LL 'rE  ’s ‘t “quoted” … — –",
    "   \n\n\n   \t\t \r\n\r\n  x \x0b\x0c y\x00z \x7f\x1b[0m",
    "http://example.org/a?b=c&d=%20#frag user@example.com C:\\dir\\file.txt ~/x/../y",
    "!!!???...---===+++///\\\\\\###$$$%%%^^^&&&***((()))[[[]]]{{{}}}<<<>>>",
    "\U0001f9ff\U000e0041\U0010ffff\ue000\uffff\ufffd",
    "<|im_start|>user\nhi<|im_end|> <|endoftext|> <tool_call> </tool_call> <s> </s> [INST] <think>",
]


def sentence(rng):
    words = [rng.choice(WORDS) for _ in range(rng.randint(3, 25))]
    if rng.random() < 0.3:
        words.insert(rng.randrange(len(words)), str(rng.randint(0, 10 ** rng.randint(1, 12))))
    text = " ".join(words)
    return text[0].upper() + text[1:] + rng.choice([".", "?", "!", ",", ";\n", ".\n\n", ":  ", "\n\n\n    "])


def english(rng, size):
    out, length = [], 0
    while length < size:
        out.append(sentence(rng))
        length += len(out[-1]) + 1
    return " ".join(out)


def document(rng):
    """A few hundred characters to a few thousand, of one kind or of several mixed."""
    kinds = [
        lambda: english(rng, 400),
        lambda: CODE[rng.randrange(200):][: rng.randint(50, 900)],
        lambda: rng.choice(SCRIPTS) * rng.randint(1, 4),
        lambda: rng.choice(ODD),
        lambda: " " * rng.randint(1, 70),
        lambda: "\n" * rng.randint(1, 9),
        lambda: "".join(rng.choice("abcdefghijklmnop") for _ in range(rng.randint(20, 200))),
    ]
    weights = [6, 3, 4, 2, 1, 1, 1]
    return "".join(rng.choices(kinds, weights)[0]() for _ in range(rng.randint(1, 8)))


def mixed_documents(size, seed=1):
    """Documents of `size` bytes of UTF-8 together."""
    rng = random.Random(seed)
    out, length = [], 0
    while length < size:
        out.append(document(rng))
        length += len(out[-1].encode())
    return out


# First and last code point of the ranges that fuzz strings draw from; surrogates are left out.
RANGES = [
    (0x20, 0x7E), (0x00, 0x1F), (0x80, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF),
    (0x900, 0xDFF), (0xE00, 0xEFF), (0x1100, 0x11FF), (0x1680, 0x180F), (0x2000, 0x206F), (0x2070, 0x218F),
    (0x2190, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xA640, 0xABFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFF),
    (0x10000, 0x10FFF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0000, 0xE01EF),
]


def fuzz_strings(count, seed=2):
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        ranges = rng.sample(RANGES, rng.randint(1, 4)) + [RANGES[0]]
        out.append("".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 40))))
    return out
