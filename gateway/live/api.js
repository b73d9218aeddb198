// The gateway's API: JSON calls and streams, with the key of whoever sits here.

const KEY = 'tessera-api-key';

// Blocked storage only means that the key is asked for again.
function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? '';
  } catch {
    return '';
  }
}

let key = stored();

export function apiKey() {
  return key;
}

// For this tab, until it is closed.
export function setApiKey(value) {
  key = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch { /* see stored() */ }
}

// What went wrong, in a sentence for people. `status` is 0 when nothing answered.
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const ADVICE = {
  401: 'Enter a right API key at the top of this page.',
  429: 'The gateway is busy, or the key’s limit is reached.',
  503: 'It may come back by itself: look at the workers below.',
};

function sentence(text) {
  const trimmed = text.trim();
  const ended = /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`;
  return ended.charAt(0).toUpperCase() + ended.slice(1);
}

async function refusal(response) {
  let said = `status ${response.status}`;
  try {
    said = (await response.json()).error.message;
  } catch { /* not ours: a proxy's page */ }
  const advice = ADVICE[response.status];
  return new ApiError(advice ? `${sentence(said)} ${advice}` : sentence(said), response.status);
}

async function send(path, options) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: 'no-store' });
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new ApiError('The gateway does not answer: is it running?', 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

function posted(body, signal) {
  return {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    signal,
  };
}

export async function getJson(path, signal) {
  return (await send(path, { signal })).json();
}

export async function postJson(path, body, signal) {
  return (await send(path, posted(body, signal))).json();
}

// Calls onEvent with the JSON of every server-sent event; returns at [DONE]. Aborting the signal
// closes the connection, which stops the worker.
export async function stream(path, body, signal, onEvent) {
  const response = await send(path, posted(body, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError('The answer ended early: the connection was lost.', 0);
    const events = (rest + value).split('\n\n');
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith('data: ')) continue;  // a comment that keeps the stream open
      const data = event.slice(6);
      if (data === '[DONE]') return;
      const object = JSON.parse(data);
      if (object.error) throw new ApiError(sentence(object.error.message), 200);
      onEvent(object);
    }
  }
}
