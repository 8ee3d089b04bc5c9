// The settings of a migration, and what to attach to a report.

import { path } from './api.js';
import { h } from './dom.js';
import { download, facts, problemNotice, snippet } from './parts.js';
import { position } from './format.js';
import { factsOf } from './settings.js';

export class SupportPart {
  constructor(screen) {
    this.screen = screen;
    this.problem = null;
  }

  view(detail) {
    return [
      h(
        'section',
        { class: 'panel', 'aria-labelledby': 'settings' },
        h('h2', { id: 'settings' }, 'Settings'),
        facts([members('Members of the source', detail.source), members('Members of the target', detail.target)]),
        detail.settings
          ? facts(factsOf(detail.settings))
          : h(
              'p',
              {},
              this.screen.live.readOnly
                ? 'A recording has no settings.'
                : 'The program that hosts this console has set them.',
            ),
      ),
      h(
        'section',
        { class: 'panel', 'aria-labelledby': 'support' },
        h('h2', { id: 'support' }, 'Support'),
        h(
          'p',
          {},
          'Attach these to a report, with the time at which something went wrong and what you expected. None of them contains documents, passwords or connection strings. They do contain names of hosts, databases, collections and fields, and _ids of documents that differ.',
        ),
        !this.screen.live.readOnly && this.downloads(detail),
        problemNotice(this.problem, 'The download failed'),
        h('h3', {}, 'In short'),
        snippet(shortly(detail, this.screen.app.info), 'the short report'),
      ),
    ];
  }

  downloads(detail) {
    const report = (problem) => {
      this.problem = problem;
      this.screen.update();
    };
    const item = (name, text, file, what) =>
      h(
        'li',
        { key: name },
        download(text, path(detail.id, name), `${detail.id}-${file}`, report),
        h('p', { class: 'hint' }, what),
      );
    return h(
      'ul',
      { class: 'downloads' },
      item('findings', 'Findings', 'findings.json', 'What the last validation found.'),
      item(
        'differences',
        'Differences',
        'differences.json',
        'What differs between both sides: _ids, names of fields and hashes, no values.',
      ),
      item(
        'recording',
        'Recording',
        'recording.jsonl',
        'Everything that this page showed during the run. It can be played again under Replay.',
      ),
      detail.certificate &&
        item('certificate', 'Certificate', 'certificate.bson', 'The result of the cutover, to keep.'),
    );
  }
}

function members(name, side) {
  return side?.hosts?.length ? [name, side.hosts.join(', ')] : null;
}

function shortly(detail, info) {
  const { status, error } = detail;
  const lines = [
    `mongoferry ${info?.version ?? ''}`.trim(),
    `migration ${detail.id}: ${detail.state}, phase ${detail.phase ?? 'none'}, direction ${detail.direction}`,
    detail.plan?.source?.name &&
      `versions: ${detail.plan.source.version.join('.')} -> ${detail.plan.target.version.join('.')}`,
    status &&
      `position ${position(status.position)}, lag ${status.lag_ms} ms, copied ${status.copied.documents} of ${status.total.documents} documents, retries ${status.retries}`,
    `differences ${detail.differences}, warnings ${detail.warnings}`,
    error && `error ${error.kind} (${error.operation}): ${error.message}`,
  ];
  return lines.filter(Boolean).join('\n');
}
