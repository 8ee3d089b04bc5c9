// Plays a recording from a file on this machine. Nothing of it leaves the page.

import { announce, h } from './dom.js';
import { clock, counted, day } from './format.js';
import { eventText } from './event_text.js';
import { button, notice } from './parts.js';
import { MigrationScreen } from './migration.js';

const SPEEDS = [1, 10, 60, 600];

// One recorded object a line: `at`, and the fields of a status, an event, a plan, a summary or a collection.
export function parseRecording(text) {
  const lines = [];
  let skipped = 0;
  for (const line of text.split('\n')) {
    if (!line.trim()) continue;
    try {
      const value = JSON.parse(line);
      const at = new Date(value.at).getTime();
      if (typeof value.type !== 'string' || Number.isNaN(at)) skipped += 1;
      else lines.push({ at, value });
    } catch {
      skipped += 1;
    }
  }
  lines.sort((one, other) => one.at - other.at);
  return { lines, skipped };
}

// How much of the lag a status of a live run shows.
const LAG_HISTORY_MS = 10 * 60 * 1000;

// Events that count as warnings, as for a live run: each one with another text, and of those that repeat only that there are any.
const WARNINGS = new Set(['index_failed', 'document_refused', 'left_selection', 'resync', 'catalog_change_met']);
const REPEATED = new Set([
  'falling_behind',
  'oplog_window_short',
  'cutover_window_short',
  'foreign_write',
  'foreign_writes_not_watched',
  'rule_failed',
  'users_not_carried',
  'source_write_block_stays',
  'hook_failed',
  'writes_after_stop',
]);

const OBJECTS = new Set([
  'status',
  'plan',
  'summary',
  'collection',
  'verify_report',
  'finding',
  'command',
  'rehearsed',
]);

// A recording at a moment, in the form that a live migration has.
export class Recording {
  constructor(name, lines) {
    this.readOnly = true;
    this.name = name;
    this.lines = lines;
    this.problem = null;
    this.begin = lines[0].at;
    this.end = lines.at(-1).at;
    this.goTo(this.begin);
  }

  goTo(at) {
    this.at = Math.max(this.begin, Math.min(this.end, at));
    const state = { status: null, plan: null, summary: null, report: null, findings: [] };
    this.list = new Map();
    this.events = [];
    this.samples = [];
    const warnings = new Set();
    for (const line of this.lines) {
      if (line.at > this.at) break;
      const { value } = line;
      // A line that was too large for the file.
      if (value.omitted_bytes !== undefined) continue;
      if (value.type === 'status') {
        state.status = value;
        this.samples.push({
          at: value.at,
          lag_ms: value.lag_ms,
          applied_per_second: value.applied_per_second,
          copied_bytes: value.copied?.bytes ?? 0,
        });
      } else if (value.type === 'plan') state.plan = value;
      else if (value.type === 'finding') state.findings.push(value);
      else if (value.type === 'summary')
        state.summary =
          value.collections && value.outcome && ['complete', 'differences'].includes(value.outcome)
            ? full(value)
            : null;
      else if (value.type === 'collection') this.list.set(value.id, value);
      else if (value.type === 'verify_report') state.report = value;
      else if (!OBJECTS.has(value.type)) {
        this.events.push(value);
        if (WARNINGS.has(value.type)) warnings.add(eventText(value));
        else if (REPEATED.has(value.type)) warnings.add(value.type);
      }
    }
    this.detail = this.describe({ ...state, status: this.withLag(state.status) }, warnings.size);
  }

  // A recording leaves the history of the lag out of each status, because it has every status.
  withLag(status) {
    if (!status || status.lag_history?.length) return status;
    const begin = this.at - LAG_HISTORY_MS;
    const recent = this.samples.filter(({ at, lag_ms }) => lag_ms !== null && new Date(at).getTime() >= begin);
    return { ...status, lag_history: recent.map(({ at, lag_ms }) => ({ at, lag_ms })) };
  }

