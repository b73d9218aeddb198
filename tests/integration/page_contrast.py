"""Contrast of a page's texts by WCAG 2.1, from the styles that the browser computed."""

# For every element with text of its own that is shown: that text, its colour, the colours of what lies under it from
# the nearest to the page's root, and whether it is large (24 px, or 18.7 px bold).
TEXTS = """
const shown = (e) => e.checkVisibility({visibilityProperty: true, opacityProperty: true}) &&
                     e.getBoundingClientRect().width > 1;
const own = (e) => [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join(' ').trim() || e.value;
const seen = [];
for (const element of document.body.querySelectorAll('*')) {
  const words = own(element);
  if (!words || !shown(element) || element.closest('.sr-only, .skip, script, option, noscript')) continue;
  const style = getComputedStyle(element);
  const grounds = [];
  for (let e = element; e; e = e.parentElement) grounds.push(getComputedStyle(e).backgroundColor);
  const size = parseFloat(style.fontSize);
  seen.push([String(words).slice(0, 40), style.color, grounds, size >= 24 || (size >= 18.7 && style.fontWeight >= 700)]);
}
return seen;
"""


def parse(css):
    """'rgb(1, 2, 3)' or 'rgba(1, 2, 3, 0.5)' -> ((r, g, b), alpha)"""
    numbers = [float(n) for n in css[css.index("(") + 1 : -1].split(",")]
    return tuple(numbers[:3]), numbers[3] if len(numbers) > 3 else 1.0


def ground_of(grounds):
    """The colour that the nearest opaque ground and what is half transparent above it make."""
    layers = []
    for css in grounds:
        color, alpha = parse(css)
        layers.append((color, alpha))
        if alpha == 1:
            break
    result = (255.0, 255.0, 255.0)
    for color, alpha in reversed(layers):
        result = tuple(alpha * c + (1 - alpha) * r for c, r in zip(color, result))
    return result


def luminance(color):
    def linear(c):
        c /= 255
        return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4

    r, g, b = map(linear, color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def low_contrasts(browser):
    """Texts below 4.5 (3 where they are large), each with its ratio; AA wants none."""
    low = []
    texts = browser.js(TEXTS)
    assert len(texts) > 50, f"only {len(texts)} texts were found"
    for words, color, grounds, large in texts:
        ratio = contrast(parse(color)[0], ground_of(grounds))
        if ratio < (3 if large else 4.5):
            low.append(f"{words!r}: {ratio:.2f}")
    return low
