// Whether both sides are the same, what differs, and its repair.

import { ask } from './dialog.js';
import { h } from './dom.js';
import { bytes, count, counted, percent } from './format.js';
import { errorNotice } from './findings.js';
import { differs } from './event_text.js';
import { bar, button, icon, notice, problemNotice, tag } from './parts.js';
import { DIFFERENCE_KINDS } from './words.js';

const SHOWN = 50;

export class ComparisonPart {
  constructor(screen) {
    this.screen = screen;
    // Both sides of the documents that were asked for, by namespace and _id.
    this.documents = new Map();
    this.more = new Set();
  }

  view(detail) {
    const { screen } = this;
    const { status, verify } = detail;
    return [
      h(
        'section',
        { class: 'panel', 'aria-labelledby': 'comparison' },
        h(
          'div',
          { class: 'heading' },
          h('h2', { id: 'comparison' }, 'Comparison of both sides'),
          screen.can('verify') &&
            button(
              verify?.running ? 'Comparing …' : 'Compare everything now',
              () => screen.act('verify', { collections: [] }),
              { kind: 'secondary', disabled: verify?.running || screen.busy !== null },
            ),
        ),
        status
          ? during(status)
          : h('p', {}, 'Both sides are compared while the migration runs, and once more at the cutover.'),
        verify?.running &&
          notice(
            'busy',
            'Both sides are being compared',
            h('p', {}, 'The migration goes on meanwhile. It takes about as long as reading everything once.'),
          ),
        verify?.repaired !== null &&
          verify?.repaired !== undefined &&
          notice(
            'good',
            `${counted(verify.repaired, 'document')} repaired`,
            h('p', {}, 'Compare again to see that both sides are the same.'),
          ),
        verify?.error && errorNotice(verify.error, 'The last comparison or repair failed'),
      ),
      verify?.report ? this.report(detail, verify.report) : this.seen(status),
    ];
  }

  report(detail, report) {
    const { screen } = this;
    const different = report.collections.filter((one) => one.difference_count > 0 || one.not_compared);
    return h(
      'section',
      { class: 'panel', 'aria-labelledby': 'report' },
      h('h2', { id: 'report' }, 'Last comparison on request'),
      verdict(report, different),
      screen.can('repair') &&
        report.difference_count > 0 &&
        h(
          'div',
          { class: 'buttons' },
          button('Repair …', () => this.repair(detail, report), { disabled: screen.busy !== null }),
        ),
      different.map((one) => this.collection(detail, one)),
    );
  }

  collection(detail, one) {
    const shown = this.more.has(one.namespace) ? one.differences : one.differences.slice(0, SHOWN);
    return h(
      'div',
      { key: one.namespace, class: 'stack tight' },
      h('h3', {}, one.namespace, one.target !== one.namespace && ` → ${one.target}`),
      one.not_compared && notice('info', 'Not compared', h('p', {}, one.not_compared)),
      h(
        'ul',
        { class: 'differences' },
        shown.map((difference) => this.difference(detail, one, difference)),
      ),
      one.differences.length > shown.length &&
        h(
          'p',
          {},
          button(
            `Show all ${count(one.differences.length)}`,
            () => (this.more.add(one.namespace), this.screen.update()),
            { kind: 'secondary small' },
          ),
        ),
      one.difference_count > one.differences.length &&
        h(
          'p',
          { class: 'quiet' },
          `The first ${count(one.differences.length)} of ${count(one.difference_count)} are listed.`,
        ),
    );
  }

  difference(detail, collection, difference) {
    const key = `${collection.namespace} ${difference.id}`;
    const open = this.documents.get(key);
    return h(
      'li',
      { key },
      h(
        'div',
        { class: 'difference-head' },
        tag('bad', DIFFERENCE_KINDS[difference.kind] ?? difference.kind),
        h('code', {}, difference.id),
        h('span', { class: 'quiet' }, difference.kind === 'different' ? differs(difference) : ''),
      ),
      detail.documents_on_request &&
        !this.screen.live.readOnly &&
        button(
          open ? 'Hide the documents' : 'Show both sides',
          () => this.toggle(collection.namespace, difference.id),
          { kind: 'secondary small', label: `${open ? 'Hide' : 'Show'} both sides of the document ${difference.id}` },
        ),
      open?.problem && problemNotice(open.problem, 'The documents cannot be shown'),
      open?.pair && both(open.pair, difference),
    );
  }

