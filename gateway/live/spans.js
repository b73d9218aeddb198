// The prompt, drawn as spans of tokens that got their KV in the same way.
import { byId, count, make } from './dom.js';
import { KINDS, tierName } from './kinds.js';

const NAMES = Object.fromEntries(KINDS.map(({ kind, name }) => [kind, name]));

// How each token of a segment got its KV.
function kindsOf(segment) {
  const kinds = Array.from({ length: segment.tokens }, (_, i) => {
    if (i >= segment.cached_tokens) return 'computed';
    return segment.exact ? 'exact' : 'blended';
  });
  for (const [first, rows] of segment.recomputed_rows ?? []) kinds.fill('recomputed', first, first + rows);
  return kinds;
}

// Runs of one kind: {kind, first, tokens}, `first` in the segment.
export function runsOf(segment) {
  const runs = [];
  kindsOf(segment).forEach((kind, i) => {
    const last = runs.at(-1);
    if (last?.kind === kind) ++last.tokens;
    else runs.push({ kind, first: i, tokens: 1 });
  });
  return runs;
}

function tokenCount(number) {
  return number === 1 ? '1 token' : `${count(number)} tokens`;
}

function summary(segment) {
  const sums = {};
  for (const { kind, tokens } of runsOf(segment)) sums[kind] = (sums[kind] ?? 0) + tokens;
  return KINDS.filter(({ kind }) => sums[kind])
    .map(({ kind, name }) => `${count(sums[kind])} ${name.toLowerCase()}`).join(', ');
}

// What each segment is, as far as the page can know: a passage with a separator in it is cut there.
function namesOf(segments, passages) {
  if (segments.length !== passages.length + 2) return segments.map((_, i) => `Segment ${i + 1}`);
  return ['Lead: template and instructions', ...passages.map(({ letter }) => `Passage ${letter}`), 'Question'];
}

export class Spans {
  constructor(container, detail) {
    this.container = container;
    this.detail = detail;
    this.hint = detail.textContent;
    this.spans = [];
    container.addEventListener('keydown', (e) => this.onKey(e));
    for (const event of ['mouseover', 'focusin', 'click']) {
      container.addEventListener(event, (e) => this.show(e.target.closest('.kv')));
    }
    container.addEventListener('mouseleave', () => this.show(null));
  }

  clear(text) {
    this.spans = [];
    this.container.replaceChildren(make('p', { class: 'quiet', text }));
    this.show(null);
  }

  // `strings`: the text of every token of the prompt; null while it is not known.
  draw(segments, passages, strings) {
    this.spans = [];
    const names = namesOf(segments, passages);
    let start = 0;
    this.container.replaceChildren(...segments.map((segment, i) => {
      const item = this.drawSegment(segment, names[i], strings?.slice(start, start + segment.tokens));
      start += segment.tokens;
      return item;
    }));
    if (this.spans.length) this.spans[0].tabIndex = 0;
    this.show(null);
  }

  drawSegment(segment, name, strings) {
    const text = make('p', { class: 'segment-text' });
    for (const run of runsOf(segment)) {
      let words = strings ? strings.slice(run.first, run.first + run.tokens).join('') : '…';
      // The join behind a passage is part of it, but empty lines would only take room.
      if (run.first + run.tokens === segment.tokens) words = words.trimEnd();
      text.append(this.makeSpan(run, segment, name, words));
    }
    const tier = segment.source === 'computed' ? 'computed here' : `from ${tierName(segment.tier)}`;
    return make('section', { class: 'segment', 'aria-label': name },
      make('p', { class: 'segment-head' },
        make('strong', { text: name }),
        make('span', { class: 'tier', text: tier }),
        make('span', { class: 'quiet', text: `${tokenCount(segment.tokens)}: ${summary(segment)}` })),
      text);
  }

  makeSpan({ kind, first, tokens }, segment, name, words) {
    const where = tokens === 1 ? `token ${count(first + 1)}` : `tokens ${count(first + 1)} to ${count(first + tokens)}`;
    const tier = kind === 'computed' ? 'computed in the worker' : `from ${tierName(segment.tier)}`;
    const detail = `${name}, ${where} of ${count(segment.tokens)}: ${NAMES[kind].toLowerCase()}, ${tier}`;
    const span = make('span', {
      class: `kv kv-${kind}`, role: 'note', tabindex: '-1', 'aria-label': `${detail}. ${words.trim()}`,
      'data-kind': kind, 'data-tokens': tokens, 'data-detail': detail,
    });
    span.textContent = words;
    this.spans.push(span);
    return span;
  }

  show(span) {
    for (const shown of this.container.querySelectorAll('.shown')) shown.classList.remove('shown');
    span?.classList.add('shown');
    this.detail.textContent = span?.dataset.detail ?? this.hint;
  }

  // One stop of the Tab key for all spans; arrows go on from there.
  onKey(event) {
    const at = this.spans.indexOf(document.activeElement);
    const to = {
      ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: this.spans.length - 1,
    }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const next = this.spans[Math.max(0, Math.min(to, this.spans.length - 1))];
    this.spans[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

export function makeSpans() {
  return new Spans(byId('spans'), byId('detail'));
}
