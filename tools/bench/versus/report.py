"""The result as a table and as a picture."""


def cell(value, form="{:.1f}"):
    return "-" if value is None else form.format(value)


def table(header, lines):
    """Columns as wide as they must be; the first to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]

    def text(line):
        left = [word.ljust(w) if i == 0 else word.rjust(w) for i, (word, w) in enumerate(zip(line, widths))]
        return "  ".join(left).rstrip()

    return "\n".join([text(header), "  ".join("-" * w for w in widths), *map(text, lines)])


def speed_table(rows):
    header = ["model", "bits", "phase", "threads", "ours", "theirs", "tok/s ours", "theirs", "median ratio",
              "of limit ours", "theirs", "turns"]
    lines = []
    for r in rows:
        counts = [r[f"{side}_tokens_per_second"] for side in ("ours", "theirs")]
        lines.append([
            r["model"], str(r["bits"]), r["phase"], str(r["threads"]), r["weights"] or "-", r["format"],
            cell(r["ours"]), cell(r["theirs"]), cell(r["ratio"], "{:.2f}"), cell(r["ours_fraction"], "{:.0%}"),
            cell(r["theirs_fraction"], "{:.0%}"), "/".join(str(c["count"] if c else 0) for c in counts),
        ])
    return table(header, lines) + "\nmedian ratio: of the ratios within a round, not the ratio of the medians"


def startup_table(rows):
    header = ["model", "bits", "ours", "theirs", "first token s ours", "theirs", "peak GB ours", "theirs",
              "weights GB ours", "theirs"]
    lines = []
    for r in rows:
        lines.append([
            r["model"], str(r["bits"]), r["weights"] or "-", r["format"],
            cell(r["ours_first_token_seconds"], "{:.3f}"), cell(r["theirs_first_token_seconds"], "{:.3f}"),
            *(cell(r[key] and r[key] / 1e9, "{:.2f}") for key in
              ("ours_peak_bytes", "theirs_peak_bytes", "ours_weight_bytes", "theirs_weight_bytes")),
        ])
    return table(header, lines)


def plot(path, rows, about):
    """Tokens per second of both, a panel for each model, phase and number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = sorted({(r["model"], r["phase"], r["threads"]) for r in rows}, reverse=True)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(7 * columns, 3.6 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (model, phase, threads) in zip(axes.flat, panels):
        chosen = [r for r in rows if (r["model"], r["phase"], r["threads"]) == (model, phase, threads)]
        bars = ((-0.2, "ours", "tab:blue", "moec"), (0.2, "theirs", "tab:orange", "llama.cpp"))
        for offset, side, color, name in bars:
            heights = [r[side] or 0 for r in chosen]
            spreads = [r[f"{side}_tokens_per_second"] for r in chosen]
            errors = [[h - s["min"] if s else 0 for h, s in zip(heights, spreads)],
                      [s["max"] - h if s else 0 for h, s in zip(heights, spreads)]]
            places = [i + offset for i in range(len(chosen))]
            axis.bar(places, heights, 0.4, color=color, label=name, yerr=errors, capsize=2)
            for x, height, r in zip(places, heights, chosen):
                if height and r[f"{side}_fraction"] is not None:
                    axis.annotate(f"{r[f'{side}_fraction']:.0%}", (x, 0), (0, 4), textcoords="offset points",
                                  ha="center", fontsize=8, bbox={"facecolor": "white", "lw": 0, "pad": 1})
        axis.set_xticks(range(len(chosen)), [f"{r['weights'] or '-'}\n{r['format']}" for r in chosen])
        axis.set_title(f"{model}, {phase}, {threads} thread{'s' if threads > 1 else ''}")
        axis.set_ylabel("tokens/s")
    axes.flat[0].legend()
    figure.suptitle(f"{about}\nbars: median, lines: least and most, inside: share of the machine's limit", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
