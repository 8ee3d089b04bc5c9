// Parts that several screens use.

import { announce, h } from './dom.js';
import { save } from './api.js';
import { NONE } from './format.js';
import { badge } from './words.js';

// Pictures of a tone. Each is shown beside a word, never alone.
const ICONS = {
  good: 'M4 10.5l4 4 8-9',
  busy: 'M10 3a7 7 0 1 1-6.7 5',
  warn: 'M10 6v5M10 14v.5M10 2L1.5 17.5h17z',
  bad: 'M6 6l8 8M14 6l-8 8',
  calm: 'M5 10h10',
  info: 'M10 9v6M10 5.5v.5',
  wait: 'M10 5v5l3 2M10 2.5a7.5 7.5 0 1 0 .01 0',
};

export function icon(tone) {
  return h(
    'svg',
    { class: `icon icon-${tone}`, viewBox: '0 0 20 20', 'aria-hidden': 'true' },
    h('path', { d: ICONS[tone] ?? ICONS.info }),
  );
}

export function stateBadge(entry) {
  const { tone, text } = badge(entry);
  return tag(tone, text);
}

export function tag(tone, text) {
  return h('span', { class: `tag ${tone}` }, icon(tone), text);
}

// A bar whose meaning is in the text beside it.
export function bar(value, tone = 'busy') {
  return h('span', { class: `bar ${tone}`, 'aria-hidden': 'true' }, h('span', { style: { width: `${value ?? 0}%` } }));
}

// A notice in a box: a tone, a heading and what belongs to it.
export function notice(tone, heading, ...children) {
  return h(
    'div',
    { class: `notice ${tone}` },
    icon(tone),
    h('div', { class: 'notice-body' }, heading && h('p', { class: 'notice-heading' }, heading), ...children),
  );
}

export function button(text, onClick, { kind = '', disabled = false, label, title } = {}) {
  return h('button', { type: 'button', class: kind, disabled, onClick, 'aria-label': label, title }, text);
}

export function copyButton(text, what) {
  return button(
    'Copy',
    async (event) => {
      const element = event.currentTarget;
      const done = await copy(text);
      announce(done ? `Copied: ${what}` : 'The browser does not allow to copy. Select the text instead.');
      element.classList.add(done ? 'copied' : 'not-copied');
      setTimeout(() => element.classList.remove('copied', 'not-copied'), 1500);
    },
    { kind: 'small copy', label: `Copy ${what}` },
  );
}

// Copies text. Pages that do not come over HTTPS or from this machine have no clipboard, but an older command.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    area.className = 'unseen';
    const before = document.activeElement;
    (before?.closest('dialog') ?? document.body).append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    before?.focus();
    return done;
  }
}

// Text to copy, such as a command.
export function snippet(text, what) {
  return h(
    'div',
    { class: 'snippet' },
    h('pre', { tabindex: '0', role: 'group', 'aria-label': what }, text),
    copyButton(text, what),
  );
}

// A table that becomes cards on a narrow screen. A column has `name` and `cell(row)` (null if there is nothing to say), and can have `number`,
// `main` (names the row).
export function table({ label, columns, rows, key, empty = 'Nothing to show.' }) {
  if (!rows.length) return h('p', { class: 'empty' }, empty);
  const head = columns.map((column) =>
    h('th', { scope: 'col', role: 'columnheader', class: column.number ? 'number' : '' }, column.head ?? column.name),
  );
  return h(
    'div',
    { class: 'table-frame' },
    h(
      'table',
      { class: 'cards', role: 'table', 'aria-label': label },
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, head)),
      h(
        'tbody',
        { role: 'rowgroup' },
        rows.map((row) =>
          h(
            'tr',
            { key: key(row), role: 'row' },
            columns.map((column) => cell(column, row)),
          ),
        ),
      ),
    ),
  );
}

function cell(column, row) {
  const content = column.cell(row) ?? null;
  const kind = [column.number && 'number', column.main && 'main', content === null && 'none'].filter(Boolean).join(' ');
  const tagName = column.main ? 'th' : 'td';
  const role = column.main ? 'rowheader' : 'cell';
  return h(
    tagName,
    { class: kind, role, scope: column.main ? 'row' : undefined, 'data-label': column.name },
    content ?? NONE,
  );
}

// Buttons for the pages of a long list.
export function pager({ offset, limit, total, go, what }) {
  if (total <= limit) return null;
  const last = Math.min(offset + limit, total);
  return h(
    'nav',
    { class: 'pager', 'aria-label': `Pages of ${what}` },
    button('Previous', () => go(Math.max(0, offset - limit)), { kind: 'small', disabled: offset === 0 }),
    h('span', {}, `${offset + 1} to ${last} of ${total}`),
    button('Next', () => go(offset + limit), { kind: 'small', disabled: last >= total }),
  );
}

// A pair of label and control. The control gets the id `id`.
export function field(id, label, control, hint) {
  const described = hint ? `${id}-hint` : undefined;
  control.props.id = id;
  if (described) control.props['aria-describedby'] = described;
  return h(
    'div',
    { class: 'field' },
    h('label', { for: id }, label),
    control,
    hint && h('p', { class: 'hint', id: described }, hint),
  );
}

export function check(id, label, checked, onChange, hint) {
  return h(
    'div',
    { class: 'check' },
    h('input', {
      type: 'checkbox',
      id,
      checked,
      onChange: (event) => onChange(event.currentTarget.checked),
      'aria-describedby': hint ? `${id}-hint` : undefined,
    }),
    h('div', {}, h('label', { for: id }, label), hint && h('p', { class: 'hint', id: `${id}-hint` }, hint)),
  );
}

// A choice of one: `options` has [value, label, hint].
export function choice(name, legend, options, value, onChange) {
  return h(
    'fieldset',
    { class: 'choice' },
    h('legend', {}, legend),
    options.map(([option, label, hint]) => {
      const id = `${name}-${option}`;
      return h(
        'div',
        { class: 'check', key: option },
        h('input', {
          type: 'radio',
          id,
          name,
          checked: value === option,
          onChange: () => onChange(option),
          'aria-describedby': hint ? `${id}-hint` : undefined,
        }),
        h('div', {}, h('label', { for: id }, label), hint && h('p', { class: 'hint', id: `${id}-hint` }, hint)),
      );
    }),
  );
}

export function download(text, path, name, report) {
  return button(
    text,
    async () => {
      try {
        await save(path, name);
        report(null);
      } catch (problem) {
        report(problem);
      }
    },
    { kind: 'secondary' },
  );
}

// An error with what to do. `advice` is a sentence; findings are shown by those who call.
export function problemNotice(problem, heading = 'That did not work') {
  return problem && notice('bad', heading, h('p', {}, problem.message));
}

export function facts(pairs) {
  return h(
    'dl',
    { class: 'facts' },
    pairs.filter(Boolean).map(([name, value]) => h('div', { key: name }, h('dt', {}, name), h('dd', {}, value))),
  );
}
