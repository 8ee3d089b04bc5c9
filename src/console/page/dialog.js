// Questions in front of the page.

import { h, render } from './dom.js';
import { button, problemNotice } from './parts.js';

// What `act` returns if more has to be typed: the dialog stays open.
export const ASK_AGAIN = Symbol('ask again');

let nextId = 0;

// Asks, and does. `body(update)` describes the content, `confirm` is the word on the button, `act` does it: the dialog stays open with the
// problem if that fails. `ready()` says whether the button can be pressed.
export function ask({ title, body, confirm, danger = false, ready = () => true, act }) {
  return new Promise((resolve) => {
    const element = document.createElement('dialog');
    const id = `dialog-${(nextId += 1)}`;
    element.setAttribute('aria-labelledby', id);
    let busy = false;
    let problem = null;
    const close = (result) => {
      element.close();
      element.remove();
      resolve(result);
    };
    const submit = async (event) => {
      event.preventDefault();
      if (busy || !ready()) return;
      busy = true;
      problem = null;
      update();
      try {
        const result = (await act?.()) ?? true;
        if (result !== ASK_AGAIN) return close(result);
      } catch (error) {
        problem = error;
      }
      busy = false;
      update();
    };
    const update = () =>
      render(
        element,
        h(
          'form',
          { onSubmit: submit, novalidate: true },
          h('h2', { id }, title),
          h('div', { class: 'dialog-body' }, body(update)),
          h('div', { role: 'alert' }, problemNotice(problem)),
          h(
            'div',
            { class: 'buttons end' },
            button('Cancel', () => close(null), { kind: 'secondary', disabled: busy }),
            h(
              'button',
              { type: 'submit', class: danger ? 'danger' : '', disabled: busy || !ready() },
              busy ? 'Please wait …' : confirm,
            ),
          ),
        ),
      );
    element.addEventListener('cancel', (event) => {
      event.preventDefault();
      if (!busy) close(null);
    });
    update();
    document.body.append(element);
    element.showModal();
  });
}
