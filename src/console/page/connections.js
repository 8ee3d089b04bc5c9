// Changes the connections and the settings of a migration that does not run: after a restart of the program, or when something was wrong.

import { h } from './dom.js';
import { EndpointForm } from './endpoint.js';
import { findingsList } from './findings.js';
import { button, check, problemNotice } from './parts.js';
import { settingsBody, settingsFields, settingsFrom, settingsProblems } from './settings.js';

export class ConnectionsPart {
  constructor(screen) {
    this.screen = screen;
    const update = () => screen.update();
    this.forms = { source: new EndpointForm('source', update), target: new EndpointForm('target', update) };
    // Which sides are given again; null for the usual choice.
    this.given = { source: null, target: null };
    this.settings = null;
    this.problem = null;
    this.busy = false;
  }

  shown() {
    this.problem = null;
  }

  view(detail) {
    const known = detail.settings !== null;
    // A migration that was found on the target has no connection to the source.
    const given = { source: this.given.source ?? !known, target: this.given.target ?? false };
    if (this.screen.app.info?.fixed_target && detail.direction !== 'reverse') given.target = null;
    return h(
      'form',
      { class: 'panel', onSubmit: (event) => this.submit(event, given, known), novalidate: true, autocomplete: 'off' },
      h('h2', {}, 'Connections'),
      h(
        'p',
        {},
        known
          ? 'What is not given again stays as it is.'
          : 'Connections are not stored, so the one to the source is needed again. The migration then goes on from its checkpoint.',
      ),
      this.side('source', 'Source', given.source, known),
      given.target !== null && this.side('target', 'Target', given.target, true),
      h('h2', {}, 'What to migrate'),
      this.settings
        ? settingsFields(this.settings, () => this.screen.update())
        : h(
            'div',
            { class: 'stack tight' },
            h('p', { class: 'hint' }, settingsHint(known)),
            button('Change the settings', () => this.edit(detail), { kind: 'secondary' }),
          ),
      h(
        'div',
        { role: 'alert' },
        problemNotice(this.problem, 'This was not taken'),
        this.problem?.findings?.length > 0 && findingsList(this.problem.findings),
      ),
      h(
        'div',
        { class: 'buttons end' },
        h('a', { class: 'button secondary', href: this.screen.base }, 'Cancel'),
        h('button', { type: 'submit', disabled: this.busy }, this.busy ? 'Please wait …' : 'Save and validate'),
      ),
    );
  }

  side(side, name, given, optional) {
    const choose = (value) => {
      this.given[side] = value;
      this.screen.update();
    };
    return h(
      'div',
      { class: 'stack', key: side },
      optional ? check(`give-${side}`, `Give the connection to the ${side} again`, given, choose) : h('h3', {}, name),
      given && this.forms[side].view(),
    );
  }

  edit(detail) {
    this.settings = settingsFrom(detail.settings);
    this.screen.update();
  }

  async submit(event, given, known) {
    event.preventDefault();
    const sides = ['source', 'target'].filter((side) => given[side]);
    const fits = sides.map((side) => this.forms[side].complete()).every(Boolean);
    if (this.settings) this.settings.problems = settingsProblems(this.settings);
    if (!fits || Object.keys(this.settings?.problems ?? {}).length) {
      this.screen.update();
      requestAnimationFrame(() =>
        requestAnimationFrame(() => document.querySelector('form [aria-invalid="true"]')?.focus()),
      );
      return;
    }
    const { screen } = this;
    this.busy = true;
    this.problem = null;
    screen.update();
    try {
      const body = this.settings ? settingsBody(this.settings) : {};
      // The target knows what was migrated, so that an empty selection does not mean everything.
      if (!known && Object.values(body.selection ?? {}).every((list) => !list.length)) delete body.selection;
      for (const side of sides) body[side] = this.forms[side].body();
      await screen.live.setEndpoints(body);
      for (const side of sides) this.forms[side].clear();
      this.given = { source: null, target: null };
      this.settings = null;
      // Then the check follows by itself.
      screen.app.validate = screen.id;
      screen.app.go(`${screen.base}/validate`);
    } catch (problem) {
      this.problem = problem;
    }
    this.busy = false;
    screen.update();
  }
}

function settingsHint(known) {
  return known
    ? 'The selection, existing data on the target, limits and other options stay as they are.'
    : 'They are those of the program unless you change them. What is migrated stays as it was.';
}
