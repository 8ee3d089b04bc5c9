// What is migrated, and how: the fields of a new migration.

import { h } from './dom.js';
import { button, check, choice, field } from './parts.js';
import { DDL, EXISTING, VERIFICATION, throttleText } from './words.js';

export function emptySettings() {
  return {
    include: '',
    exclude: '',
    rename: [],
    existing: 'refuse',
    clearConfirmed: false,
    verification: 'continuous',
    ddl: 'apply',
    copyLimit: '',
    changeLimit: '',
    walkers: '',
    maxLag: '',
    window: '',
    acceptUnencrypted: false,
    blockWrites: false,
    problems: {},
  };
}

// The fields of settings that the console has; its defaults if it has none.
export function settingsFrom(known) {
  const fields = emptySettings();
  if (!known) return fields;
  const number = (value, unit) => (value ? String(value / unit) : '');
  return {
    ...fields,
    include: (known.selection?.include ?? []).join('\n'),
    exclude: (known.selection?.exclude ?? []).join('\n'),
    rename: (known.selection?.rename ?? []).map((pair) => [...pair]),
    existing: known.existing_data,
    verification: known.verification,
    ddl: known.ddl_policy,
    copyLimit: number(known.throttle?.copy_bytes_per_second, 1e6),
    changeLimit: number(known.throttle?.tail_operations_per_second, 1),
    walkers: number(known.walkers, 1),
    maxLag: number(known.max_lag_ms, 1000),
    window: number(known.cutover_window_ms, 3_600_000),
    acceptUnencrypted: known.accept_unencrypted,
    blockWrites: known.block_source_writes,
  };
}

// What is wrong with the fields, by field.
export function settingsProblems(settings) {
  const problems = {};
  if (settings.existing === 'clear' && !settings.clearConfirmed) problems.clear = 'Confirm that this data is deleted.';
  for (const [name, whole] of [
    ['copyLimit', false],
    ['changeLimit', true],
    ['walkers', true],
    ['maxLag', false],
    ['window', false],
  ]) {
    const text = settings[name].trim();
    if (text && !(Number(text) > 0 && (!whole || Number.isInteger(Number(text)))))
      problems[name] = whole ? 'Give a whole number above 0, or nothing.' : 'Give a number above 0, or nothing.';
  }
  const half = settings.rename.findIndex(([from, to]) => Boolean(from.trim()) !== Boolean(to.trim()));
  if (half >= 0) problems.rename = 'Give both names of each renamed collection.';
  return problems;
}

// As the console reads them. What is left out has the default of the program.
export function settingsBody(settings) {
  const body = {
    selection: {
      include: lines(settings.include),
      exclude: lines(settings.exclude),
      rename: settings.rename.map((pair) => pair.map((name) => name.trim())).filter(([from]) => from),
    },
    existing_data: settings.existing,
    verification: settings.verification,
    ddl_policy: settings.ddl,
    accept_unencrypted: settings.acceptUnencrypted,
    block_source_writes: settings.blockWrites,
  };
  body.throttle = limits(settings) ?? {};
  if (settings.walkers.trim()) body.walkers = Number(settings.walkers);
  if (settings.maxLag.trim()) body.max_lag_ms = Math.round(Number(settings.maxLag) * 1000);
  if (settings.window.trim()) body.cutover_window_ms = Math.round(Number(settings.window) * 3_600_000);
  return body;
}

// Limits as they are typed, in MB and operations per second; null if there is none.
export function limits({ copyLimit, changeLimit }) {
  const copy = copyLimit.trim() ? Math.round(Number(copyLimit) * 1e6) : null;
  const changes = changeLimit.trim() ? Number(changeLimit) : null;
  return copy === null && changes === null
    ? null
    : { copy_bytes_per_second: copy, tail_operations_per_second: changes };
}

function lines(text) {
  return text
    .split(/[\n,]/)
    .map((line) => line.trim())
    .filter(Boolean);
}

export function settingsFacts(settings) {
  const body = settingsBody(settings);
  return factsOf(body);
}

// The settings of a migration, as the console has them.
export function factsOf(settings) {
  const selection = settings.selection ?? {};
  const hours = settings.cutover_window_ms ? `${settings.cutover_window_ms / 3_600_000} hours` : null;
  return [
    ['Migrated', selection.include?.length ? selection.include.join(', ') : 'everything'],
    selection.exclude?.length ? ['Not migrated', selection.exclude.join(', ')] : null,
    selection.rename?.length ? ['Renamed', selection.rename.map(([from, to]) => `${from} → ${to}`).join(', ')] : null,
    settings.existing_data
      ? ['Existing data on the target', EXISTING[settings.existing_data] ?? settings.existing_data]
      : null,
    settings.verification ? ['Compared', VERIFICATION[settings.verification] ?? settings.verification] : null,
    settings.ddl_policy ? ['If collections or indexes change', DDL[settings.ddl_policy] ?? settings.ddl_policy] : null,
    settings.throttle ? ['Limits', throttleText(settings.throttle)] : null,
    settings.walkers ? ['Copied at the same time', `${settings.walkers} ranges at most`] : null,
    hours ? ['Cutover window', hours] : null,
    settings.accept_unencrypted ? ['Without TLS', 'accepted'] : null,
    settings.block_source_writes ? ['Writes on the source', 'blocked by the cutover'] : null,
  ];
}

