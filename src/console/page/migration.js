// One migration: its header, and the parts of its screen.

import { path, remove } from './api.js';
import { announce, h } from './dom.js';
import { CollectionsPart } from './collections.js';
import { ComparisonPart } from './comparison.js';
import { ConnectionsPart } from './connections.js';
import { CutoverPart } from './cutover.js';
import { ask } from './dialog.js';
import { Live } from './live.js';
import { LogPart } from './log.js';
import { OverviewPart } from './overview.js';
import { SupportPart } from './support.js';
import { ValidatePart } from './validate.js';
import { button, notice, problemNotice, stateBadge } from './parts.js';
import { badge, isComplete, isGreen, situation } from './words.js';

export class MigrationScreen {
  constructor(app, id, live) {
    this.app = app;
    this.id = id;
    this.section = 'migration';
    this.base = live ? '#/replay' : `#/m/${encodeURIComponent(id)}`;
    this.tab = '';
    this.problem = null;
    this.busy = null;
    this.live = live ?? new Live(id, () => this.changed());
    this.collections = new CollectionsPart(this);
    this.parts = {
      '': new OverviewPart(this),
      validate: new ValidatePart(this),
      comparison: new ComparisonPart(this),
      log: new LogPart(this),
      cutover: new CutoverPart(this),
      connections: new ConnectionsPart(this),
      support: new SupportPart(this),
    };
  }

  title() {
    const detail = this.live.detail;
    return detail ? `${detail.id}: ${badge(detail).text}` : (this.id ?? 'Migration');
  }

  stop() {
    this.live.stop();
    this.collections.stop();
  }

  show(tab) {
    this.tab = tab in this.parts ? tab : '';
    this.problem = null;
    this.parts[this.tab].shown?.();
  }

  // Called once the page is drawn.
  drawn() {
    if (this.tab === '') this.parts[''].chart.measure();
  }

  // Called after each change of the data.
  changed() {
    const detail = this.live.detail;
    if (detail) {
      const state = badge(detail).text;
      if (this.spoken && this.spoken !== state) announce(`${detail.id}: ${state}`);
      this.spoken = state;
    }
    this.app.update();
  }

  update() {
    this.app.update();
  }

  can(action) {
    return !this.live.readOnly && Boolean(this.live.detail?.actions?.includes(action));
  }

  // Whether people may say what to connect to.
  connects() {
    return !this.live.readOnly && Boolean(this.app.info?.can_create);
  }

  // Does an action of the console, and shows its problem at the top.
  async act(action, body) {
    this.busy = action;
    this.problem = null;
    this.update();
    try {
      return await this.live.act(action, body);
    } catch (problem) {
      this.problem = problem;
      announce(problem.message);
      return null;
    } finally {
      this.busy = null;
      this.update();
    }
  }

  view() {
    const { detail, problem } = this.live;
    if (problem && !detail) return this.missing(problem);
    if (!detail) return h('p', { class: 'empty' }, 'Loading …');
    return [
      this.header(detail),
      h(
        'div',
        { role: 'alert' },
        problemNotice(this.problem),
        problem && problemNotice(problem, 'This migration is no longer here'),
      ),
      this.tabs(detail),
      h('div', { class: 'part', key: `part-${this.tab}` }, this.parts[this.tab].view(detail)),
    ];
  }

  missing(problem) {
    return [
      h('h1', {}, this.id),
      notice(
        'bad',
        'This migration is not here',
        h('p', {}, problem.message),
        h('p', {}, 'It was removed, or its name is another one.'),
      ),
      h('p', {}, h('a', { href: '#/' }, 'All migrations')),
    ];
  }

  header(detail) {
    const { now, next } = situation(detail);
    const actions = this.live.readOnly ? [] : this.actions(detail);
    return h(
      'section',
      { class: `header ${badge(detail).tone}`, 'aria-labelledby': 'title' },
      h(
        'div',
        { class: 'heading' },
        h('h1', { id: 'title' }, detail.id),
        stateBadge(detail),
        this.live.readOnly && h('span', { class: 'tag calm' }, 'Recording'),
      ),
      h(
        'p',
        { class: 'sides' },
        side(detail.source, 'source'),
        ' → ',
        side(detail.target, 'target'),
        detail.direction === 'reverse' && ' (way back)',
      ),
      h('p', { class: 'now' }, now),
      h('p', { class: 'next' }, h('strong', {}, 'Next: '), next),
      actions.some(Boolean) && h('div', { class: 'buttons', role: 'group', 'aria-label': 'Actions' }, actions),
    );
  }

