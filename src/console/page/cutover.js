// The cutover, step by step.

import { ask } from './dialog.js';
import { announce, h } from './dom.js';
import { about, duration } from './format.js';
import { errorNotice } from './findings.js';
import { greenPanel } from './overview.js';
import { button, check, icon, notice } from './parts.js';
import { newConnection, resultPanel } from './result.js';
import { isComplete, isCuttingOver, isGreen } from './words.js';

const WORDS = { waiting: 'to come', running: 'now', done: 'done', failed: 'failed' };

export class CutoverPart {
  constructor(screen) {
    this.screen = screen;
    this.confirmed = false;
    this.stale = null;
    this.posting = false;
  }

  shown() {
    this.confirmed = false;
    this.stale = null;
  }

  view(detail) {
    const { screen } = this;
    const cutover = detail.cutover;
    const steps = Object.fromEntries((cutover?.steps ?? []).map((step) => [step.step, step]));
    const running = isCuttingOver(detail);
    const complete = isComplete(detail);
    if (this.confirmed && (running || complete)) this.confirmed = running && this.confirmed;
    return [
      complete && detail.summary && resultPanel(detail, screen),
      !complete && detail.summary && detail.summary.outcome !== 'complete' && !running && resultPanel(detail, screen),
      !complete && !running && isGreen(detail) && greenPanel(detail, screen),
      !complete && !running && !isGreen(detail) && this.notYet(detail),
      h(
        'section',
        { class: 'panel', 'aria-labelledby': 'cutover' },
        h(
          'h2',
          { id: 'cutover' },
          complete ? 'The cutover' : running ? 'The cutover is in progress' : 'Cut over in five steps',
        ),
        cutover?.error &&
          !running &&
          !complete && [
            errorNotice(cutover.error, 'The cutover failed'),
            h(
              'p',
              {},
              'The run follows the source again. Let the applications write to the source, or keep them stopped and try again.',
            ),
          ],
        this.stale &&
          notice(
            'warn',
            'Something has changed since you confirmed',
            h('p', {}, this.stale),
            h('p', {}, 'The page shows the new state. Look at it, then confirm again.'),
          ),
        running &&
          notice(
            'busy',
            'Keep the applications stopped',
            h('p', {}, `Until the result is shown here. Estimated: ${about(detail.cutover_estimate_ms)}.`),
          ),
        h('ol', { class: 'cutover' }, this.steps(detail, cutover, steps, running, complete)),
        !complete && !running && this.buttons(detail, cutover),
      ),
    ];
  }

  notYet(detail) {
    if (detail.phase === 'paused')
      return notice(
        'warn',
        'The run is paused',
        h('p', {}, 'Resume it first. It can be cut over once it has caught up.'),
      );
    return notice(
      'info',
      'There is no green light yet',
      h(
        'p',
        {},
        detail.can_cut_over
          ? `Everything is copied, but not everything is compared. A cutover now compares the rest while the applications are stopped: ${about(detail.cutover_estimate_ms)}.`
          : 'Wait until everything is copied, indexed and compared, and the lag is small.',
      ),
    );
  }

