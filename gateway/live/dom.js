// Small things that every part of the page needs.

export const byId = (id) => document.getElementById(id);

// An element with attributes (`class`, `text` and others by name) and children.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'text') element.textContent = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}

// Spoken by screen readers, not shown.
export function say(text) {
  byId('say').textContent = text;
}

// A message that stands until it is cleared with ''. Repeating it disturbs nobody.
export function showNotice(element, text) {
  if (element.textContent === text && element.hidden === !text) return;
  element.textContent = text;
  element.hidden = !text;
}

export function count(number) {
  return number.toLocaleString('en');
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms >= 10000) return `${(ms / 1000).toFixed(1)} s`;
  return `${count(Math.round(ms))} ms`;
}

export function percent(part, whole) {
  return whole > 0 ? `${Math.round((100 * part) / whole)} %` : '–';
}

export function bytes(number) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  let value = number;
  for (; value >= 1024 && at + 1 < units.length; ++at) value /= 1024;
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

// A row of a table that stacks on narrow screens: each cell carries its column's name.
export function tableRow(table, cells) {
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  const row = make('tr', { role: 'row' });
  cells.forEach((cell, i) => {
    const number = table.tHead.rows[0].cells[i].classList.contains('num');
    row.append(make(i === 0 ? 'th' : 'td', {
      scope: i === 0 ? 'row' : undefined,
      role: i === 0 ? 'rowheader' : 'cell',
      class: number ? 'num' : undefined,
      'data-name': names[i],
    }, cell));
  });
  return row;
}