  actions(detail) {
    const { base } = this;
    const started = detail.state === 'ended';
    const simple = (action, text, kind = 'secondary') =>
      this.can(action) &&
      button(this.busy === action ? 'Please wait …' : text, () => this.act(action), {
        kind,
        disabled: this.busy !== null,
      });
    const green = isGreen(detail);
    return [
      detail.state === 'created' &&
        this.can('preflight') &&
        this.tab !== 'validate' &&
        h('a', { class: 'button', href: `${base}/validate` }, 'Validate and start'),
      detail.state === 'stored' &&
        detail.phase !== 'complete' &&
        !this.can('start') &&
        this.connects() &&
        h('a', { class: 'button', href: `${base}/connections` }, 'Give the connection'),
      started && this.tab !== 'validate' && simple('start', 'Start again', ''),
      detail.state === 'stored' && this.tab !== 'validate' && simple('start', 'Go on', ''),
      simple('resume', 'Resume', ''),
      (this.can('cutover') || this.can('cutover_now')) &&
        this.tab !== 'cutover' &&
        !(green && this.tab === '') &&
        h('a', { class: `button ${green ? 'good' : 'secondary'}`, href: `${base}/cutover` }, 'Prepare to cut over'),
      simple('pause', 'Pause'),
      this.can('abandon') &&
        button('Stop …', () => this.abandon(detail), { kind: 'secondary', disabled: this.busy !== null }),
      this.can('forget') &&
        button('Forget …', () => this.forget(detail), { kind: 'secondary', disabled: this.busy !== null }),
    ];
  }

  tabs(detail) {
    const cutover =
      !isComplete(detail) &&
      (this.can('cutover') || this.can('cutover_now') || detail.phase === 'cutover' || this.tab === 'cutover');
    const editable =
      this.connects() &&
      detail.origin !== 'host' &&
      ['created', 'stored', 'ended'].includes(detail.state) &&
      !isComplete(detail);
    const list = [
      ['', 'Overview'],
      ['validate', 'Validation'],
      ['comparison', detail.differences ? `Comparison (${detail.differences})` : 'Comparison'],
      ['log', 'Log'],
      cutover && ['cutover', 'Cutover'],
      editable && ['connections', 'Connections and settings'],
      ['support', 'Support'],
    ].filter(Boolean);
    return h(
      'nav',
      { class: 'tabs', 'aria-label': 'Parts of the migration' },
      list.map(([tab, text]) =>
        h(
          'a',
          {
            key: tab,
            href: tab ? `${this.base}/${tab}` : this.base,
            'aria-current': this.tab === tab ? 'page' : undefined,
          },
          text,
        ),
      ),
    );
  }

  abandon(detail) {
    return ask({
      title: `Stop ${detail.id}?`,
      body: () => [
        h(
          'p',
          {},
          'The run ends. Its checkpoint and the copied data stay on the target, and the same migration can be started again later: it continues from there.',
        ),
        h(
          'p',
          {},
          'While nothing runs, the oplog of the source rolls on. If it no longer reaches back when the migration is started again, everything is compared once more.',
        ),
      ],
      confirm: 'Stop the run',
      danger: true,
      act: () => this.live.act('abandon'),
    });
  }

  async forget(detail) {
    const ran = detail.state !== 'created';
    const done = await ask({
      title: `Forget ${detail.id}?`,
      body: () => [
        ran
          ? h(
              'p',
              {},
              'The checkpoint and the other records of the migration are removed. It cannot be continued afterwards, and a way back is no longer possible.',
            )
          : h('p', {}, 'The migration is removed from this console. It was never started, so nothing else is lost.'),
        ran && h('p', {}, 'The copied data stays on the target.'),
      ],
      confirm: 'Forget the migration',
      danger: true,
      act: () => remove(path(detail.id)).then(() => true),
    });
    if (done) this.app.go('#/');
  }
}

function side(side, word) {
  if (!side) return h('span', {}, `${word} not connected`);
  return h(
    'span',
    {},
    h('strong', {}, side.name || word),
    side.hosts?.length
      ? h(
          'span',
          { title: side.hosts.join(', ') },
          ` ${side.hosts[0]}${side.hosts.length > 1 ? ` and ${side.hosts.length - 1} more` : ''}`,
        )
      : '',
  );
}
