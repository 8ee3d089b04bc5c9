// What a run does at this moment.

import { ask } from './dialog.js';
import { h } from './dom.js';
import { LagChart } from './chart.js';
import { about, bytes, count, countdown, counted, day, duration, percent, progress, rate, rounded } from './format.js';
import { errorNotice, marked } from './findings.js';
import { eventLine } from './log.js';
import { eventText, wait, weight } from './event_text.js';
import { bar, button, field, icon, notice } from './parts.js';
import { resultPanel } from './result.js';
import { limits } from './settings.js';
import { STEPS, isComplete, isGreen, owner, stepOf, throttleText } from './words.js';

const DAY_MS = 86_400_000;
const TROUBLES = ['source_write_block_stays', 'foreign_write', 'index_failed', 'document_refused'];
const RECENT = 6;

export class OverviewPart {
  constructor(screen) {
    this.screen = screen;
    this.chart = new LagChart(screen);
  }

  shown() {
    this.screen.collections.shown();
  }

  view(detail) {
    const { screen } = this;
    const { status } = detail;
    // Before the source is listed, every number is zero.
    const known = status && !(detail.phase === 'preflight' && status.total.documents === 0);
    return [
      this.alerts(detail),
      detail.summary && resultPanel(detail, screen),
      isGreen(detail) && greenPanel(detail, screen),
      detail.state !== 'elsewhere' && steps(detail),
      known ? this.tiles(detail, status) : unstarted(detail),
      known && this.chart.view(detail),
      known && screen.collections.view(detail),
      (screen.live.events.length > 0 || status) && this.recent(),
    ];
  }

  // What needs a look now, the gravest first.
  alerts(detail) {
    const { screen } = this;
    const { status } = detail;
    const since = lastResync(screen.live.events);
    const error = detail.error ?? (detail.phase === 'stopped' ? null : status?.failure);
    return h(
      'div',
      { class: 'alerts' },
      error &&
        !isComplete(detail) &&
        errorNotice(
          error,
          detail.phase !== 'failed' ? 'The last attempt failed' : status ? 'Why the run ended' : 'Why the start failed',
        ),
      detail.state === 'elsewhere' &&
        notice(
          'info',
          'Another process holds the lease',
          h(
            'p',
            {},
            `This migration is run by another process${owner(detail.owner)}. Only one process at a time writes to the target.`,
          ),
        ),
      detail.state === 'stored' &&
        detail.phase !== 'complete' &&
        !screen.can('start') &&
        screen.connects() &&
        notice(
          'warn',
          'Give the connection of the source to go on',
          h('p', {}, 'Connections are not stored. The migration itself is: it goes on where it stopped.'),
        ),
      waits(detail),
      since &&
        !isComplete(detail) &&
        notice(
          'warn',
          'Everything is compared once more',
          h(
            'p',
            {},
            `The oplog of the source no longer reached back to the last position (gap of ${duration(since.gap_ms)}). What differs is written. Nothing is lost; it takes about as long as the copy.`,
          ),
        ),
      detail.differences > 0 &&
        detail.summary?.outcome !== 'differences' &&
        notice(
          'bad',
          `${counted(detail.differences, 'document')} differed`,
          h('p', {}, 'The cutover will not complete while documents differ. '),
          h('a', { href: `${screen.base}/comparison` }, 'Look at them, and repair'),
        ),
      detail.state === 'running' && troubles(screen),
      shortOplog(status) &&
        !status.failure &&
        notice(
          'warn',
          'The oplog of the source is short',
          h(
            'p',
            {},
            `It reaches back to the position of this run for ${duration(status.oplog_time_left_ms)} more, at its present speed. Enlarge it (replSetResizeOplog)${detail.phase === 'paused' ? ', or resume the run' : ''}.`,
          ),
        ),
      screen.can('extend') && detail.cutover_deadline && !isGreen(detail) && deadline(detail, screen),
    );
  }

