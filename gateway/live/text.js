// Text of tokens. A character may be spread over several tokens; each of them alone is then only U+FFFD.

const BROKEN = '\ufffd';

// Gives every character of `prompt`, the text of all tokens together, to the first of its tokens. Where
// the two do not fit each other, strings stay as they are.
export function mend(strings, prompt) {
  const mended = [...strings];
  let at = 0;  // in prompt
  for (let i = 0; i < strings.length;) {
    if (!strings[i].includes(BROKEN)) {
      if (!prompt.startsWith(strings[i], at)) return strings;
      at += strings[i++].length;
      continue;
    }
    let next = i;
    while (next < strings.length && strings[next].includes(BROKEN)) ++next;
    const end = next < strings.length ? prompt.indexOf(strings[next], at) : prompt.length;
    if (end < 0) return strings;
    mended.fill('', i, next);
    mended[i] = prompt.slice(at, end);
    at = end;
    i = next;
  }
  return mended;
}

export function isBroken(strings) {
  return strings.some((string) => string.includes(BROKEN));
}
