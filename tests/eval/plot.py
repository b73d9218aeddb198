"""Fidelity over time to the first token, as a picture."""

import matplotlib

matplotlib.use("Agg")  # no display
from matplotlib import pyplot  # noqa: E402  (needs the backend above)

# KL below this is rounding: the axis is logarithmic.
LEAST = 1e-6


def plot(report, path):
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    rows = report["rows"]
    series = sorted({(r["sink"], r["policy"], r["correction"]) for r in rows})
    policies = sorted({r["policy"] for r in rows})
    for sink, policy, correction in series:
        own = [r for r in rows if (r["sink"], r["policy"], r["correction"]) == (sink, policy, correction)]
        axes.plot(
            [r["ttft_ms"] for r in own],
            [max(r["kl16_mean"], LEAST) for r in own],
            marker={"bos": "o", "lead": "s", "none": "^"}.get(sink, "D"),
            fillstyle="full" if correction else "none",
            linestyle="none",
            color=f"C{policies.index(policy)}",
            label=f"{policy}{', corrected' if correction else ''} (sink {sink})",
        )
        for r in own:
            if r["ratio"] not in (0, 1):
                axes.annotate(
                    f"{100 * r['ratio']:.0f} %",
                    (r["ttft_ms"], max(r["kl16_mean"], LEAST)),
                    textcoords="offset points",
                    xytext=(5, 4),
                    fontsize=7,
                )
    best = sorted((r for r in rows if r["on_frontier"]), key=lambda r: r["ttft_ms"])
    axes.step(
        [r["ttft_ms"] for r in best],
        [max(r["kl16_mean"], LEAST) for r in best],
        where="post",
        color="grey",
        linewidth=1,
        label="efficient frontier",
    )
    axes.axvline(report["full"]["ttft_ms"], color="black", linestyle=":", label="full recompute")
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("TTFT, ms (median, chunks resident)")
    axes.set_ylabel("KL to full recompute over 16 tokens, nats (mean)")
    axes.set_title(
        f"{report['model']}, {report['cases']} cases of {report['tokens']} tokens, {report['device']}, "
        f"{report['cores']} cores, {report['date']}",
        fontsize=10,
    )
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
