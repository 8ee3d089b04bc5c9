// All migrations at a glance.

import { get } from './api.js';
import { h } from './dom.js';
import { count, counted, duration } from './format.js';
import { errorNotice } from './findings.js';
import { bar, icon, notice, pager, stateBadge, table } from './parts.js';
import { isGreen, isStored, needsAttention, normal, progressOf } from './words.js';

const POLL_MS = 2_000;
const PAGE = 100;

const FILTERS = [
  ['all', 'All', () => true],
  ['attention', 'To look at', needsAttention],
  ['green', 'Green light', isGreen],
  ['running', 'Running', (entry) => ['starting', 'running'].includes(entry.state)],
  [
    'waiting',
    'Not running',
    (entry) => entry.state === 'created' || isStored(entry) || ['stopped', 'failed'].includes(entry.phase),
  ],
  ['complete', 'Complete', (entry) => entry.phase === 'complete'],
];

export class ListScreen {
  constructor(app) {
    this.app = app;
    this.section = 'list';
    this.entries = null;
    this.problem = null;
    this.search = '';
    this.filter = 'all';
    this.offset = 0;
    this.poll();
  }

  title() {
    return 'Migrations';
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  async poll() {
    try {
      if (!document.hidden || this.entries === null) this.entries = (await get('migrations')).migrations.map(normal);
      this.problem = null;
    } catch (problem) {
      this.problem = problem;
    }
    if (this.stopped) return;
    this.app.update();
    this.timer = setTimeout(() => this.poll(), POLL_MS);
  }

  view() {
    const create = this.app.info?.can_create;
    return [
      h(
        'div',
        { class: 'heading' },
        h('h1', {}, 'Migrations'),
        create && this.entries?.length > 0 && h('a', { class: 'button', href: '#/new' }, 'New migration'),
      ),
      this.app.info?.target_error &&
        errorNotice(this.app.info.target_error, 'The migrations of the fixed target cannot be listed'),
      this.entries === null ? this.waiting() : this.entries.length ? this.list() : this.none(create),
    ];
  }

  waiting() {
    if (this.problem && this.problem.status !== 0)
      return notice('bad', 'The list cannot be loaded', h('p', {}, this.problem.message));
    return h('p', { class: 'empty' }, 'Loading …');
  }

  none(create) {
    return h(
      'div',
      { class: 'panel welcome' },
      h('h2', {}, 'No migration yet'),
      h(
        'p',
        {},
        'A migration moves a MongoDB replica set into another one while the applications keep using it. They stand still for a few seconds only, at the cutover, and both sides are compared before.',
      ),
      create
        ? h(
            'p',
            {},
            'The page takes you through it: both connections, a check of both sides, the copy, and the cutover.',
          )
        : h('p', {}, 'This console does not create migrations. The program that hosts it adds them.'),
      this.app.info?.fixed_target &&
        h(
          'p',
          { class: 'quiet' },
          'Migrations that the target knows from before a restart appear here after some seconds.',
        ),
      create && h('p', {}, h('a', { class: 'button', href: '#/new' }, 'New migration')),
    );
  }

  list() {
    const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.entries.filter((entry) => {
      const text = searched(entry);
      return words.every((word) => text.includes(word));
    });
    const rows = found.filter(FILTERS.find(([key]) => key === this.filter)[2]);
    if (this.offset >= rows.length) this.offset = 0;
    return [
      h(
        'div',
        { class: 'tools' },
        h(
          'div',
          { class: 'field inline grow' },
          h('label', { for: 'search' }, 'Search'),
          h('input', {
            id: 'search',
            type: 'search',
            value: this.search,
            autocomplete: 'off',
            placeholder: 'Name or host',
            onInput: (event) => this.set({ search: event.currentTarget.value }),
          }),
        ),
        h(
          'div',
          { class: 'filters', role: 'group', 'aria-label': 'Filter by state' },
          FILTERS.map(([key, name, fits]) => {
            const number = found.filter(fits).length;
            if (!number && key !== 'all' && key !== this.filter) return h('span', { key, hidden: true });
            return h(
              'button',
              {
                key,
                type: 'button',
                class: 'filter',
                'aria-pressed': String(this.filter === key),
                onClick: () => this.set({ filter: key }),
              },
              `${name} `,
              h('span', { class: 'number' }, count(number)),
            );
          }),
        ),
      ),
      table({
        label: 'Migrations',
        columns: COLUMNS,
        rows: rows.slice(this.offset, this.offset + PAGE),
        key: (entry) => entry.id,
        empty: 'No migration fits the search.',
      }),
      pager({
        offset: this.offset,
        limit: PAGE,
        total: rows.length,
        go: (offset) => this.set({ offset }),
        what: 'migrations',
      }),
    ];
  }

  set(changes) {
    Object.assign(this, changes);
    if (!('offset' in changes)) this.offset = 0;
    this.app.update();
  }
}

function searched(entry) {
  const sides = [entry.source, entry.target].flatMap((side) => (side ? [side.name, ...(side.hosts ?? [])] : []));
  return [entry.id, ...sides].join(' ').toLowerCase();
}

const COLUMNS = [
  {
    name: 'Migration',
    main: true,
    cell: (entry) => [
      h('a', { href: `#/m/${encodeURIComponent(entry.id)}` }, entry.id),
      h('span', { class: 'sub' }, sides(entry), entry.direction === 'reverse' && ' (way back)'),
    ],
  },
  { name: 'State', cell: (entry) => stateBadge(entry) },
  {
    name: 'Progress',
    cell: (entry) => {
      const { value, text } = progressOf(entry);
      return value === null
        ? null
        : h(
            'span',
            { class: 'progress' },
            bar(value, value === 100 ? 'good' : 'busy'),
            h('span', { class: 'progress-text' }, `${value} %`),
            h('span', { class: 'sub' }, text),
          );
    },
  },
  {
    name: 'Lag',
    number: true,
    cell: (entry) =>
      entry.lag_ms === null || entry.state === 'ended'
        ? null
        : h('span', { class: isGreen(entry) ? 'lag good-text' : 'lag' }, duration(entry.lag_ms)),
  },
  { name: 'To look at', cell: lookAt },
  {
    name: 'Cutover',
    cell: (entry) =>
      isGreen(entry)
        ? h(
            'a',
            {
              class: 'button good small',
              href: `#/m/${encodeURIComponent(entry.id)}/cutover`,
              'aria-label': `Prepare to cut over ${entry.id}`,
            },
            'Prepare to cut over',
          )
        : entry.phase === 'complete'
          ? h('span', { class: 'quiet' }, 'Done')
          : null,
  },
];

function sides(entry) {
  const name = (side) => (side ? side.name || side.hosts?.[0] : '?');
  return entry.source || entry.target ? `${name(entry.source)} → ${name(entry.target)}` : '';
}

function lookAt(entry) {
  const parts = [];
  if (entry.error && entry.phase !== 'complete') parts.push(h('span', { class: 'bad-text' }, icon('bad'), 'Error'));
  if (entry.differences > 0)
    parts.push(h('span', { class: 'bad-text' }, icon('bad'), counted(entry.differences, 'difference')));
  if (entry.warnings > 0)
    parts.push(h('span', { class: 'warn-text' }, icon('warn'), counted(entry.warnings, 'warning')));
  return parts.length ? h('span', { class: 'marks' }, parts) : null;
}
