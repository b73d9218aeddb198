"""How far a blend's answers are from those of a full recompute. Logarithms are natural: KL is in nats."""

import collections
import math
import re
import statistics
import string

# Logprobs come as floats, so a sum of a thousand probabilities is right to about this.
ROUNDING = 1e-6


def kl(full, blend):
    """KL(full || blend) from the likeliest tokens of both, {id: logprob}.

    Tokens that both report are told apart, all others make one more outcome. To merge outcomes can only lower a
    divergence, so this is a lower bound; the more tokens, the closer.
    """
    total, rest_full, rest_blend = 0.0, 1.0, 1.0
    for token, p in full.items():
        q = blend.get(token)
        if q is None:
            continue
        total += math.exp(p) * (p - q)
        rest_full -= math.exp(p)
        rest_blend -= math.exp(q)
    if rest_full > ROUNDING:
        total += rest_full * math.log(rest_full / max(rest_blend, ROUNDING))
    return max(total, 0.0)


def token_f1(answer, gold):
    """Token F1 as for SQuAD: lower case, no punctuation, no articles."""

    def plain(text):
        kept = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    a, g = plain(answer), plain(gold)
    common = sum((collections.Counter(a) & collections.Counter(g)).values())
    return float(a == g) if not a or not g else 2 * common / (len(a) + len(g))


def likeliest(top):
    return next(iter(top))  # likeliest first


def compare(full, forced, greedy):
    """One blend's figures for one case.

    full: tops of the full recompute's tokens; forced: tops of the blend with the same tokens before them; greedy:
    whether its own answer is the same.
    """
    kls = [kl(f, b) for f, b in zip(full, forced, strict=True)]
    return {
        "kl": kls,
        "top1": statistics.fmean(likeliest(f) == likeliest(b) for f, b in zip(full, forced)),
        "same": float(greedy),
    }


def summarize(records):
    """Of one candidate's cases: each case counts the same in a mean; medians and worst are over tokens."""
    first = [r["kl"][0] for r in records]
    every = [kl for r in records for kl in r["kl"]]

    def mean(name):
        return statistics.fmean(r[name] for r in records)

    return {
        "cases": len(records),
        "kl1_mean": statistics.fmean(first),
        "kl1_median": statistics.median(first),
        "kl1_worst": max(first),
        "kl16_mean": statistics.fmean(statistics.fmean(r["kl"]) for r in records),
        "kl16_median": statistics.median(every),
        "kl16_worst": max(every),
        **{name: mean(name) for name in ("top1", "same", "f1_full", "f1_gold", "rows")},
        "ttft_ms": statistics.median(r["ttft_ms"] for r in records),
    }


def frontier(rows, cost="ttft_ms", loss="kl16_mean"):
    """Those that no other beats in both: ascending cost, falling loss."""
    best, kept = math.inf, []
    for row in sorted(rows, key=lambda r: (r[cost], r[loss])):
        if row[loss] < best:
            best = row[loss]
            kept.append(row)
    return kept
