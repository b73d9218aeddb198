// Times of the run at hand, and those of the runs before it.
import { byId, count, make, milliseconds, percent, tableRow } from './dom.js';
import { tokensOf } from './kinds.js';

const MOST_RUNS = 12;

function cachedTokens(tokens) {
  return tokens.exact + tokens.blended + tokens.recomputed;
}

function allTokens(tokens) {
  return cachedTokens(tokens) + tokens.computed;
}

// Bars of one scale, the longest of them full.
export function drawTiming(run) {
  const rows = [
    ['First token, in this browser', run?.ttft, 'measured'],
    ['Prefill, in the worker', run?.tessera?.prefill_ms, 'measured'],
    ['Full prefill, nothing cached', run?.tessera?.full_prefill_ms, 'estimate'],
  ];
  const longest = Math.max(1, ...rows.map(([, ms]) => ms ?? 0));
  byId('timing').replaceChildren(...rows.flatMap(([name, ms, kind]) => {
    const bar = make('span', { class: `bar ${kind}`, 'aria-hidden': 'true' });
    bar.style.width = `${(100 * (ms ?? 0)) / longest}%`;
    return [
      make('dt', {}, name, kind === 'estimate' ? make('span', { class: 'quiet', text: ' (estimate)' }) : ''),
      make('dd', {}, make('span', { class: 'track' }, bar), make('span', { class: 'value', text: milliseconds(ms) })),
    ];
  }));
  byId('verdict').textContent = verdict(run);
}

function verdict(run) {
  const full = run?.tessera?.full_prefill_ms;
  if (!full || !run.ttft) return '';
  const tokens = tokensOf(run.tessera);
  const reused = `${percent(cachedTokens(tokens), allTokens(tokens))} of ${count(allTokens(tokens))} prompt tokens came from a cache`;
  const factor = full / run.ttft;
  if (factor >= 1.1) return `The first token came ${factor.toFixed(1)} times as fast as a full prefill is estimated to take: ${reused}.`;
  return `The first token took ${(1 / factor).toFixed(1)} times what a full prefill is estimated to take: ${reused}.`;
}

// What the cache had of a run, beside the runs before it.
function cacheState(run, earlier) {
  const tokens = tokensOf(run.tessera);
  const share = cachedTokens(tokens) / Math.max(1, allTokens(tokens));
  if (share < 0.25) return 'cold';
  const sorted = (texts) => JSON.stringify([...texts].sort());
  const same = earlier.filter((old) => sorted(old.texts) === sorted(run.texts));
  if (same.some((old) => JSON.stringify(old.texts) === JSON.stringify(run.texts))) return 'repeated';
  return same.length ? 'reordered' : 'warm';
}

export class Runs {
  constructor() {
    this.table = byId('runs');
    this.runs = [];
    this.sent = 0;
  }

  // run: {order, texts, mode, ttft, tessera}; the newest is drawn first.
  add(run) {
    const state = cacheState(run, this.runs);
    this.runs.push(run);
    if (this.runs.length > MOST_RUNS) this.runs.shift();
    const tokens = tokensOf(run.tessera);
    const row = tableRow(this.table, [
      `${++this.sent}`, run.order, make('span', { class: `tag ${state}`, text: state }), run.mode,
      percent(cachedTokens(tokens), allTokens(tokens)), milliseconds(run.ttft),
      milliseconds(run.tessera.full_prefill_ms),
    ]);
    const body = this.table.tBodies[0];
    body.prepend(row);
    if (body.rows.length > MOST_RUNS) body.rows[MOST_RUNS].remove();
    byId('no-runs').hidden = true;
    this.table.hidden = false;
  }
}