  steps(detail, cutover, steps, running, complete) {
    const { screen } = this;
    const host = cutover?.host_stops_writes;
    const state = (name) => (complete ? 'done' : (steps[name]?.state ?? 'waiting'));
    const says = (name) => steps[name]?.detail && h('p', { class: 'quiet' }, steps[name].detail);
    const status = detail.status;
    return [
      item('Stop the applications', state('stop_writes'), [
        host
          ? h('p', {}, 'The program that hosts this console stops them as soon as you cut over.')
          : h(
              'p',
              {},
              'Stop every program that writes to the source, and wait until it has ended. What is written to the source after the cutover is lost.',
            ),
        !host &&
          !running &&
          !complete &&
          (screen.can('cutover') || screen.can('cutover_now')) &&
          check('stopped', 'Nothing writes to the source any more', this.confirmed, (confirmed) => {
            this.confirmed = confirmed;
            this.token = cutover?.token;
            screen.update();
          }),
        says('stop_writes'),
      ]),
      item('The gap reaches zero', state('drain'), [
        h(
          'p',
          {},
          'The last changes are applied to the target. ',
          !complete && h('span', { class: 'gap' }, `Lag: ${duration(detail.lag_ms)}`),
        ),
        says('drain'),
      ]),
      item('Both sides are compared', state('compare'), [
        h(
          'p',
          {},
          status?.all_compared
            ? 'What has changed since the last comparison. Everything else is compared already.'
            : 'Every document that is not compared yet, all options and all indexes.',
        ),
        says('compare'),
      ]),
      item('The migration is completed', state('finish'), [
        h('p', {}, 'Documents expire on the target from now on, and the last checkpoint is saved.'),
        says('finish'),
      ]),
      item('Restart the applications with the new connection string', complete ? 'running' : 'waiting', [
        h(
          'p',
          {},
          complete ? 'The connection string is above.' : 'Only when this page says that they may go to the target.',
        ),
        !complete && h('details', {}, h('summary', {}, 'Show the new connection string'), newConnection(detail)),
      ]),
    ];
  }

  buttons(detail, cutover) {
    const { screen } = this;
    if (screen.live.readOnly) return null;
    const host = cutover?.host_stops_writes;
    const ready = Boolean(cutover?.token) && (host || this.confirmed) && !this.posting;
    const early = !screen.can('cutover') && screen.can('cutover_now');
    const why =
      !screen.can('cutover') && !early
        ? 'The run cannot be cut over at this moment.'
        : !host && !this.confirmed
          ? 'Confirm first that nothing writes to the source any more.'
          : '';
    return h(
      'div',
      { class: 'stack tight' },
      h(
        'div',
        { class: 'buttons' },
        !early &&
          button(this.posting ? 'Please wait …' : 'Cut over', () => this.cutOver(detail, false), {
            kind: 'large good',
            disabled: !ready || !screen.can('cutover'),
          }),
        early && button('Cut over now …', () => this.early(detail), { kind: 'secondary', disabled: !ready }),
        h('a', { class: 'button secondary', href: screen.base }, 'Not now'),
      ),
      why && h('p', { class: 'hint' }, why),
    );
  }

  early(detail) {
    return ask({
      title: 'Cut over before everything is compared?',
      body: () =>
        h(
          'p',
          {},
          `The rest is compared while the applications are stopped. They stand still for ${about(detail.cutover_estimate_ms)}.`,
        ),
      confirm: 'Cut over now',
      act: () => this.cutOver(detail, true).then(() => true),
    });
  }

  // The token is that of the state for which the operator has confirmed. The console refuses it if something that matters has changed since.
  async cutOver(detail, now) {
    this.posting = true;
    this.stale = null;
    this.screen.problem = null;
    this.screen.update();
    try {
      await this.screen.live.act('cutover', {
        token: detail.cutover.host_stops_writes ? detail.cutover.token : this.token,
        now,
      });
      announce('The cutover has begun');
    } catch (problem) {
      this.confirmed = false;
      if (problem.status === 409) {
        this.stale = problem.message;
        announce('Something has changed. Confirm again.');
        await this.screen.live.reload();
      } else this.screen.problem = problem;
    }
    this.posting = false;
    this.screen.update();
  }
}

function item(name, state, content) {
  const tone = { done: 'good', failed: 'bad', running: 'busy' }[state];
  return h(
    'li',
    { key: name, class: state, 'aria-current': state === 'running' ? 'step' : undefined },
    h(
      'div',
      { class: 'step-head' },
      h('h3', {}, name),
      h('span', { class: tone ? `step-state ${tone}` : 'unseen' }, tone && icon(tone), WORDS[state] ?? state),
    ),
    content,
  );
}
