// The collections of a run. The console filters, sorts and cuts the list, which can be long.

import { h } from './dom.js';
import { bytes, count, counted, percent } from './format.js';
import { marked } from './findings.js';
import { bar, field, icon, pager, tag, table } from './parts.js';
import { COLLECTION_PHASES, isComplete } from './words.js';

const RELOAD_MS = 2_000;
const LIMIT = 10;

export class CollectionsPart {
  constructor(screen) {
    this.screen = screen;
    this.query = { filter: '', phase: '', sort: 'name', offset: 0, limit: LIMIT };
    this.answer = null;
    this.asked = 0;
    this.wanted = 0;
  }

  stop() {
    clearTimeout(this.timer);
  }

  shown() {
    this.loadedAt = 0;
  }

  async load() {
    if (this.loading || Date.now() - (this.loadedAt ?? 0) < RELOAD_MS) return;
    this.loading = true;
    const asked = JSON.stringify(this.query);
    try {
      const answer = await this.screen.live.collections(this.query);
      if (asked === JSON.stringify(this.query)) this.answer = answer;
    } catch {
      // The list stays as it was. The banner says if the console does not answer.
    }
    this.loading = false;
    this.loadedAt = asked === JSON.stringify(this.query) ? Date.now() : 0;
    this.screen.update();
  }

  set(changes) {
    this.query = { ...this.query, offset: 0, ...changes };
    this.loadedAt = 0;
    clearTimeout(this.timer);
    // A filter is typed letter by letter.
    this.timer = setTimeout(() => this.load(), 150);
    this.screen.update();
  }

  view(detail) {
    this.load();
    const { answer, query } = this;
    if (answer && answer.total === 0) return null;
    const phases = Object.entries(answer?.by_phase ?? {}).filter(([, number]) => number);
    const option = ([key, number]) =>
      h('option', { key, value: key }, `${COLLECTION_PHASES[key] ?? key} (${count(number)})`);
    return h(
      'section',
      { class: 'panel', 'aria-labelledby': 'collections' },
      h(
        'div',
        { class: 'heading' },
        h('h2', { id: 'collections' }, 'Collections'),
        answer && h('span', { class: 'quiet' }, counted(answer.total, 'collection')),
      ),
      h(
        'div',
        { class: 'tools' },
        field(
          'collection-filter',
          'Filter',
          h('input', {
            type: 'search',
            autocomplete: 'off',
            spellcheck: 'false',
            placeholder: 'Part of a name',
            value: query.filter,
            onInput: (event) => this.set({ filter: event.currentTarget.value }),
          }),
        ),
        field(
          'collection-phase',
          'Phase',
          h(
            'select',
            { value: query.phase, onChange: (event) => this.set({ phase: event.currentTarget.value }) },
            h('option', { key: '', value: '' }, 'All'),
            phases.map(option),
          ),
        ),
        field(
          'collection-sort',
          'Order',
          h(
            'select',
            { value: query.sort, onChange: (event) => this.set({ sort: event.currentTarget.value }) },
            h('option', { value: 'name' }, 'Name'),
            h('option', { value: 'progress' }, 'Progress'),
            h('option', { value: 'lag' }, 'Most left to copy'),
          ),
        ),
      ),
      answer
        ? table({
            label: 'Collections',
            columns: columns(detail),
            rows: answer.collections,
            key: (one) => one.id,
            empty: 'No collection fits the filter.',
          })
        : h('p', { class: 'empty' }, 'Loading …'),
      answer &&
        pager({
          offset: query.offset,
          limit: LIMIT,
          total: answer.matching,
          go: (offset) => this.set({ offset }),
          what: 'collections',
        }),
    );
  }
}

const TONES = { waiting: 'calm', copying: 'busy', copied: 'busy', indexing: 'busy', following: 'good' };

const columns = (detail) => [
  {
    name: 'Collection',
    main: true,
    cell: (one) => [
      h('span', { class: 'name' }, one.namespace),
      one.target !== one.namespace && h('span', { class: 'sub' }, `→ ${one.target}`),
      one.last_error &&
        h(
          'span',
          { class: 'warn-text wrap sub' },
          icon('warn'),
          h('span', {}, h('span', { class: 'unseen' }, 'Last error: '), marked(one.last_error)),
        ),
    ],
  },
  { name: 'Phase', cell: (one) => tag(TONES[one.phase] ?? 'calm', COLLECTION_PHASES[one.phase] ?? one.phase) },
  {
    name: 'Copied',
    cell: (one) => {
      const done = !['waiting', 'copying'].includes(one.phase);
      const value = done
        ? 100
        : percent(one.copied.bytes || one.copied.documents, one.total.bytes || one.total.documents);
      return h(
        'span',
        { class: 'progress' },
        bar(value, done ? 'good' : 'busy'),
        h('span', { class: 'progress-text' }, `${value} %`),
        h('span', { class: 'sub' }, `${counted(one.copied.documents, 'document')}, ${bytes(one.copied.bytes)}`),
      );
    },
  },
  { name: 'Indexes', number: true, cell: (one) => `${count(one.indexes.built)} of ${count(one.indexes.total)}` },
  { name: 'Changes', number: true, cell: (one) => count(one.applied) },
  {
    name: 'Compared',
    cell: (one) =>
      one.differences
        ? h('span', { class: 'bad-text' }, icon('bad'), counted(one.differences, 'difference'))
        : one.all_compared
          ? h('span', { class: 'good-text' }, icon('good'), 'Identical')
          : detail.status.all_compared || isComplete(detail)
            ? h('span', { class: 'quiet' }, 'At the cutover')
            : h('span', {}, `${percent(one.compared.documents, one.total.documents)} %`),
  },
];
