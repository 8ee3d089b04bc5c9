// Events as lines for people, with their weight: `bad`, `warn`, `wait` or `info`.

import { counted, day, duration } from './format.js';
import { PHASES } from './words.js';

const WEIGHTS = {
  failed: 'bad',
  resync: 'warn',
  falling_behind: 'warn',
  oplog_window_short: 'warn',
  cutover_window_short: 'warn',
  index_failed: 'warn',
  document_refused: 'warn',
  rule_failed: 'warn',
  document_differs: 'warn',
  foreign_write: 'warn',
  foreign_writes_not_watched: 'warn',
  writes_after_stop: 'warn',
  source_write_block_stays: 'bad',
  open_transactions: 'warn',
  left_selection: 'warn',
  users_not_carried: 'warn',
  members_changed: 'warn',
  feature_compatibility_changed: 'warn',
  catalog_change_met: 'warn',
  hook_failed: 'warn',
  recording_failed: 'warn',
  waiting: 'wait',
  retrying: 'wait',
};

export function weight(event) {
  if (event.type === 'verified' && !event.identical) return 'warn';
  return WEIGHTS[event.type] ?? 'info';
}

const STEP_TEXT = {
  stop_writes: 'the applications are being stopped',
  drain: 'the last changes are applied',
  compare: 'both sides are compared',
  finish: 'the last checkpoint is saved',
};

const TEXTS = {
  phase_changed: (e) => `Phase: ${PHASES[e.phase] ?? e.phase}`,
  failed: (e) => `The run ended: ${e.error?.message ?? 'an error'}`,
  started: (e) => (e.resumed ? 'Continued from the checkpoint' : 'Started from the beginning'),
  resync: (e) =>
    `The oplog of the source no longer reaches back (gap of ${duration(e.gap_ms)}): everything is compared with the source (${e.reason})`,
  falling_behind: (e) =>
    `Falling behind: the source writes ${whole(e.source_rate)} operations per second, and ${whole(e.applied_rate)} are applied. Give the target more resources, or reduce the load`,
  oplog_window_short: (e) =>
    `The oplog of the source spans ${duration(e.window_ms)}, and will no longer contain the position ${e.time_left_ms === null ? 'soon' : `in ${duration(e.time_left_ms)}`}. Enlarge it (replSetResizeOplog), or resume the run`,
  cutover_window_short: (e) =>
    `The cutover window ends in ${duration(e.left_ms)} (${day(e.deadline)}). It can be extended`,
  collection_copied: (e) => `${e.namespace} is copied`,
  index_built: (e) => `Index ${e.name} of ${e.namespace} is built`,
  index_failed: (e) => `Index ${e.name} of ${e.namespace} cannot be built: ${e.reason}`,
  catalog_changed: (e) => `Applied to the target: ${e.description}`,
  catalog_change_met: (e) => `The source changed ${e.namespace} by ${e.change}`,
  left_selection: (e) => `${e.from} was renamed out of the selection, to ${e.to}, and is dropped on the target`,
  document_refused: (e) => `${e.namespace}: the document with _id ${e.id} was refused: ${e.reason}`,
  rule_failed: (e) => `${e.namespace}: the document with _id ${e.id} is left out: ${e.reason}`,
  waiting: wait,
  open_transactions: (e) =>
    `The cutover waits for ${counted(e.transactions.length, 'open transaction')} on the source: ${e.transactions
      .slice(0, 3)
      .map((one) => `of ${one.client} for ${duration(one.open_ms)}`)
      .join(', ')}`,
  retrying: (e) => `Trying again in ${duration(e.delay_ms)}: ${e.cause}`,
  checkpoint_saved: () => 'A checkpoint is saved',
  writes_after_stop: (e) =>
    `The source was written to after the applications were stopped${e.accepted ? ' (these writes are accepted)' : ''}: ${lateWrites(e)}`,
  source_writes_blocked: () => 'Writes on the source are blocked',
  source_writes_unblocked: () => 'Writes on the source are no longer blocked',
  source_write_block_stays: (e) =>
    `The block of writes on the source cannot be lifted: ${e.reason}. On the source, run: db.adminCommand({ setUserWriteBlockMode: 1, global: false })`,
  verified: (e) =>
    e.identical ? `${e.namespace} is identical on both sides` : `${e.namespace} differs between both sides`,
  document_differs: (e) => `${e.namespace}: the document with _id ${e.id} ${differs(e)}`,
  foreign_write: (e) =>
    `Another program writes to ${e.namespace} on the target: ${counted(e.writes, 'write')} so far. Stop it`,
  foreign_writes_not_watched: (e) => `Writes of other programs to the target are not seen: ${e.reason}`,
  users_carried: (e) =>
    `Users and roles: ${e.put} made or changed, ${e.dropped} dropped; ${e.carried} are the same on both sides`,
  users_not_carried: (e) => `Users and roles are not carried: ${e.reason}`,
  members_changed: (e) =>
    `The members of the ${e.side} have changed${list(', added ', e.added)}${list(', removed ', e.removed)}`,
  feature_compatibility_changed: (e) =>
    `The feature compatibility version of the ${e.side} was changed from ${e.from.join('.')} to ${e.to.join('.')}`,
  hook_failed: (e) => `The hook ${e.hook} of the host program failed: ${e.reason}`,
  recording_failed: (e) => `The recording cannot be written: ${e.reason}`,
  cutover_step: (e) => `Cutover: ${STEP_TEXT[e.step] ?? e.step}`,
  recording: (e) => `The program with version ${e.version} began to record`,
  call: (e) => {
    const call = String(e.call).replaceAll('_', ' ');
    return e.error ? `The host asked for: ${call}, which failed: ${e.error.message}` : `The host asked for: ${call}`;
  },
  missed: (e) => `${counted(e.events, 'event')} not shown: the page was away for too long, or read too slowly`,
};

// An event of a newer version is shown with its fields, which contain no documents.
export function eventText(event) {
  const write = TEXTS[event.type];
  if (write) return write(event);
  const { type, at, ...fields } = event;
  return `${type}: ${JSON.stringify(fields)}`;
}

// "Connect to db1.example, for 4 s of at most 30 s".
export function wait(event) {
  const limit =
    event.limit_ms === null || event.limit_ms === undefined ? '' : ` of at most ${duration(event.limit_ms)}`;
  return `Waiting for the ${event.side}, for ${duration(event.elapsed_ms)}${limit}: ${event.operation}`;
}

export function lateWrites(writes) {
  const named = (writes.named ?? [])
    .slice(0, 5)
    .map((one) => (one.id === null ? one.namespace : `${one.namespace} ${one.id}`));
  return `${counted(writes.count, 'write')}${named.length ? `: ${named.join(', ')}` : ''}`;
}

export function differs(difference) {
  if (difference.kind === 'missing') return 'is missing on the target';
  if (difference.kind === 'extra') return 'is on the target only';
  return difference.paths?.length ? `differs in ${difference.paths.join(', ')}` : 'differs';
}

function whole(number) {
  return number === null || number === undefined ? 'an unknown number of' : Math.round(number);
}

function list(label, names) {
  return names.length ? label + names.join(', ') : '';
}