  tiles(detail, status) {
    const value = progress(status.copied, status.total);
    const copying = !status.copy_complete;
    const ended = detail.state === 'ended';
    const paused = detail.phase === 'paused';
    return h(
      'div',
      { class: 'tiles' },
      tile(
        'Copied',
        `${value ?? 0} %`,
        `${count(status.copied.documents)} of ${count(status.total.documents)} documents, ${bytes(status.copied.bytes)} of ${bytes(status.total.bytes)}`,
        bar(value, copying ? 'busy' : 'good'),
      ),
      !ended &&
        tile(
          'Lag',
          duration(status.lag_ms),
          isGreen(detail) ? 'small enough to cut over' : 'behind the source',
          null,
          isGreen(detail) ? 'good' : '',
        ),
      !ended &&
        copying &&
        tile(
          'End of the copy',
          status.time_left_ms === null ? 'not known yet' : paused ? 'paused' : `in ${rounded(status.time_left_ms)}`,
          paused
            ? 'after the run is resumed'
            : status.time_left_ms === null
              ? 'measured from its speed'
              : `at ${day(this.screen.live.now() + status.time_left_ms)}`,
        ),
      !ended &&
        !copying &&
        tile('Stand still at a cutover', rounded(status.cutover_estimate_ms), 'estimate, if it began now'),
      ended
        ? tile('Changes applied', count(status.changes.applied), 'by the last run')
        : tile('Changes applied', `${rate(status.applied_per_second)} /s`, `${count(status.changes.applied)} in all`),
      tile(
        'Indexes built',
        `${count(status.indexes.built)} of ${count(status.indexes.total)}`,
        status.indexes.building
          ? `${status.indexes.building} being built`
          : copying
            ? 'after the copy of each collection'
            : '',
      ),
      comparedTile(detail, status),
      !ended &&
        tile(
          'Oplog of the source',
          duration(status.oplog_window_ms),
          status.oplog_window_ms === null
            ? 'not measured yet'
            : status.oplog_time_left_ms === null
              ? 'reaches back'
              : `reaches back; ${duration(status.oplog_time_left_ms)} left`,
          null,
          shortOplog(status) ? 'warn' : '',
        ),
      !ended &&
        tile(
          'Load',
          counted(status.walkers, 'walker'),
          `Limit: ${throttleText(status.throttle)}`,
          this.screen.can('throttle') &&
            button('Change', () => this.throttle(status), { kind: 'secondary small', label: 'Change the limits' }),
        ),
    );
  }

  throttle(status) {
    const limit = status.throttle.copy_bytes_per_second;
    const values = {
      copyLimit: limit ? String(limit / 1e6) : '',
      changeLimit: status.throttle.tail_operations_per_second ? String(status.throttle.tail_operations_per_second) : '',
    };
    const fits = () => ['copyLimit', 'changeLimit'].every((name) => !values[name].trim() || Number(values[name]) > 0);
    return ask({
      title: 'Change the limits',
      body: (update) => {
        const input = (name, mode) =>
          h('input', {
            type: 'text',
            inputmode: mode,
            autocomplete: 'off',
            placeholder: 'no limit',
            value: values[name],
            onInput: (event) => ((values[name] = event.currentTarget.value), update()),
          });
        return [
          field(
            'dialog-copy',
            'Copy and comparison, in MB per second',
            input('copyLimit', 'decimal'),
            'Empty for no limit. It takes effect within a second.',
          ),
          field(
            'dialog-changes',
            'Followed changes, in operations per second',
            input('changeLimit', 'numeric'),
            'If the source writes more than that, the lag grows.',
          ),
        ];
      },
      confirm: 'Change',
      ready: fits,
      act: () =>
        this.screen.live.act(
          'throttle',
          limits(values) ?? { copy_bytes_per_second: null, tail_operations_per_second: null },
        ),
    });
  }

  recent() {
    const { live, base } = this.screen;
    const all = live.events.filter((event) => !['checkpoint_saved', 'waiting'].includes(event.type));
    const last = [...all.filter((event) => weight(event) !== 'info').slice(-RECENT), ...all.slice(-RECENT)];
    const shown = [...new Set(last)].sort((one, other) => (one.at < other.at ? 1 : -1)).slice(0, RECENT * 2);
    return h(
      'section',
      { class: 'panel', 'aria-labelledby': 'recent' },
      h(
        'div',
        { class: 'heading' },
        h('h2', { id: 'recent' }, 'Last warnings and events'),
        h('a', { href: `${base}/log` }, 'Whole log'),
      ),
      shown.length
        ? h(
            'ul',
            { class: 'log' },
            shown.map((event, index) => eventLine(event, index)),
          )
        : h('p', { class: 'empty' }, 'Nothing yet.'),
    );
  }
}

// The last resync, as long as the run has not been ready since.
function lastResync(events) {
  const at = events.findLastIndex((event) => event.type === 'resync');
  if (at < 0) return null;
  const over = events.slice(at).some((event) => event.type === 'phase_changed' && event.phase === 'ready');
  return over ? null : events[at];
}

// Events that the cutover will stumble over, or the applications already do: the last one of each kind.
function troubles(screen) {
  const { events } = screen.live;
  const shown = TROUBLES.map((type) => events.findLast((event) => event.type === type)).filter(Boolean);
  const unblocked = events.findLast((event) => event.type === 'source_writes_unblocked');
  const current = shown.filter((event) => event.type !== 'source_write_block_stays' || !(unblocked?.at > event.at));
  return (
    current.length > 0 &&
    notice(
      'warn',
      'To look at before the cutover',
      h(
        'ul',
        { class: 'plain-list' },
        current.map((event) => h('li', { key: event.type }, marked(eventText(event)))),
      ),
      h('a', { href: `${screen.base}/log` }, 'Whole log'),
    )
  );
}

// The position is close to the end of the oplog: less than a quarter of it, or a few minutes, are left.
function shortOplog(status) {
  const left = status?.oplog_time_left_ms;
  if (left === null || left === undefined) return false;
  return left < status.oplog_window_ms / 4 || left < 300_000;
}

