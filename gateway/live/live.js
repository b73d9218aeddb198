// The page's parts, put together: a prompt goes out, its answer and what became of it come in.
import { ApiError, apiKey, postJson, setApiKey, stream } from './api.js';
import { ClusterView } from './cluster.js';
import { byId, make, milliseconds, say, showNotice } from './dom.js';
import { PASSAGES, QUESTION, SYSTEM } from './examples.js';
import { drawLegend, drawShare, initLegend, tokensOf } from './kinds.js';
import { Passages } from './passages.js';
import { drawTiming, Runs } from './runs.js';
import { makeSpans } from './spans.js';
import { isBroken, mend } from './text.js';

const passages = new Passages(byId('passages'), PASSAGES);
const spans = makeSpans();
const runs = new Runs();
const cluster = new ClusterView();
let running = null;  // the AbortController of the prompt that runs

function messagesOf(run) {
  const parts = [...run.texts, run.question].map((text) => ({ type: 'text', text }));
  return [{ role: 'system', content: SYSTEM }, { role: 'user', content: parts }];
}

function setRunning(controller) {
  running = controller;
  byId('result').dataset.running = String(controller !== null);
  byId('send').setAttribute('aria-disabled', String(controller !== null));
  byId('stop').setAttribute('aria-disabled', String(controller === null));
}

function fail(text) {
  showNotice(byId('error'), text);
}

// Reads the form; says what is missing, and returns null then.
function newRun() {
  const filled = passages.filled;
  const question = byId('question').value.trim();
  const maxTokens = Number(byId('max-tokens').value);
  if (!question) {
    fail('Write a question: it is what the model answers.');
    byId('question').focus();
    return null;
  }
  if (!Number.isInteger(maxTokens) || maxTokens < 1) {
    fail('Max tokens must be a whole number from 1 on.');
    byId('max-tokens').focus();
    return null;
  }
  return {
    passages: filled,
    texts: filled.map(({ text }) => text),
    order: filled.map(({ letter }) => letter).join(' ') || '–',
    question,
    maxTokens,
    mode: byId('mode').value,
    tessera: null,
    ttft: null,
  };
}

function beginAnswer() {
  fail('');
  const text = make('p');
  byId('answer').replaceChildren(text);
  spans.clear('Waiting for the prefill.');
  drawTiming(null);
  return text;
}

// The tokens' text comes behind the first chunk, so that it does not hold up the answer.
async function drawOrigin(run, signal) {
  spans.draw(run.tessera.segments, run.passages, null);
  const tokens = tokensOf(run.tessera);
  drawLegend(byId('legend'), tokens);
  drawShare(byId('share'), tokens);
  const body = { messages: messagesOf(run), return_token_strs: true };
  const { token_strs: strings, tokens: ids } = await postJson('/tokenize', body, signal);
  const whole = isBroken(strings)
    ? mend(strings, (await postJson('/detokenize', { tokens: ids }, signal)).prompt) : strings;
  spans.draw(run.tessera.segments, run.passages, whole);
}

async function generate(run, signal) {
  const text = beginAnswer();
  const body = {
    messages: messagesOf(run),
    max_tokens: run.maxTokens,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
    tessera: { mode: run.mode, report_rows: true },
  };
  let drawing = null;
  const start = performance.now();
  await stream('/v1/chat/completions', body, signal, (event) => {
    const added = event.choices[0]?.delta?.content;
    if (added && run.ttft === null) run.ttft = performance.now() - start;
    if (added) text.append(added);
    if (event.tessera && !run.tessera) {
      run.tessera = event.tessera;
      drawing = drawOrigin(run, signal);
      drawing.catch(() => {});  // awaited below
    }
    if (added && run.ttft !== null && !run.timed) {
      run.timed = true;
      drawTiming(run);
    }
  });
  drawTiming(run);
  if (!text.textContent) text.append('(The model ended its answer at once.)');
  await drawing;
}

async function submit() {
  if (running) return;
  const run = newRun();
  if (!run) return;
  const controller = new AbortController();
  setRunning(controller);
  try {
    await generate(run, controller.signal);
    say(`Answered. First token after ${milliseconds(run.ttft)}.`);
  } catch (error) {
    if (error.name === 'AbortError') {
      byId('answer').append(make('p', { class: 'quiet', text: 'Stopped: the worker was told to let go of it.' }));
      if (!run.tessera) spans.clear('Stopped before the prefill was done.');
    } else {
      fail(error instanceof ApiError ? error.message : `The page failed: ${error.message}`);
      if (!run.tessera) spans.clear('Nothing came back for this prompt.');
    }
  } finally {
    setRunning(null);
    if (run.tessera && run.ttft !== null) runs.add(run);
    cluster.refresh();
  }
}

function stop() {
  running?.abort();
}

function wireForms() {
  byId('prompt-form').addEventListener('submit', (e) => {
    e.preventDefault();
    submit();
  });
  byId('prompt-form').addEventListener('keydown', (e) => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) {
      e.preventDefault();
      submit();
    }
  });
  byId('stop').addEventListener('click', stop);
  byId('add').addEventListener('click', () => passages.add());
  byId('shuffle').addEventListener('click', () => passages.shuffle());
  byId('key-form').addEventListener('submit', (e) => e.preventDefault());
  byId('key').addEventListener('change', () => {
    setApiKey(byId('key').value.trim());
    cluster.refresh();
  });
}

byId('question').value = QUESTION;
byId('key').value = apiKey();
byId('runs').hidden = true;
drawTiming(null);
initLegend();
wireForms();
