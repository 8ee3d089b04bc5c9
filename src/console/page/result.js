// The end of a cutover: where the applications may go, what was compared, and what was left out.

import { path, save } from './api.js';
import { ASK_AGAIN, ask } from './dialog.js';
import { h } from './dom.js';
import { EndpointForm } from './endpoint.js';
import { count, counted, duration, position } from './format.js';
import { lateWrites } from './event_text.js';
import { button, facts, icon, notice, pager, snippet, table } from './parts.js';
import { isGreen } from './words.js';

const PAGE = 25;

export function resultPanel(detail, screen) {
  const { summary } = detail;
  if (summary.outcome === 'complete') return complete(detail, summary, screen);
  // Since then everything was compared again.
  if (isGreen(detail))
    return notice(
      'info',
      'The last cutover found differences',
      h('p', {}, 'Since then they were repaired or have changed, and both sides were compared again.'),
    );
  return different(summary, screen);
}

function complete(detail, summary, screen) {
  const downtime = detail.cutover?.downtime_ms ?? standstill(screen.live.events);
  return h(
    'section',
    { class: 'green result', 'aria-labelledby': 'result' },
    h(
      'div',
      { class: 'green-head' },
      h('span', { class: 'lamp', 'aria-hidden': 'true' }),
      h('h2', { id: 'result' }, 'The applications may go to the target'),
    ),
    h(
      'p',
      {},
      summary.position
        ? 'Both sides were compared after the last write, and they are identical.'
        : 'The cutover is complete. Documents were not compared, as chosen in the settings.',
    ),
    newConnection(detail),
    detail.settings?.block_source_writes &&
      notice(
        'info',
        'Writes on the source stay blocked',
        h('p', {}, 'This command on the source lifts the block:'),
        snippet('db.adminCommand({ setUserWriteBlockMode: 1, global: false })', 'the command that lifts the block'),
      ),
    facts([
      [
        'Collections',
        `${counted(summary.collections.length, 'collection')}, ${counted(
          summary.collections.reduce((sum, one) => sum + one.documents, 0),
          'document',
        )}`,
      ],
      ['Indexes', indexText(summary.indexes)],
      downtime !== null && ['The applications stood still for', duration(downtime)],
      summary.position && ['Compared at', position(summary.position)],
      summary.resyncs > 0 && ['Compared once more (resync)', `${count(summary.resyncs)} times`],
    ]),
    h(
      'div',
      { class: 'buttons' },
      detail.certificate && !screen.live.readOnly && certificateButton(detail, screen),
      screen.can('reverse') && button('Take back …', () => takeBack(detail, screen), { kind: 'secondary' }),
    ),
    screen.downloadProblem && notice('bad', null, h('p', {}, screen.downloadProblem.message)),
    details(summary, screen),
  );
}

function different(summary, screen) {
  const bad = summary.collections.filter((one) => one.differences.length > 0);
  const indexes = summary.indexes.filter((one) => !one.ok);
  return h(
    'section',
    { class: 'red result', 'aria-labelledby': 'result' },
    h(
      'div',
      { class: 'green-head' },
      icon('bad'),
      h('h2', { id: 'result' }, 'Do not use the target: the sides differ'),
    ),
    h('p', {}, 'The cutover was not completed. The run follows the source again, and the applications stay there.'),
    h(
      'ol',
      { class: 'plain-list' },
      h('li', {}, 'Let the applications write to the source again.'),
      h(
        'li',
        {},
        'Find the cause. Usually another program wrote to the target, or an index or a validator of the target refused a document.',
      ),
      h('li', {}, 'Compare and repair, then cut over again.'),
    ),
    h(
      'ul',
      { class: 'names' },
      bad.flatMap((one) =>
        one.differences
          .slice(0, 10)
          .map((text, index) =>
            h('li', { key: `${one.namespace} ${index}` }, h('strong', {}, one.namespace), ': ', text),
          ),
      ),
      indexes.map((one) =>
        h(
          'li',
          { key: `${one.namespace} ${one.name}` },
          h('strong', {}, one.namespace),
          `: index ${one.name}: ${one.reason ?? 'it differs'}`,
        ),
      ),
    ),
    summary.foreign_writes.length > 0 &&
      h(
        'p',
        {},
        `Other programs wrote to: ${summary.foreign_writes.map((one) => `${one.namespace} (${counted(one.writes, 'write')})`).join(', ')}.`,
      ),
    h(
      'div',
      { class: 'buttons' },
      h('a', { class: 'button', href: `${screen.base}/comparison` }, 'Compare and repair'),
    ),
    details(summary, screen),
  );
}

// Where the applications connect to from now on. The options are theirs.
export function newConnection(detail) {
  const connection = detail.new_connection;
  if (!connection?.hosts?.length) return null;
  const hosts = connection.hosts.join(',');
  const set = connection.replica_set ? `?replicaSet=${encodeURIComponent(connection.replica_set)}` : '';
  return h(
    'div',
    { class: 'stack tight' },
    h('p', {}, 'New connection string, with the user and the options (such as TLS) of your application:'),
    snippet(`mongodb://USER:PASSWORD@${hosts}/${set}`, 'the new connection string'),
  );
}

