// Takes an operator through a new migration: what is needed, both connections, what is migrated. Then the check follows.

import { post } from './api.js';
import { h } from './dom.js';
import { EndpointForm, userCommand } from './endpoint.js';
import { findingsList } from './findings.js';
import { button, facts, field, notice, problemNotice } from './parts.js';
import { emptySettings, settingsBody, settingsFields, settingsProblems, settingsFacts } from './settings.js';

export class NewScreen {
  constructor(app) {
    this.app = app;
    this.section = 'new';
    this.problem = null;
    this.busy = false;
    // What was typed outlives a look at another screen, but never the page.
    this.draft = app.draft ??= {
      id: '',
      step: 0,
      source: new EndpointForm('source', app.update),
      target: new EndpointForm('target', app.update),
      settings: emptySettings(),
    };
  }

  title() {
    return 'New migration';
  }

  steps() {
    const steps = [
      ['Prepare', () => this.prepare(), () => true],
      ['Source', () => this.side('source'), () => this.draft.source.complete()],
      ['Target', () => this.side('target'), () => this.draft.target.complete()],
      ['What to migrate', () => settingsFields(this.draft.settings, this.app.update), () => this.settingsFit()],
      ['Validate', () => this.review(), () => this.named()],
    ];
    return this.app.info?.fixed_target ? steps.filter(([name]) => name !== 'Target') : steps;
  }

  view() {
    const info = this.app.info;
    if (info && !info.can_create)
      return [
        h('h1', {}, 'New migration'),
        notice('info', 'This console does not create migrations', h('p', {}, 'The program that hosts it adds them.')),
      ];
    const steps = this.steps();
    const at = Math.min(this.draft.step, steps.length - 1);
    const [name, content] = steps[at];
    return [
      h('h1', {}, 'New migration'),
      h(
        'ol',
        { class: 'stepper', 'aria-label': 'Steps' },
        steps.map(([step], index) =>
          h(
            'li',
            {
              key: step,
              class: index < at ? 'done' : index === at ? 'now' : '',
              'aria-current': index === at ? 'step' : undefined,
            },
            index < at ? button(step, () => this.goTo(index), { kind: 'plain' }) : h('span', {}, step),
          ),
        ),
      ),
      h(
        'form',
        { class: 'panel', key: name, onSubmit: (event) => this.next(event), novalidate: true, autocomplete: 'off' },
        h('h2', { id: 'step', tabindex: '-1' }, name),
        content(),
        h(
          'div',
          { role: 'alert' },
          problemNotice(this.problem, 'The migration was not created'),
          this.problem?.findings?.length > 0 && findingsList(this.problem.findings),
        ),
        h(
          'div',
          { class: 'buttons end' },
          at > 0 && button('Back', () => this.goTo(at - 1), { kind: 'secondary', disabled: this.busy }),
          h(
            'button',
            { type: 'submit', disabled: this.busy },
            this.busy ? 'Please wait …' : at === steps.length - 1 ? 'Validate' : 'Continue',
          ),
        ),
      ),
    ];
  }

  goTo(step) {
    this.draft.step = step;
    this.problem = null;
    this.app.update();
    requestAnimationFrame(() => requestAnimationFrame(() => document.getElementById('step')?.focus()));
  }

  async next(event) {
    event.preventDefault();
    const steps = this.steps();
    const at = Math.min(this.draft.step, steps.length - 1);
    if (!steps[at][2]()) {
      requestAnimationFrame(() =>
        requestAnimationFrame(() => document.querySelector('form [aria-invalid="true"]')?.focus()),
      );
      return;
    }
    if (at < steps.length - 1) this.goTo(at + 1);
    else await this.create(steps);
  }

  // Creates the migration, and goes to its check. Every step is looked at again: secrets may be gone.
  async create(steps) {
    const missing = steps.findIndex(([, , fits]) => !fits());
    if (missing >= 0) {
      this.goTo(missing);
      return;
    }
    const { draft } = this;
    const body = { id: draft.id.trim(), source: draft.source.body(), ...settingsBody(draft.settings) };
    if (!this.app.info?.fixed_target) body.target = draft.target.body();
    this.busy = true;
    this.problem = null;
    this.app.update();
    try {
      const created = await post('migrations', body);
      // What was typed is no longer needed, and some of it is secret.
      draft.source.clear();
      draft.target.clear();
      this.app.draft = null;
      this.app.validate = created.id;
      this.app.go(`#/m/${encodeURIComponent(created.id)}/validate`);
    } catch (problem) {
      this.problem = problem;
    }
    this.busy = false;
    this.app.update();
  }

