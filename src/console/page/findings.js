// Findings of a check, and errors, with what to do about them.

import { h } from './dom.js';
import { count, counted } from './format.js';
import { notice, snippet, tag } from './parts.js';
import { advice } from './words.js';

const SEVERITIES = [
  ['blocker', 'bad', 'Blocker'],
  ['warning', 'warn', 'Warning'],
  ['note', 'info', 'Note'],
];

// What can be changed in the page itself, beside the fix of the finding.
const IN_THE_PAGE = {
  existing_data: 'Or choose in the settings what happens to existing data on the target.',
  unencrypted: 'Or accept connections without TLS in the settings, if the network is private.',
  write_block_unavailable: 'Or turn off in the settings that the cutover blocks writes on the source.',
  credentials_refused: 'Correct user, password and authentication database of the connection.',
  unknown_host: 'Correct the host of the connection.',
  not_reached: 'Correct the host and the port of the connection, and open the firewalls.',
  certificate: 'Give the certificate of the authority (CA) with the connection.',
  same_target: 'Or choose other names in the settings.',
  database_case: 'Or choose other names in the settings.',
  name_too_long: 'Or choose other names in the settings.',
};

export function blockers(findings) {
  return (findings ?? []).filter((finding) => finding.severity === 'blocker').length;
}

export function summaryOf(findings) {
  return SEVERITIES.map(([key, , word]) => [
    findings.filter((finding) => finding.severity === key).length,
    word.toLowerCase(),
  ])
    .filter(([number]) => number)
    .map(([number, word]) => counted(number, word))
    .join(', ');
}

// All findings, the gravest first.
export function findingsList(findings) {
  const order = (finding) => SEVERITIES.findIndex(([key]) => key === finding.severity);
  const sorted = [...findings].sort((one, other) => order(one) - order(other));
  return h(
    'ul',
    { class: 'findings', 'aria-label': 'Findings' },
    sorted.map((finding, index) => item(finding, index)),
  );
}

function item(finding, index) {
  const [, tone, word] = SEVERITIES.find(([key]) => key === finding.severity) ?? SEVERITIES[2];
  const more = finding.affected_count - finding.affected.length;
  return h(
    'li',
    { key: `${index} ${finding.code}`, class: `finding ${tone}` },
    h('div', { class: 'finding-head' }, tag(tone, word), h('code', { class: 'code' }, finding.code)),
    h('p', { class: 'finding-message' }, marked(finding.message)),
    finding.affected.length > 0 &&
      h(
        'details',
        { open: finding.affected.length <= 3 },
        h('summary', {}, `Concerns ${counted(finding.affected_count, 'name')}`),
        h(
          'ul',
          { class: 'names' },
          finding.affected.map((name) => h('li', { key: name }, name)),
          more > 0 && h('li', { key: '' }, `and ${count(more)} more`),
        ),
      ),
    finding.fix &&
      h(
        'div',
        { class: 'fix' },
        h('p', { class: 'fix-heading' }, 'What to do'),
        fix(finding.fix),
        IN_THE_PAGE[finding.code] && h('p', {}, IN_THE_PAGE[finding.code]),
      ),
  );
}

// The text of a fix. Its commands, which are in backquotes, can be copied one by one.
function fix(text) {
  const blocks = [];
  let line = [];
  const flush = () => {
    const words = line.filter((part) => typeof part !== 'string' || part.trim());
    if (words.length && !(words.length === 1 && /^[\s.,;:]*$/.test(words[0]))) blocks.push(h('p', {}, line));
    line = [];
  };
  text.split('`').forEach((part, index) => {
    if (index % 2 === 0) line.push(blocks.length && !line.length ? part.replace(/^[;,.]?\s+/, '') : part);
    else if (isCommand(part)) {
      flush();
      blocks.push(snippet(part, 'the command'));
    } else line.push(h('code', {}, part));
  });
  flush();
  return blocks;
}

function isCommand(part) {
  return /^(db|rs|sh|use)\b.*\(/s.test(part) || part.startsWith('mongod ') || part.includes('\n');
}

// Text whose names are in backquotes.
export function marked(text) {
  return text.split('`').map((part, index) => (index % 2 ? h('code', {}, part) : part));
}

// An error that ended a run or a call.
export function errorNotice(error, heading) {
  if (!error) return null;
  const context = Object.entries(error.context ?? {});
  return notice(
    'bad',
    heading,
    h('p', {}, marked(error.message)),
    h('p', {}, h('strong', {}, 'What to do: '), advice(error)),
    h(
      'details',
      {},
      h('summary', {}, 'Details for a report'),
      h(
        'dl',
        { class: 'facts' },
        h('div', {}, h('dt', {}, 'Kind'), h('dd', {}, error.kind)),
        h('div', {}, h('dt', {}, 'While it tried to'), h('dd', {}, error.operation)),
        context.map(([name, value]) => h('div', { key: name }, h('dt', {}, name), h('dd', {}, value))),
        (error.causes ?? []).map((cause, index) =>
          h('div', { key: `cause ${index}` }, h('dt', {}, 'Cause'), h('dd', {}, cause)),
        ),
      ),
    ),
    error.findings?.length > 0 && findingsList(error.findings),
  );
}
