// The check of both sides before a start: what it waits for, what it found, and what would be migrated.

import { announce, h } from './dom.js';
import { ask } from './dialog.js';
import { about, bytes, count, counted, duration, version } from './format.js';
import { blockers, errorNotice, findingsList, summaryOf } from './findings.js';
import { waits } from './overview.js';
import { button, facts, field, notice, pager, problemNotice, table } from './parts.js';

import { isComplete } from './words.js';

const PAGE = 25;

export class ValidatePart {
  constructor(screen) {
    this.screen = screen;
    this.startedAt = null;
    this.problem = null;
    this.filter = '';
    this.offset = 0;
  }

  shown() {
    const { app, id } = this.screen;
    if (app.validate === id) {
      app.validate = null;
      this.run();
    }
  }

  async run() {
    this.startedAt = Date.now();
    this.problem = null;
    this.screen.update();
    try {
      const plan = await this.screen.live.preflight();
      const number = blockers(plan.findings);
      announce(
        number
          ? `Validation is complete: ${counted(number, 'blocker')}`
          : 'Validation is complete: the migration can start',
      );
    } catch (problem) {
      this.problem = problem;
      announce(`Validation failed: ${problem.message}`);
    }
    this.startedAt = null;
    this.screen.update();
  }

  view(detail) {
    const running = this.startedAt !== null || detail.preflight_running;
    const { plan } = detail;
    return [
      h(
        'section',
        { class: 'panel', 'aria-labelledby': 'validation' },
        h(
          'div',
          { class: 'heading' },
          h('h2', { id: 'validation' }, 'Validation'),
          this.screen.can('preflight') &&
            button(plan || this.problem ? 'Validate again' : 'Validate', () => this.run(), {
              kind: plan ? 'secondary' : '',
              disabled: running,
            }),
        ),
        running ? this.running(detail) : this.verdict(detail, plan),
      ),
      !running && plan && this.plan(plan),
    ];
  }

  running(detail) {
    const seconds =
      this.startedAt === null
        ? ''
        : ` (${duration(Math.floor((Date.now() - this.startedAt) / 1000) * 1000).replace('.0', '')})`;
    return h(
      'div',
      { class: 'stack' },
      notice(
        'busy',
        `Both sides are being checked${seconds}`,
        h('p', {}, 'Connections, versions, privileges, names, indexes, space and oplog. Nothing is changed.'),
      ),
      waits(detail),
    );
  }

  verdict(detail, plan) {
    if (this.problem) return h('div', { class: 'stack' }, this.failure(), checklist());
    if (!plan)
      return h(
        'p',
        {},
        isComplete(detail) || this.screen.live.readOnly
          ? 'There is no validation to show.'
          : 'Validating connects to both sides and lists what would be migrated, and what stands in the way. It changes nothing.',
      );
    const number = blockers(plan.findings);
    const summary = summaryOf(plan.findings);
    return h(
      'div',
      { class: 'stack' },
      number
        ? notice(
            'bad',
            'The migration cannot start yet',
            h('p', {}, `Found: ${summary}. Correct each blocker, then validate again.`),
          )
        : notice(
            'good',
            'Both sides fit',
            h('p', {}, summary ? `No blocker. Found: ${summary}.` : 'Nothing was found that stands in the way.'),
          ),
      this.corrections(detail, number),
      plan.findings.length > 0 && findingsList(plan.findings),
      number > 0 && checklist(),
      number === 0 && this.start(detail, plan),
    );
  }

  failure() {
    const { problem } = this;
    return [
      problem.error
        ? errorNotice(problem.error, 'The validation failed')
        : problemNotice(problem, 'The validation failed'),
      !problem.error && problem.findings.length > 0 && findingsList(problem.findings),
    ];
  }

  // Ways to correct what was typed.
  corrections(detail, number) {
    const { screen } = this;
    if (!screen.connects() || detail.origin === 'host') return null;
    if (!screen.can('preflight')) return null;
    return h(
      'p',
      {},
      h(
        'a',
        { class: number ? 'button secondary' : '', href: `${screen.base}/connections` },
        'Change connections or settings',
      ),
    );
  }

  start(detail, plan) {
    const { screen } = this;
    if (!screen.can('start') || !['created', 'ended', 'stored'].includes(detail.state)) return null;
    const word = { created: 'Start the migration', stored: 'Go on' }[detail.state] ?? 'Start again';
    return h(
      'div',
      { class: 'buttons' },
      button(screen.busy === 'start' ? 'Please wait …' : word, () => this.confirmStart(plan), {
        kind: 'large',
        disabled: screen.busy !== null,
      }),
      h(
        'span',
        { class: 'quiet' },
        `${counted(plan.collections.length, 'collection')}, ${bytes(plan.total.bytes)}. The applications continue to use the source.`,
      ),
    );
  }

