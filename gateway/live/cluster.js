// Workers, cache tiers and hit rate, asked for every two seconds while somebody looks.
import { apiKey, getJson } from './api.js';
import { byId, bytes, count, make, percent, showNotice, tableRow } from './dom.js';
import { drawLegend, drawShare, tierName } from './kinds.js';

const EVERY_MS = 2000;
const TIMEOUT_MS = 5000;

function flag(good, text) {
  return make('span', { class: `flag ${good ? 'good' : 'bad'}` },
    make('span', { 'aria-hidden': 'true', text: good ? '● ' : '▲ ' }), text);
}

function drawWorkers(workers) {
  const table = byId('workers');
  const rows = workers.map((worker) => {
    const ready = worker.state === 'ready';
    const model = ready ? `${worker.model}, ${count(worker.max_model_len)} tokens` : '–';
    return tableRow(table, [
      worker.address, flag(ready, worker.state), model,
      ready ? `${worker.device}${worker.blend ? '' : ', no blending'}` : '–',
      ready ? count(worker.running) : '–', ready ? count(worker.waiting) : '–',
    ]);
  });
  table.tBodies[0].replaceChildren(...rows);
}

function drawTier(tier) {
  const name = tierName(tier.name);
  const used = percent(tier.used_bytes, tier.capacity_bytes);
  const bar = make('span', { class: 'bar measured' });
  bar.style.width = `${Math.min(100, (100 * tier.used_bytes) / Math.max(1, tier.capacity_bytes))}%`;
  return make('li', {},
    make('p', { class: 'tier-head' },
      make('strong', { text: name.charAt(0).toUpperCase() + name.slice(1) }),
      make('span', { class: 'value', text: `${bytes(tier.used_bytes)} of ${bytes(tier.capacity_bytes)}` })),
    make('span', { class: 'track', role: 'img', 'aria-label': `${used} full` }, bar),
    make('p', { class: 'quiet' },
      `${count(tier.entries)} pieces · ${count(tier.hits)} hits of ${count(tier.hits + tier.misses)} reads ` +
      `(${percent(tier.hits, tier.hits + tier.misses)}) · ${count(tier.evictions)} evicted`));
}

function drawCache(cache) {
  const note = byId('cache-note');
  if (!cache) note.textContent = 'This gateway has no cache server.';
  else if (!cache.reachable) note.replaceChildren(flag(false, 'The cache server does not answer. Prompts are still answered, computed in full.'));
  else if (cache.draining) note.textContent = 'The cache server is draining.';
  else note.textContent = cache.tiers.length ? '' : 'The cache server has no tiers.';
  note.hidden = !note.textContent;
  byId('tiers').replaceChildren(...(cache?.tiers ?? []).map(drawTier));
}

function drawHits(tokens) {
  const total = tokens.exact + tokens.blended + tokens.recomputed + tokens.computed;
  byId('hit-rate').textContent = percent(tokens.exact + tokens.blended, total);
  drawShare(byId('hit-bar'), tokens);
  drawLegend(byId('hit-legend'), tokens);
}

function drawState(cluster) {
  const ready = cluster.workers.filter(({ state }) => state === 'ready');
  const state = byId('state');
  state.dataset.state = ready.length ? 'ready' : 'down';
  byId('state-text').textContent = ready.length
    ? `${ready[0].model}: ${ready.length} of ${cluster.workers.length} workers ready`
    : 'No worker is ready';
}

export class ClusterView {
  constructor() {
    document.addEventListener('visibilitychange', () => this.refresh());
    this.refresh();
  }

  // Asks now, and from then on; or stops, while the page is hidden.
  refresh() {
    clearTimeout(this.timer);
    this.asking?.abort();
    if (document.hidden) {
      byId('updated').textContent = 'Paused while the page is hidden';
      return;
    }
    this.ask();
  }

  async ask() {
    const asking = new AbortController();
    this.asking = asking;
    const late = setTimeout(() => asking.abort('late'), TIMEOUT_MS);
    try {
      this.draw(await getJson('/cluster', asking.signal));
    } catch (error) {
      if (this.asking === asking) this.drawError(error);
    }
    clearTimeout(late);
    if (this.asking === asking) this.timer = setTimeout(() => this.ask(), EVERY_MS);
  }

  draw(cluster) {
    showNotice(byId('cluster-error'), '');
    drawState(cluster);
    drawHits(cluster.prompt_tokens);
    drawCache(cluster.cache);
    drawWorkers(cluster.workers);
    byId('updated').textContent = `Updated ${new Date().toLocaleTimeString('en-GB')}, every ${EVERY_MS / 1000} s`;
  }

  // What was drawn last stays, marked as old.
  drawError(error) {
    const late = error === 'late' || error.name === 'AbortError';
    const keyless = error.status === 401 && !apiKey();
    const text = late ? `The gateway took longer than ${TIMEOUT_MS / 1000} s to answer.` : error.message;
    showNotice(byId('cluster-error'), text);
    byId('state').dataset.state = keyless ? 'locked' : 'down';
    byId('state-text').textContent = keyless ? 'An API key is needed' : error.status === 401 ? 'The API key is wrong' : 'No answer';
    byId('updated').textContent = 'Not up to date';
  }
}