  async toggle(namespace, id) {
    const key = `${namespace} ${id}`;
    if (this.documents.delete(key)) {
      this.screen.update();
      return;
    }
    try {
      this.documents.set(key, { pair: await this.screen.live.documents(namespace, id) });
    } catch (problem) {
      this.documents.set(key, { problem });
    }
    this.screen.update();
  }

  repair(detail, report) {
    return ask({
      title: `Repair ${counted(report.difference_count, 'document')}?`,
      body: () => [
        h(
          'p',
          {},
          'Each document of the list is read again from the source and written to the target. Documents that are on the target only are deleted there.',
        ),
        h('p', {}, 'The source is only read.'),
      ],
      confirm: 'Repair',
      act: () => this.screen.live.act('repair'),
    });
  }

  // What the run itself has seen, before anybody asks for a comparison.
  seen(status) {
    const events = this.screen.live.events
      .filter((event) => event.type === 'document_differs')
      .slice(-SHOWN)
      .reverse();
    if (!events.length && !status?.differences) return null;
    return h(
      'section',
      { class: 'panel', 'aria-labelledby': 'seen' },
      h('h2', { id: 'seen' }, 'Differences seen during the run'),
      h('p', {}, 'Compare everything now for the whole list, which can then be repaired.'),
      h(
        'ul',
        { class: 'differences' },
        events.map((event, index) =>
          h(
            'li',
            { key: index },
            h(
              'div',
              { class: 'difference-head' },
              tag('bad', DIFFERENCE_KINDS[event.kind] ?? event.kind),
              h('strong', {}, event.namespace),
              h('code', {}, event.id),
              h('span', { class: 'quiet' }, differs(event)),
            ),
          ),
        ),
      ),
    );
  }
}

// A collection may have no order in which it can be compared while it is written to. That is no difference.
function verdict(report, different) {
  if (report.difference_count > 0) {
    const cause =
      'Usually another program wrote to the target, or the target refused a document. Stop that program, then repair: the target gets what the source has.';
    return notice('bad', `${counted(report.difference_count, 'document')} differ`, h('p', {}, cause));
  }
  const documents = report.collections.reduce((sum, one) => sum + one.documents, 0);
  const amount = `${counted(report.collections.length - different.length, 'collection')}, ${counted(documents, 'document')}.`;
  if (report.identical) return notice('good', 'Both sides are identical', h('p', {}, amount));
  const rest = `Not compared now: ${counted(different.length, 'collection')}. See below.`;
  return notice('info', 'No differences in what was compared', h('p', {}, amount), h('p', {}, rest));
}

function during(status) {
  const value = status.all_compared ? 100 : percent(status.compared.bytes, status.total.bytes);
  return h(
    'div',
    { class: 'stack tight' },
    h(
      'p',
      {},
      status.all_compared
        ? h(
            'span',
            { class: status.differences ? 'bad-text' : 'good-text' },
            icon(status.differences ? 'bad' : 'good'),
            'Everything has been compared that can be compared during the run',
          )
        : `Compared so far: ${value} %`,
    ),
    h('p', { class: 'wide-bar' }, bar(value, status.differences ? 'bad' : 'good')),
    h(
      'p',
      { class: 'quiet' },
      `Read for it, some more than once: ${counted(status.compared.documents, 'document')}, ${bytes(status.compared.bytes)}. ${counted(status.differences, 'difference')}.`,
    ),
  );
}

// Both documents side by side, with the lines of fields that differ marked.
function both(pair, difference) {
  const paths = new Set((difference.paths ?? []).map((path) => path.split('.')[0]));
  const side = (name, text) =>
    h(
      'div',
      {},
      h('h4', {}, name),
      text === null
        ? h('p', { class: 'empty' }, 'There is no such document.')
        : h(
            'pre',
            { class: 'document', tabindex: '0', role: 'group', 'aria-label': `Document of the ${name.toLowerCase()}` },
            fields(text, paths),
          ),
    );
  return h('div', { class: 'both' }, side('Source', pair.source), side('Target', pair.target));
}

// The console sends extended JSON, as text or as an object.
function fields(document, paths) {
  let parsed = document;
  if (typeof document === 'string') {
    try {
      parsed = JSON.parse(document);
    } catch {
      return document;
    }
  }
  return Object.entries(parsed).map(([name, value]) => {
    const line = `${JSON.stringify(name)}: ${JSON.stringify(value, null, 2)}\n`;
    return paths.has(name) ? h('mark', { key: name }, line) : h('span', { key: name }, line);
  });
}