  describe({ status, plan, summary, report, findings }, warnings) {
    const changed = this.events.findLast((event) => event.type === 'phase_changed');
    const failed = this.events.findLast((event) => event.type === 'failed');
    const phase = failed
      ? 'failed'
      : summary?.outcome === 'complete'
        ? 'complete'
        : (status?.phase ?? changed?.phase ?? 'preflight');
    const side = (one) => (one ? { name: one.name, hosts: [] } : null);
    const shownPlan =
      plan ??
      (findings.length
        ? {
            source: null,
            target: null,
            findings,
            collections: [],
            total: { documents: 0, bytes: 0 },
            indexes: 0,
            estimate: null,
            to_drop: [],
            not_migrated: [],
          }
        : null);
    return {
      id: this.name,
      state: ['complete', 'stopped', 'failed'].includes(phase) ? 'ended' : 'running',
      origin: 'host',
      direction: this.lines[0].value.direction ?? 'forward',
      source: side(plan?.source),
      target: side(plan?.target),
      phase,
      lag_ms: status?.lag_ms ?? null,
      copied: status?.copied ?? null,
      total: status?.total ?? null,
      can_cut_over: status?.can_cut_over ?? false,
      cutover_deadline: status?.cutover_deadline ?? null,
      cutover_estimate_ms: status?.cutover_estimate_ms ?? null,
      differences: status?.differences ?? 0,
      warnings,
      owner: null,
      error: failed?.error ?? status?.failure ?? null,
      actions: [],
      settings: null,
      plan: shownPlan,
      preflight_running: false,
      waits: [],
      status,
      summary,
      certificate: false,
      verify: { running: false, report, repaired: null },
      cutover: null,
      new_connection: null,
      documents_on_request: false,
    };
  }

  now() {
    return this.at;
  }

  stop() {}

  async collections({ filter, phase, sort, offset, limit }) {
    const all = [...this.list.values()];
    const found = all.filter((one) => one.namespace.includes(filter) && (!phase || one.phase === phase));
    const part = (one) => (one.total.bytes ? one.copied.bytes / one.total.bytes : 1);
    const orders = {
      name: (a, b) => (a.namespace < b.namespace ? -1 : 1),
      progress: (a, b) => part(a) - part(b),
      lag: (a, b) => b.applied - a.applied,
    };
    found.sort(orders[sort] ?? orders.name);
    const by_phase = {};
    for (const one of all) by_phase[one.phase] = (by_phase[one.phase] ?? 0) + 1;
    return { total: all.length, matching: found.length, by_phase, collections: found.slice(offset, offset + limit) };
  }

  async history() {
    return this.samples;
  }

  async reload() {}
}

// A summary of a run that did not end with a cutover leaves some fields out.
function full(summary) {
  return {
    position: null,
    indexes: [],
    late_writes: { count: 0, named: [] },
    resyncs: 0,
    foreign_writes: [],
    left_selection: [],
    not_migrated: [],
    not_kept: [],
    ...summary,
  };
}

export class ReplayScreen {
  constructor(app) {
    this.app = app;
    this.section = 'replay';
    this.offline = true;
    this.recording = app.recording ?? null;
    this.problem = null;
    this.tab = '';
    this.speed = 10;
    this.timer = null;
    if (this.recording) this.open();
  }

  title() {
    return this.recording ? `Replay: ${this.recording.name}` : 'Replay';
  }

  show(tab) {
    this.tab = tab;
    this.inner?.show(tab);
  }

  stop() {
    this.pause();
  }

  open() {
    this.inner = new MigrationScreen(this.app, this.recording.name, this.recording);
    this.inner.show(this.tab);
  }

  drawn() {
    this.inner?.drawn();
  }

  view() {
    return [
      this.recording ? this.player() : h('h1', {}, 'Replay'),
      !this.recording && this.chooser(),
      this.recording && h('div', { key: 'inner', class: 'part' }, this.inner.view()),
    ];
  }