  prepare() {
    const fixed = this.app.info?.fixed_target;
    return h(
      'div',
      { class: 'stack' },
      h(
        'p',
        {},
        'The migration copies the source while the applications keep writing to it, follows every change, and compares both sides. When both are the same, you choose the moment of the cutover.',
      ),
      h('h3', {}, 'You need'),
      h(
        'ul',
        { class: 'plain-list' },
        h(
          'li',
          {},
          'The host name and the port of the primary of the source',
          fixed ? '' : ', and of the target',
          '; or connection strings.',
        ),
        h('li', {}, 'A user on the source', fixed ? '' : ' and one on the target', ' with the roles below.'),
        h('li', {}, 'If the servers have a certificate of your own authority: its certificate (CA) as PEM.'),
        h(
          'li',
          {},
          'A way to stop the applications for some seconds at the cutover, and to give them another connection string.',
        ),
      ),
      notice(
        'info',
        null,
        h('p', {}, 'Users and roles are not migrated: create those of the applications on the target.'),
      ),
      h(
        'details',
        {},
        h('summary', {}, 'Create the user of the source'),
        h('p', {}, 'Run this in mongosh on the primary of the source.'),
        userCommand('source'),
      ),
      !fixed &&
        h(
          'details',
          {},
          h('summary', {}, 'Create the user of the target'),
          h('p', {}, 'Run this in mongosh on the primary of the target.'),
          userCommand('target'),
        ),
    );
  }

  side(side) {
    const text =
      side === 'source'
        ? 'The replica set that the applications use today. It is only read.'
        : 'The replica set that the data goes to.';
    return h('div', { class: 'stack', key: side }, h('p', {}, text), this.draft[side].view());
  }

  settingsFit() {
    const { draft } = this;
    draft.settings.problems = settingsProblems(draft.settings);
    this.app.update();
    return Object.keys(draft.settings.problems).length === 0;
  }

  review() {
    const { draft } = this;
    const wrong = this.nameProblem;
    const id = h('input', {
      type: 'text',
      value: draft.id,
      maxlength: '64',
      autocomplete: 'off',
      autocapitalize: 'off',
      spellcheck: 'false',
      placeholder: 'shop-to-new',
      'aria-invalid': wrong ? 'true' : undefined,
      onInput: (event) => this.name(event),
    });
    const hint = wrong ?? 'It also names the records of the migration on the target.';
    return h(
      'div',
      { class: 'stack' },
      field('id', 'Name of the migration', id, hint),
      h('h3', {}, 'In short'),
      facts([
        ['Source', shortly(draft.source)],
        this.app.info?.fixed_target ? ['Target', fixedTarget(this.app.info.target)] : ['Target', shortly(draft.target)],
        ...settingsFacts(draft.settings),
      ]),
      h('p', {}, 'Validating connects to both sides and changes nothing.'),
    );
  }

  named() {
    const fits = /^[A-Za-z0-9._-]{1,64}$/.test(this.draft.id.trim());
    this.nameProblem = fits ? null : 'Use 1 to 64 letters (without accents), digits, dots, underscores and hyphens.';
    this.app.update();
    return fits;
  }

  name(event) {
    this.draft.id = event.currentTarget.value;
    this.nameProblem = null;
    this.app.update();
  }
}

function fixedTarget(target) {
  return target
    ? [target.name, target.hosts.join(', ')].filter(Boolean).join(': ')
    : 'as the program that hosts this console has set it';
}

// A side without anything secret.
function shortly(form) {
  if (form.way === 'uri') return 'connection string';
  return [
    form.values.host.trim(),
    form.values.user.trim() && `user ${form.values.user.trim()}`,
    form.tls ? 'TLS' : 'without TLS',
  ]
    .filter(Boolean)
    .join(', ');
}
