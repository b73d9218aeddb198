// The editable list of passages. Each keeps its letter wherever it is moved, so that an order can be
// told from another one.
import { byId, make, say } from './dom.js';

const MOST = 26;

export class Passages {
  constructor(list, texts) {
    this.list = list;
    this.passages = [];
    for (const text of texts) this.add(text);
  }

  // Letters and texts in order; those that are empty are left out.
  get filled() {
    return this.passages
      .map(({ letter, area }) => ({ letter, text: area.value.trim() }))
      .filter(({ text }) => text);
  }

  add(text = '') {
    const used = new Set(this.passages.map(({ letter }) => letter));
    const letter = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZ'].find((l) => !used.has(l));
    if (!letter) {
      say(`There may be ${MOST} passages at the most`);
      return;
    }
    const passage = { letter, area: make('textarea', { id: `passage-${letter}`, rows: 2 }) };
    passage.area.value = text;
    passage.item = this.makeItem(passage);
    this.passages.push(passage);
    this.list.append(passage.item);
    this.update();
    if (!text) passage.area.focus();
  }

  makeItem(passage) {
    const { letter, area } = passage;
    const button = (name, sign, act) => {
      const element = make('button', { type: 'button', class: 'icon', 'aria-label': `${name} passage ${letter}`, title: name },
        make('span', { 'aria-hidden': 'true', text: sign }));
      element.addEventListener('click', () => act());
      return element;
    };
    passage.up = button('Move up', '↑', () => this.move(passage, -1));
    passage.down = button('Move down', '↓', () => this.move(passage, 1));
    passage.remove = button('Remove', '×', () => this.remove(passage));
    return make('li', { class: 'passage' },
      make('div', { class: 'passage-head' },
        make('label', { for: area.id }, make('span', { class: 'letter', text: letter }), ' Passage'),
        make('div', { class: 'tools' }, passage.up, passage.down, passage.remove)),
      area);
  }

  move(passage, step) {
    const from = this.passages.indexOf(passage);
    const to = from + step;
    if (to < 0 || to >= this.passages.length) return;
    this.passages.splice(from, 1);
    this.passages.splice(to, 0, passage);
    this.draw();
    (step < 0 ? passage.up : passage.down).focus();
    say(`Passage ${passage.letter} is now ${to + 1} of ${this.passages.length}`);
  }

  remove(passage) {
    const at = this.passages.indexOf(passage);
    this.passages.splice(at, 1);
    passage.item.remove();
    this.update();
    const next = this.passages[at] ?? this.passages[at - 1];
    (next ? next.remove : byId('add')).focus();
    say(`Passage ${passage.letter} was removed`);
  }

  // Always into another order than before, if there is one.
  shuffle() {
    if (this.passages.length < 2) return;
    const before = this.order();
    while (this.order() === before) {
      for (let i = this.passages.length - 1; i > 0; --i) {
        const j = Math.floor(Math.random() * (i + 1));
        [this.passages[i], this.passages[j]] = [this.passages[j], this.passages[i]];
      }
    }
    this.draw();
    say(`The order is now ${this.order()}`);
  }

  order() {
    return this.passages.map(({ letter }) => letter).join(' ');
  }

  draw() {
    this.list.append(...this.passages.map(({ item }) => item));
    this.update();
  }

  // Buttons at an end stay focusable: who moves a passage there by keyboard keeps the focus.
  update() {
    this.passages.forEach(({ up, down }, i) => {
      up.setAttribute('aria-disabled', String(i === 0));
      down.setAttribute('aria-disabled', String(i + 1 === this.passages.length));
    });
  }
}