  chooser() {
    return h(
      'div',
      { class: 'panel stack' },
      h(
        'p',
        {},
        'Open the recording of a run (JSON lines) and step through it with the same screens. The file is read in this page only, and is not sent anywhere.',
      ),
      h('p', {}, 'A recording comes from a migration under “Support”, or from the example live_migration with --json.'),
      h(
        'div',
        { class: 'field' },
        h('label', { for: 'recording' }, 'Recording'),
        h('input', {
          id: 'recording',
          type: 'file',
          accept: '.jsonl,.json,.ndjson,.txt',
          onChange: (event) => this.read(event.currentTarget.files[0]),
        }),
      ),
      h(
        'div',
        { role: 'alert' },
        this.problem && notice('bad', 'This file cannot be played', h('p', {}, this.problem)),
      ),
    );
  }

  async read(file) {
    if (!file) return;
    try {
      const { lines, skipped } = parseRecording(await file.text());
      if (!lines.length)
        throw new Error('It has no line of a recording: each line is a JSON object with "at" and "type".');
      this.problem = null;
      this.recording = new Recording(file.name.replace(/\.[a-z]+$/i, ''), lines);
      this.recording.skipped = skipped;
      this.app.recording = this.recording;
      this.open();
      announce(`${counted(lines.length, 'line')} read`);
    } catch (problem) {
      this.problem = problem.message;
    }
    this.app.update();
  }

  player() {
    const { recording } = this;
    const text = `${day(recording.at)}, ${clock(recording.at)}`;
    return h(
      'section',
      { class: 'player', 'aria-label': 'Time' },
      h(
        'div',
        { class: 'buttons' },
        button(this.timer ? 'Pause' : 'Play', () => (this.timer ? this.pause() : this.play()), { kind: 'small' }),
        button('Back', () => this.step(-1), { kind: 'secondary small', label: 'One step back' }),
        button('Forward', () => this.step(1), { kind: 'secondary small', label: 'One step forward' }),
        h('label', { for: 'speed', class: 'unseen' }, 'Speed'),
        h(
          'select',
          {
            id: 'speed',
            value: String(this.speed),
            onChange: (event) => ((this.speed = Number(event.currentTarget.value)), this.app.update()),
          },
          SPEEDS.map((speed) => h('option', { key: speed, value: String(speed) }, `${speed} ×`)),
        ),
        h('span', { class: 'clock' }, text),
        button('Close', () => this.close(), { kind: 'secondary small', label: 'Close the recording' }),
      ),
      h('label', { for: 'time', class: 'unseen' }, 'Time of the recording'),
      h('input', {
        id: 'time',
        type: 'range',
        min: '0',
        max: '1000',
        step: '1',
        value: String(this.permille()),
        'aria-valuetext': text,
        onInput: (event) => this.seek(event.currentTarget.value / 1000),
      }),
      recording.skipped > 0 &&
        h(
          'p',
          { class: 'hint' },
          `${counted(recording.skipped, 'line')} of the file could not be read and ${recording.skipped === 1 ? 'is' : 'are'} left out.`,
        ),
    );
  }

  permille() {
    const { begin, end, at } = this.recording;
    return Math.round(((at - begin) / Math.max(1, end - begin)) * 1000);
  }

  seek(part) {
    const { begin, end } = this.recording;
    this.goTo(begin + part * (end - begin));
  }

  // To the next or the previous line of another time.
  step(direction) {
    const { lines, at } = this.recording;
    const line = direction > 0 ? lines.find((one) => one.at > at) : lines.findLast((one) => one.at < at);
    if (line) this.goTo(line.at);
  }

  goTo(at) {
    this.recording.goTo(at);
    this.inner.collections.shown();
    this.app.update();
  }

  play() {
    if (this.recording.at >= this.recording.end) this.recording.goTo(this.recording.begin);
    this.timer = setInterval(() => {
      this.goTo(this.recording.at + 200 * this.speed);
      if (this.recording.at >= this.recording.end) this.pause();
    }, 200);
    this.app.update();
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.app.update();
  }

  close() {
    this.pause();
    this.recording = null;
    this.app.recording = null;
    this.inner = null;
    this.app.go('#/replay');
  }
}