  async confirmStart(plan) {
    const { screen } = this;
    if (plan.to_drop?.length) {
      const sure = await ask({
        title: 'Start, and delete data on the target?',
        body: () => [
          h('p', {}, `At the start, ${counted(plan.to_drop.length, 'collection')} on the target will be dropped:`),
          h(
            'ul',
            { class: 'names' },
            plan.to_drop.slice(0, 50).map((name) => h('li', { key: name }, name)),
          ),
          plan.to_drop.length > 50 && h('p', {}, `and ${count(plan.to_drop.length - 50)} more`),
        ],
        confirm: 'Delete and start',
        danger: true,
      });
      if (!sure) return;
    }
    if (await screen.act('start', {})) screen.app.go(screen.base);
  }

  plan(plan) {
    const words = this.filter.toLowerCase();
    const rows = plan.collections.filter((one) => `${one.namespace} ${one.target}`.toLowerCase().includes(words));
    if (this.offset >= rows.length) this.offset = 0;
    const { estimate } = plan;
    return h(
      'section',
      { class: 'panel', 'aria-labelledby': 'plan' },
      h('h2', { id: 'plan' }, 'What would be migrated'),
      facts([
        ['Source', deployment(plan.source)],
        ['Target', deployment(plan.target)],
        [
          'Amount',
          `${counted(plan.collections.length, 'collection')}, ${counted(plan.total.documents, 'document')}, ${bytes(plan.total.bytes)}, ${counted(plan.indexes, 'index', 'indexes')}`,
        ],
        estimate && [
          'The copy takes',
          `${about(estimate.copy_time_ms)}, at ${bytes(estimate.bytes_per_second)} per second (measured with a sample of ${bytes(estimate.sample.bytes)})`,
        ],
      ]),
      plan.to_drop?.length > 0 &&
        notice(
          'bad',
          `${counted(plan.to_drop.length, 'collection')} on the target will be dropped at the start`,
          h(
            'ul',
            { class: 'names' },
            plan.to_drop.slice(0, 50).map((name) => h('li', { key: name }, name)),
          ),
        ),
      plan.collections.length > 8 &&
        h(
          'div',
          { class: 'tools' },
          field(
            'plan-filter',
            'Filter',
            h('input', {
              type: 'search',
              autocomplete: 'off',
              value: this.filter,
              placeholder: 'Part of a name',
              onInput: (event) => this.set({ filter: event.currentTarget.value }),
            }),
          ),
        ),
      table({
        label: 'Collections to migrate',
        columns: COLUMNS,
        rows: rows.slice(this.offset, this.offset + PAGE),
        key: (one) => one.namespace,
        empty: words ? 'No collection fits the filter.' : 'No collection fits what is to be migrated.',
      }),
      pager({
        offset: this.offset,
        limit: PAGE,
        total: rows.length,
        go: (offset) => this.set({ offset }),
        what: 'collections',
      }),
      plan.not_migrated?.length > 0 &&
        h(
          'details',
          {},
          h('summary', {}, `Not migrated (${plan.not_migrated.length})`),
          h(
            'ul',
            { class: 'names' },
            plan.not_migrated.map((name) => h('li', { key: name }, name)),
          ),
        ),
    );
  }

  set(changes) {
    this.offset = 0;
    Object.assign(this, changes);
    this.screen.update();
  }
}

const KINDS = {
  plain: 'Collection',
  capped: 'Capped',
  unordered: 'Collection with collation',
  clustered: 'Clustered',
  time_series: 'Time series',
  time_series_buckets: 'Time series',
  view: 'View',
};

const COLUMNS = [
  {
    name: 'Collection',
    main: true,
    cell: (one) => [
      h('span', { class: 'name' }, one.namespace),
      one.target !== one.namespace && h('span', { class: 'sub' }, `→ ${one.target}`),
    ],
  },
  { name: 'Kind', cell: (one) => KINDS[one.kind] ?? one.kind },
  { name: 'Documents', number: true, cell: (one) => count(one.documents) },
  { name: 'Size', number: true, cell: (one) => bytes(one.bytes) },
  { name: 'Indexes', number: true, cell: (one) => count(one.indexes) },
];

function deployment(one) {
  return one?.name
    ? `${one.name}, MongoDB ${version(one.version)} (feature compatibility ${version(one.feature_compatibility)})`
    : 'not connected';
}

// What usually is wrong when a side cannot be reached or refuses.
function checklist() {
  return h(
    'details',
    { class: 'checklist' },
    h('summary', {}, 'What to check when the validation fails'),
    h(
      'ul',
      { class: 'plain-list' },
      h(
        'li',
        {},
        'Host and port are those of a member of the replica set, and the name can be resolved on the machine of this program.',
      ),
      h(
        'li',
        {},
        'mongod listens on that address (net.bindIp), and firewalls and access lists on the way let this machine in.',
      ),
      h(
        'li',
        {},
        'User, password and authentication database are right, and the user has the roles of the preparation.',
      ),
      h(
        'li',
        {},
        'TLS is used on both sides or on neither, the certificate is given for this host name, and its authority (CA) is known.',
      ),
      h('li', {}, 'More than half of the members of each set are up, and there is a primary.'),
      h('li', {}, 'The version of the target is the same as that of the source, or newer.'),
      h('li', {}, 'The target has no data of the same names, or the settings say what happens to it.'),
    ),
  );
}