function certificateButton(detail, screen) {
  return button('Download the certificate', async () => {
    try {
      await save(path(detail.id, 'certificate'), `${detail.id}-certificate.bson`);
      screen.downloadProblem = null;
    } catch (problem) {
      screen.downloadProblem = problem;
    }
    screen.update();
  });
}

// From the last moment that the applications wrote to the end of the cutover, as far as events of it are known.
function standstill(events) {
  const end = events.findLast((event) => event.type === 'phase_changed' && event.phase === 'complete');
  const before = (event) => end && event.at <= end.at;
  const start =
    events.findLast((event) => before(event) && event.type === 'cutover_step' && event.step === 'stop_writes') ??
    events.findLast((event) => before(event) && event.type === 'phase_changed' && event.phase === 'cutover');
  return end && start ? new Date(end.at) - new Date(start.at) : null;
}

function indexText(indexes) {
  const wrong = indexes.filter((one) => !one.ok).length;
  return wrong
    ? `${count(indexes.length - wrong)} identical, ${count(wrong)} different`
    : `${count(indexes.length)} identical`;
}

const COLUMNS = [
  {
    name: 'Collection',
    main: true,
    cell: (one) => [
      h('span', { class: 'name' }, one.target),
      one.target !== one.namespace && h('span', { class: 'sub' }, `was ${one.namespace}`),
    ],
  },
  { name: 'Documents', number: true, cell: (one) => count(one.documents) },
  {
    name: 'Result',
    cell: (one) =>
      one.differences.length
        ? h('span', { class: 'bad-text wrap' }, icon('bad'), one.differences.join('; '))
        : one.verified
          ? h('span', { class: 'good-text' }, icon('good'), 'Identical')
          : h('span', {}, 'Not compared'),
  },
  { name: 'Digest', cell: (one) => one.digest && h('code', { class: 'digest' }, one.digest) },
];

// Everything else that the summary has, folded.
function details(summary, screen) {
  const offset = Math.min(screen.resultOffset ?? 0, Math.max(0, summary.collections.length - 1));
  const list = (title, rows) =>
    rows.length > 0 &&
    h(
      'details',
      {},
      h('summary', {}, `${title} (${count(rows.length)})`),
      h(
        'ul',
        { class: 'names' },
        rows.map((text, index) => h('li', { key: index }, text)),
      ),
    );
  return h(
    'div',
    { class: 'stack tight' },
    h(
      'details',
      {},
      h('summary', {}, `Result of each collection (${count(summary.collections.length)})`),
      table({
        label: 'Result of each collection',
        columns: COLUMNS,
        rows: summary.collections.slice(offset, offset + PAGE),
        key: (one) => one.target,
      }),
      pager({
        offset,
        limit: PAGE,
        total: summary.collections.length,
        go: (next) => ((screen.resultOffset = next), screen.update()),
        what: 'results',
      }),
    ),
    list('Not migrated', summary.not_migrated),
    list(
      'Not kept on the target',
      summary.not_kept.map(
        (one) => `${one.namespace}${one.index ? `, index ${one.index}` : ''}: ${one.option} (${one.reason})`,
      ),
    ),
    summary.late_writes.count > 0 &&
      list('Written after the applications were stopped, and carried over', [lateWrites(summary.late_writes)]),
    summary.outcome === 'complete' &&
      list(
        'Written to by other programs on the target',
        summary.foreign_writes.map((one) => `${one.namespace}: ${counted(one.writes, 'write')}`),
      ),
    list(
      'Renamed out of the selection, and dropped on the target',
      summary.left_selection.map((one) => `${one.from} → ${one.to}`),
    ),
  );
}

// Begins the migration in the other direction. If the console no longer has the connections, it says so, and they are asked for.
async function takeBack(detail, screen) {
  let forms = null;
  const created = await ask({
    title: 'Take the migration back?',
    body: (update) => {
      if (forms) forms.forEach((form) => (form.update = update));
      return [
        h(
          'p',
          {},
          'A new migration follows in the opposite direction, from the moment of the cutover: it keeps the old replica set up to date with what the applications do on the new one. It copies nothing again.',
        ),
        h(
          'p',
          {},
          'The applications stay where they are until you cut that migration over. Nothing else may write to the old set meanwhile.',
        ),
        forms && [
          h('p', {}, h('strong', {}, 'The console no longer has the connections. Give them again.')),
          forms.map((form, index) =>
            h(
              'div',
              { key: form.side, class: 'stack' },
              h('h3', {}, index ? 'The new set, which was the target' : 'The old set, which was the source'),
              form.view(),
            ),
          ),
        ],
      ];
    },
    confirm: 'Begin the way back',
    act: async () => {
      if (forms && !forms.map((form) => form.complete()).every(Boolean)) return ASK_AGAIN;
      try {
        const body = Object.fromEntries((forms ?? []).map((form) => [form.side, form.body()]));
        const made = await screen.live.act('reverse', body);
        forms?.forEach((form) => form.clear());
        return made;
      } catch (problem) {
        const sides = screen.app.info?.fixed_target ? ['source'] : ['source', 'target'];
        if (forms || problem.status !== 422) throw problem;
        forms = sides.map((side) => new EndpointForm(side, () => {}));
        return ASK_AGAIN;
      }
    },
  });
  if (created?.id) screen.app.go(`#/m/${encodeURIComponent(created.id)}`);
}