export function settingsFields(settings, update) {
  const set = (changes) => {
    Object.assign(settings, changes);
    settings.problems = {};
    update();
  };
  const area = (name, placeholder) =>
    h('textarea', {
      rows: '3',
      class: 'mono',
      spellcheck: 'false',
      autocapitalize: 'off',
      placeholder,
      value: settings[name],
      onInput: (event) => set({ [name]: event.currentTarget.value }),
    });
  return h(
    'div',
    { class: 'stack' },
    h(
      'div',
      { class: 'columns' },
      field(
        'include',
        'Migrate only',
        area('include', 'shop.*'),
        'Databases and collections, one on each line. * stands for any characters. Empty for everything.',
      ),
      field('exclude', 'Leave out', area('exclude', 'shop.tmp_*'), 'One on each line. Empty for nothing.'),
    ),
    renames(settings, set),
    existing(settings, set),
    options(settings, set),
  );
}

function renames(settings, set) {
  const change = (index, part, value) =>
    set({ rename: settings.rename.map((pair, at) => (at === index ? pair.with(part, value) : pair)) });
  const input = (index, part, label, placeholder) =>
    h('input', {
      type: 'text',
      'aria-label': `${label} ${index + 1}`,
      placeholder,
      spellcheck: 'false',
      autocapitalize: 'off',
      autocomplete: 'off',
      value: settings.rename[index][part],
      'aria-invalid': settings.problems.rename ? 'true' : undefined,
      onInput: (event) => change(index, part, event.currentTarget.value),
    });
  return h(
    'fieldset',
    { class: 'choice' },
    h('legend', {}, 'New names on the target'),
    settings.rename.map((_, index) =>
      h(
        'div',
        { key: index, class: 'rename' },
        input(index, 0, 'Name on the source', 'shop.orders'),
        h('span', { 'aria-hidden': 'true' }, '→'),
        input(index, 1, 'Name on the target', 'store.orders'),
        button('Remove', () => set({ rename: settings.rename.filter((_, at) => at !== index) }), {
          kind: 'secondary small',
          label: `Remove the new name ${index + 1}`,
        }),
      ),
    ),
    settings.problems.rename && h('p', { class: 'hint wrong' }, settings.problems.rename),
    h(
      'div',
      {},
      button('Add a new name', () => set({ rename: [...settings.rename, ['', '']] }), { kind: 'secondary small' }),
    ),
  );
}

function existing(settings, set) {
  return h(
    'div',
    { class: 'stack tight' },
    choice(
      'existing',
      'Clear any existing data on the target?',
      [
        [
          'refuse',
          'No. Do not start if there is any',
          'The check lists collections on the target that have the name of a migrated one. Other collections do not matter.',
        ],
        [
          'clear',
          'Yes, delete it',
          'At the start, collections on the target that have the name of a migrated one are dropped. Other collections stay.',
        ],
        [
          'keep',
          'No. Keep what is equal, and overwrite the rest',
          'Documents that differ are overwritten, and documents that the source does not have are deleted.',
        ],
      ],
      settings.existing,
      (existing) => set({ existing, clearConfirmed: false }),
    ),
    settings.existing === 'clear' &&
      h(
        'div',
        { class: 'confirm' },
        h(
          'div',
          { class: 'check' },
          h('input', {
            type: 'checkbox',
            id: 'clear-confirmed',
            checked: settings.clearConfirmed,
            'aria-invalid': settings.problems.clear ? 'true' : undefined,
            onChange: (event) => set({ clearConfirmed: event.currentTarget.checked }),
          }),
          h('label', { for: 'clear-confirmed' }, 'I understand that this data on the target is lost.'),
        ),
        settings.problems.clear && h('p', { class: 'hint wrong' }, settings.problems.clear),
      ),
  );
}

function options(settings, set) {
  const select = (name, words) =>
    h(
      'select',
      { value: settings[name], onChange: (event) => set({ [name]: event.currentTarget.value }) },
      Object.entries(words).map(([key, text]) => h('option', { key, value: key }, text)),
    );
  const number = (name, label, hint, placeholder) => {
    const problem = settings.problems[name];
    const input = h('input', {
      type: 'text',
      inputmode: 'decimal',
      autocomplete: 'off',
      placeholder,
      value: settings[name],
      'aria-invalid': problem ? 'true' : undefined,
      onInput: (event) => set({ [name]: event.currentTarget.value }),
    });
    const described = field(name, label, input, problem ?? hint);
    if (problem) described.props.class = 'field wrong';
    return described;
  };
  return h(
    'details',
    {
      open: Object.keys(settings.problems).some((name) =>
        ['copyLimit', 'changeLimit', 'walkers', 'maxLag', 'window'].includes(name),
      ),
    },
    h('summary', {}, 'Options'),
    h(
      'div',
      { class: 'stack' },
      h(
        'div',
        { class: 'columns' },
        field('verification', 'What is compared', select('verification', VERIFICATION)),
        field('ddl', 'If collections or indexes change on the source', select('ddl', DDL)),
        number(
          'copyLimit',
          'Limit of the copy, in MB per second',
          'Empty for no limit. Can be changed later.',
          'no limit',
        ),
        number(
          'changeLimit',
          'Limit of followed changes, in operations per second',
          'Empty for no limit. Can be changed later.',
          'no limit',
        ),
        number('walkers', 'Ranges that are copied at the same time', 'Fewer are a smaller load for the source.', '4'),
        number('maxLag', 'Largest lag for the green light, in seconds', null, '2'),
        number(
          'window',
          'Cutover window, in hours',
          'How long the run follows the source once it is ready. It can be extended.',
          '120',
        ),
      ),
      check(
        'accept-unencrypted',
        'Accept connections without TLS',
        settings.acceptUnencrypted,
        (acceptUnencrypted) => set({ acceptUnencrypted }),
        'Only for a private network: documents are readable on it.',
      ),
      check(
        'block-writes',
        'Block writes on the source at the cutover',
        settings.blockWrites,
        (blockWrites) => set({ blockWrites }),
        'From MongoDB 6.0 on. The user of the source also needs the role backup. The block stays after a complete cutover.',
      ),
    ),
  );
}