export function waits(detail) {
  const list = detail.waits ?? [];
  return (
    list.length > 0 &&
    notice(
      'wait',
      'Waiting for a server',
      h(
        'ul',
        { class: 'plain-list' },
        list.map((one, index) => h('li', { key: index }, wait(one))),
      ),
      h(
        'p',
        {},
        'If it does not answer: check that the named member is up, that it can be reached from this machine, and that a majority of its set is up.',
      ),
    )
  );
}

function unstarted(detail) {
  const soon = detail.state === 'starting' || (detail.state === 'running' && detail.phase === 'preflight');
  return soon && h('p', { class: 'empty' }, 'Amounts are shown as soon as the source is listed.');
}

function steps(detail) {
  const at = stepOf(detail);
  const complete = isComplete(detail);
  const interrupted =
    ['paused', 'stopped', 'failed'].includes(detail.phase) || ['created', 'stored'].includes(detail.state);
  const stateOf = (index) =>
    complete || index < at ? 'done' : index > at || detail.state === 'created' ? '' : interrupted ? 'halted' : 'now';
  const words = { done: 'done', now: 'now', halted: 'interrupted', '': 'to come' };
  return [
    h(
      'ol',
      { class: 'steps', 'aria-label': 'Phases' },
      STEPS.map((step, index) => {
        const state = stateOf(index);
        return h(
          'li',
          { key: step.phase, class: state, 'aria-current': index === at && !complete ? 'step' : undefined },
          h(
            'span',
            { class: 'dot' },
            state === 'done' ? icon('good') : h('span', { 'aria-hidden': 'true' }, index + 1),
          ),
          h('span', { class: 'step-name' }, step.name),
          h('span', { class: 'unseen' }, ` (${words[state]})`),
        );
      }),
    ),
    // A narrow screen has no room for the names of all steps.
    h(
      'p',
      { class: 'step-text', 'aria-hidden': 'true' },
      complete ? 'All steps are done' : `Step ${at + 1} of ${STEPS.length}: ${STEPS[at].name}`,
    ),
  ];
}

function tile(name, value, text, extra, tone = '') {
  return h(
    'div',
    { class: `tile ${tone}`, key: name },
    h('p', { class: 'tile-name' }, name),
    h('p', { class: 'tile-value' }, value),
    extra,
    h('p', { class: 'tile-text' }, text),
  );
}

function comparedTile(detail, status) {
  const compared = `${percent(status.compared.bytes, status.total.bytes)} %`;
  const differences = counted(status.differences, 'difference');
  if (detail.summary?.outcome === 'complete') {
    return detail.summary.position
      ? tile('Compared', 'everything', 'at the cutover', null, 'good')
      : tile('Compared', 'not compared', 'as chosen in the settings');
  }
  if (!status.all_compared) return tile('Compared', compared, differences, null, status.differences ? 'bad' : '');
  if (status.differences) return tile('Compared', differences, 'everything is compared', null, 'bad');
  return tile('Compared', 'everything', 'no differences', null, 'good');
}

// The green light, with what it rests on.
export function greenPanel(detail, screen) {
  const onCutover = screen.tab === 'cutover';
  return h(
    'section',
    { class: 'green', 'aria-labelledby': 'green' },
    h(
      'div',
      { class: 'green-head' },
      h('span', { class: 'lamp', 'aria-hidden': 'true' }),
      h('h2', { id: 'green' }, 'Green light: the migration can be cut over'),
    ),
    evidence(detail),
    h('p', {}, `The applications stand still for ${about(detail.cutover_estimate_ms)}.`),
    !onCutover &&
      screen.can('cutover') &&
      h(
        'div',
        { class: 'buttons' },
        h('a', { class: 'button good', href: `${screen.base}/cutover` }, 'Prepare to cut over'),
      ),
    detail.cutover_deadline && deadline(detail, screen),
  );
}

function evidence(detail) {
  const { status } = detail;
  if (!status) return null;
  const item = (text) => h('li', {}, icon('good'), text);
  return h(
    'ul',
    { class: 'evidence' },
    item(`Lag: ${duration(status.lag_ms)}`),
    status.all_compared
      ? item('Everything is compared')
      : h('li', {}, icon('info'), 'Documents are compared at the cutover'),
    status.differences === 0 && item('Differences: 0'),
    item(`Indexes built: ${count(status.indexes.built)} of ${count(status.indexes.total)}`),
  );
}

// How long the cutover window is open, and how to make it longer.
function deadline(detail, screen) {
  const left =
    new Date(detail.cutover_deadline).getTime() - (screen.live.readOnly ? screen.live.now() : screen.app.now());
  return h(
    'div',
    { class: left < DAY_MS ? 'deadline short' : 'deadline' },
    left < DAY_MS && icon('warn'),
    h(
      'p',
      {},
      'The cutover window closes in ',
      h('strong', { class: 'clock' }, countdown(left)),
      ` (${day(detail.cutover_deadline)}). Then the run ends, and its checkpoint is kept.`,
    ),
    screen.can('extend') &&
      button('Extend by 24 hours', () => screen.act('extend', { by_ms: DAY_MS }), {
        kind: 'secondary small',
        disabled: screen.busy !== null,
      }),
  );
}
