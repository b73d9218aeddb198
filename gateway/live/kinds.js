// The four ways in which a prompt token got its KV, and the tiers that it came from.
import { byId, count, make, percent } from './dom.js';

export const KINDS = [
  { kind: 'exact', name: 'Exact', what: 'from the cache, computed in just this context' },
  { kind: 'blended', name: 'Blended', what: 'from the cache, not recomputed' },
  { kind: 'recomputed', name: 'Recomputed', what: 'from the cache, recomputed with the whole prompt in view' },
  { kind: 'computed', name: 'Computed', what: 'not from the cache' },
];

const TIERS = { worker: 'worker memory', ram: 'cache RAM', rocksdb: 'cache disk' };

export function tierName(tier) {
  if (!tier) return 'no tier';
  return TIERS[tier] ?? `cache tier ${tier}`;
}

function swatch(kind) {
  return make('span', { class: `swatch kv-${kind}`, 'aria-hidden': 'true', text: 'Aa' });
}

// `tokens` by kind, or null before there are any.
export function drawLegend(list, tokens) {
  list.replaceChildren(...KINDS.map(({ kind, name, what }) => make('li', { title: what }, swatch(kind),
    make('span', { text: name }),
    make('span', { class: 'quiet tokens', text: tokens ? count(tokens[kind]) : '' }))));
}

// One bar of all kinds; empty ones take no room.
export function drawShare(bar, tokens) {
  const total = KINDS.reduce((sum, { kind }) => sum + tokens[kind], 0);
  bar.replaceChildren();
  const said = [];
  for (const { kind, name } of KINDS) {
    if (!tokens[kind]) continue;
    const part = make('span', { class: `part kv-${kind}` });
    part.style.flexGrow = tokens[kind];
    bar.append(part);
    said.push(`${name} ${percent(tokens[kind], total)}`);
  }
  bar.setAttribute('aria-label', said.join(', ') || 'No prompt yet');
}

export function tokensOf(tessera) {
  return Object.fromEntries(KINDS.map(({ kind }) => [kind, tessera[`${kind}_tokens`]]));
}

export function initLegend() {
  drawLegend(byId('legend'), null);
}
