"""Texts for tokenizers and models to agree about."""

import random

KINDS = [
    "plain words of English, with commas; and stops. ",
    "I'm, you'LL, they've, DON'T, it's 'quoted'",
    "1234567890 3.14159 1,000,000 0x1F 2024-11-25 100%",
    "def f(x):\n    return x ** 2  # squared\n\n\n",
    "  two  spaces\tand\ttabs \n\n new lines \r\n",
    "Grüße aus Zürich, ça va, señor, naïve café",
    "Привет мир, γειά σου Κόσμε, שלום עולם",
    "日本語のテキスト、中文文本，한국어",
    "🙂👩‍👩‍👧‍👦🇨🇭 emoji ✨ and ∑∫√∞ ≠ ≤",
    "aaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbb",
    "http://example.org/a?b=c&d=%20#e user@host.com",
    "SHOUTING and CamelCaseWords and snake_case_names",
    "(a[b]{c}<d>) -- ... !!! ??? /* */ $$$",
]
PROMPTS = [
    "Once upon a time, there was a little girl",
    "The capital of France is",
    "Lily and Tim went to the park. They",
    "One day, a big dog",
    "The number 12 is larger than",
]


def two_hundred():
    """Every kind alone, and mixtures of their pieces."""
    chance, made = random.Random(11), list(KINDS)
    while len(made) < 200:
        pieces = [chance.choice(KINDS) for _ in range(chance.randint(1, 3))]
        cut = [piece[chance.randint(0, 5) : chance.randint(6, len(piece))] for piece in pieces]
        made.append(chance.choice(["", " ", "\n"]).join(cut))
    return made
