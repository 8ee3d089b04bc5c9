// The events of a run.

import { h } from './dom.js';
import { clock, count, day } from './format.js';
import { marked } from './findings.js';
import { eventText, weight } from './event_text.js';
import { button, check, field, icon } from './parts.js';

const STEP = 100;
const DAY_MS = 86_400_000;
const WORDS = { bad: 'Error', warn: 'Warning', wait: 'Waiting', info: 'Event' };

// Those that come again and again, and say little one by one.
const FREQUENT = new Set(['checkpoint_saved', 'waiting']);

export class LogPart {
  constructor(screen) {
    this.screen = screen;
    this.text = '';
    this.weight = '';
    this.frequent = false;
    this.shownCount = STEP;
  }

  view() {
    const words = this.text.toLowerCase();
    const fits = (event) =>
      (this.frequent || !FREQUENT.has(event.type)) &&
      (!this.weight ||
        (this.weight === 'warn' ? ['warn', 'bad'].includes(weight(event)) : weight(event) === this.weight)) &&
      (!words || `${eventText(event)} ${event.type}`.toLowerCase().includes(words));
    const found = this.screen.live.events.filter(fits).reverse();
    const shown = found.slice(0, this.shownCount);
    return h(
      'section',
      { class: 'panel', 'aria-labelledby': 'log' },
      h(
        'div',
        { class: 'heading' },
        h('h2', { id: 'log' }, 'Log'),
        h(
          'span',
          { class: 'quiet' },
          `${count(found.length)} of the last ${count(this.screen.live.events.length)} events`,
        ),
      ),
      h(
        'div',
        { class: 'tools' },
        field(
          'log-text',
          'Filter',
          h('input', {
            type: 'search',
            autocomplete: 'off',
            value: this.text,
            placeholder: 'Part of the text',
            onInput: (event) => this.set({ text: event.currentTarget.value }),
          }),
        ),
        field(
          'log-weight',
          'Kind',
          h(
            'select',
            { value: this.weight, onChange: (event) => this.set({ weight: event.currentTarget.value }) },
            h('option', { value: '' }, 'All'),
            h('option', { value: 'warn' }, 'Warnings and errors'),
            h('option', { value: 'wait' }, 'Waits and retries'),
            h('option', { value: 'info' }, 'Others'),
          ),
        ),
        check('log-frequent', 'Also checkpoints and waits', this.frequent, (frequent) => this.set({ frequent })),
      ),
      shown.length
        ? h(
            'ul',
            { class: 'log' },
            shown.map((event) => eventLine(event, keyOf(event))),
          )
        : h('p', { class: 'empty' }, 'No event fits.'),
      found.length > shown.length &&
        h(
          'p',
          {},
          button('Show older', () => this.set({ shownCount: this.shownCount + STEP }), { kind: 'secondary small' }),
        ),
    );
  }

  set(changes) {
    if (!('shownCount' in changes)) this.shownCount = STEP;
    Object.assign(this, changes);
    this.screen.update();
  }
}

const keys = new WeakMap();
let nextKey = 0;

function keyOf(event) {
  if (!keys.has(event)) keys.set(event, (nextKey += 1));
  return keys.get(event);
}

export function eventLine(event, key) {
  const kind = weight(event);
  const old = Date.now() - new Date(event.at).getTime() > DAY_MS;
  return h(
    'li',
    { key, class: kind },
    h('time', { datetime: event.at }, old ? day(event.at) : clock(event.at)),
    h('span', { class: 'kind' }, icon(kind === 'info' ? 'info' : kind), h('span', { class: 'unseen' }, WORDS[kind])),
    h('span', { class: 'text' }, marked(eventText(event))),
  );
}
