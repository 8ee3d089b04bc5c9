// Gives the connections of a migration again: after a restart of the program, or when something was typed wrong.

import { h } from './dom.js';
import { EndpointForm } from './endpoint.js';
import { findingsList } from './findings.js';
import { check, notice, problemNotice } from './parts.js';

export class ConnectionsPart {
  constructor(screen) {
    this.screen = screen;
    this.source = new EndpointForm('source', () => screen.update());
    this.target = new EndpointForm('target', () => screen.update());
    this.withTarget = null;
    this.problem = null;
    this.busy = false;
    this.done = false;
  }

  shown() {
    this.problem = null;
    this.done = false;
  }

  view(detail) {
    const fixed = this.screen.app.info?.fixed_target;
    // The target is what a stored migration was found on, so it is known.
    const withTarget = !fixed && (this.withTarget ?? detail.state !== 'stored');
    return h(
      'section',
      { class: 'panel', 'aria-labelledby': 'connections' },
      h('h2', { id: 'connections' }, 'Connections'),
      h('p', {}, detail.state === 'stored' ? 'Connections are not stored, so the one to the source is needed again. The migration then goes on from its checkpoint.' : 'Give the connections as they should be. They replace the earlier ones.'),
      h(
        'form',
        { onSubmit: (event) => this.submit(event, detail, withTarget), novalidate: true, autocomplete: 'off', class: 'stack' },
        h('h3', {}, 'Source'),
        this.source.view(),
        !fixed && detail.state === 'stored' && check('with-target', 'Also give the connection to the target', withTarget, (value) => ((this.withTarget = value), this.screen.update())),
        withTarget && [h('h3', {}, 'Target'), this.target.view()],
        h('div', { role: 'alert' }, problemNotice(this.problem, 'The connections were not taken'), this.problem?.findings?.length > 0 && findingsList(this.problem.findings)),
        this.done && notice('good', 'The connections are taken', h('p', {}, h('a', { href: `${this.screen.base}/validate` }, 'Validate them'))),
        h('div', { class: 'buttons end' }, h('a', { class: 'button secondary', href: this.screen.base }, 'Cancel'), h('button', { type: 'submit', disabled: this.busy }, this.busy ? 'Please wait …' : 'Use these connections')),
      ),
    );
  }

  async submit(event, detail, withTarget) {
    event.preventDefault();
    const forms = withTarget ? [this.source, this.target] : [this.source];
    if (!forms.map((form) => form.complete()).every(Boolean)) {
      requestAnimationFrame(() => requestAnimationFrame(() => document.querySelector('form [aria-invalid="true"]')?.focus()));
      return;
    }
    this.busy = true;
    this.problem = null;
    this.screen.update();
    try {
      const body = { source: this.source.body() };
      if (withTarget) body.target = this.target.body();
      await this.screen.live.setEndpoints(body);
      forms.forEach((form) => form.clear());
      this.done = true;
      // Then the check follows by itself.
      this.screen.app.validate = detail.id;
      this.screen.app.go(`${this.screen.base}/validate`);
    } catch (problem) {
      this.problem = problem;
    }
    this.busy = false;
    this.screen.update();
  }
}
