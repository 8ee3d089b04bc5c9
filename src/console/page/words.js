// What the states of a migration mean to an operator, in plain words.

import { about, counted, day, duration, progress } from './format.js';

export const PHASES = {
  preflight: 'Preparing',
  copy: 'Copying',
  index: 'Building indexes',
  catch_up: 'Catching up',
  ready: 'Ready to cut over',
  cutover: 'Cutting over',
  complete: 'Complete',
  paused: 'Paused',
  stopped: 'Stopped',
  failed: 'Failed',
};

// A start that failed, or was stopped, before there was a run has no phase of its own. To be stopped is no error.
export function normal(entry) {
  if (entry.state !== 'ended') return entry;
  const error = entry.error?.kind === 'stopped' ? null : entry.error;
  return { ...entry, error, phase: entry.phase ?? (error ? 'failed' : 'stopped') };
}

// The steps of a migration, in order. `phase` is that of a run.
export const STEPS = [
  { phase: 'preflight', name: 'Prepare' },
  { phase: 'copy', name: 'Copy' },
  { phase: 'index', name: 'Build indexes' },
  { phase: 'catch_up', name: 'Catch up and compare' },
  { phase: 'ready', name: 'Ready' },
  { phase: 'cutover', name: 'Cut over' },
  { phase: 'complete', name: 'Complete' },
];

// The index of the step that a migration is at. One that is paused or has ended is where its work was interrupted.
export function stepOf(detail) {
  const index = STEPS.findIndex((step) => step.phase === detail.phase);
  if (index >= 0) return index;
  const status = detail.status;
  if (!status || !status.position) return 0;
  if (!status.copy_complete) return 1;
  if (status.indexes.built < status.indexes.total) return 2;
  return 3;
}

// The name and the tone of a state. Tones: good, busy, warn, bad, calm.
export function badge(entry) {
  switch (entry.state) {
    case 'created':
      return { tone: 'calm', text: 'Not started' };
    case 'starting':
      return { tone: 'busy', text: 'Starting' };
    case 'stored':
      return entry.phase === 'complete' ? { tone: 'good', text: 'Complete' } : { tone: 'warn', text: 'Interrupted' };
    case 'elsewhere':
      return { tone: 'calm', text: 'Runs elsewhere' };
    default:
  }
  if (entry.phase !== 'complete' && isCuttingOver(entry)) return { tone: 'busy', text: PHASES.cutover };
  const tones = { ready: 'good', complete: 'good', failed: 'bad', paused: 'warn', stopped: 'calm' };
  return { tone: tones[entry.phase] ?? 'busy', text: PHASES[entry.phase] ?? String(entry.phase ?? 'Unknown') };
}

// Whether somebody should look at the migration.
export function needsAttention(entry) {
  return (
    Boolean(entry.error) || entry.differences > 0 || entry.warnings > 0 || entry.phase === 'failed' || isStored(entry)
  );
}

export function isStored(entry) {
  return entry.state === 'stored' && entry.phase !== 'complete';
}

export function isComplete(detail) {
  return detail.phase === 'complete' || detail.summary?.outcome === 'complete';
}

// Green light: everything is copied, indexed and compared, and the lag is small.
export function isGreen(entry) {
  return Boolean(entry.can_cut_over) && entry.phase === 'ready' && !isCuttingOver(entry);
}

// Whether a cutover is in progress. Until the applications are stopped, the phase is still that of before; then a run can only be stopped.
export function isCuttingOver(entry) {
  if (entry.phase === 'cutover' || entry.cutover?.steps?.some((step) => step.state === 'running')) return true;
  const can = (action) => entry.actions?.includes(action);
  return entry.state === 'running' && can('abandon') && !can('pause') && !can('resume');
}

// What happens now, and what the operator should do next.
export function situation(detail) {
  switch (detail.state) {
    case 'created':
      return { now: 'Nothing has been read or written yet.', next: 'Validate both sides, then start the migration.' };
    case 'starting':
      return {
        now: 'The run connects to both sides, checks them, and prepares the target.',
        next: 'Wait. Usually this takes less than a minute.',
      };
    case 'stored':
      return stored(detail);
    case 'elsewhere':
      return {
        now: `Another process runs this migration${owner(detail.owner)}.`,
        next: 'Use that process. If it was killed, its lease ends after 6 seconds, and the migration can go on here.',
      };
    default:
      return running(detail);
  }
}

export function owner(held) {
  if (!held) return '';
  const since = held.since ? `, since ${day(held.since)}` : '';
  return `: process ${held.process} on the host ${held.host}${since}`;
}

function stored(detail) {
  if (detail.phase === 'complete') {
    return { now: 'The migration was completed before this program was started.', next: 'Nothing has to be done.' };
  }
  const connected = detail.actions?.includes('start');
  return {
    now: 'The target has the checkpoint of this migration, from before a restart of this program. Nothing runs at the moment.',
    next: connected
      ? 'Go on: the migration continues from its checkpoint.'
      : 'Give the connection to the source again, then go on. The migration continues from its checkpoint.',
  };
}

function running(detail) {
  const status = detail.status;
  if (isCuttingOver(detail)) return CUTTING_OVER;
  const left = status?.time_left_ms;
  switch (detail.phase) {
    case 'preflight':
      return {
        now: 'The run checks both sides, lists the source, and creates the collections on the target.',
        next: 'Wait. Usually this takes some seconds.',
      };
    case 'copy':
      return {
        now: `Documents are copied, and the changes of the source are followed${left ? `. The copy ends in ${about(left)}` : ''}.`,
        next: 'Nothing has to be done. The applications continue to use the source.',
      };
    case 'index':
      return {
        now: 'Everything is copied. The target builds the indexes.',
        next: 'Nothing has to be done. The applications continue to use the source.',
      };
    case 'catch_up':
      return {
        now: `The last changes are applied${status?.all_compared === false ? ', and both sides are compared' : ''}.`,
        next: detail.differences
          ? 'Look at the differences below.'
          : 'Nothing has to be done. The green light comes next.',
      };
    case 'ready':
      return ready(detail);
    case 'paused': {
      const reach = status?.oplog_time_left_ms;
      return {
        now: 'The run is paused: it reads and writes nothing. The lag grows.',
        next: reach
          ? `Resume within ${duration(reach)}, as long as the oplog of the source reaches back.`
          : 'Resume it when you are ready.',
      };
    }
    case 'complete':
      return { now: 'The cutover is complete.', next: 'Restart the applications with the new connection string.' };
    case 'stopped':
      return {
        now: 'The run was stopped. Its checkpoint is kept.',
        next: 'Start it again to continue from the checkpoint.',
      };
    case 'failed':
      return {
        now: status ? 'The run ended with an error. Its checkpoint is kept.' : 'The start failed.',
        next: advice(detail.error ?? status?.failure),
      };
    default:
      return { now: 'The state is not known to this page.', next: 'Reload the page.' };
  }
}

function ready(detail) {
  if (!detail.can_cut_over)
    return {
      now: 'Everything is copied, but the lag is too large at the moment.',
      next: 'Wait until it is small again.',
    };
  const compared = detail.status?.all_compared ? ', and both sides are the same' : '';
  return {
    now: `Everything is copied and indexed${compared}. The target is ${duration(detail.lag_ms)} behind.`,
    next: `Choose the moment, then prepare to cut over. The applications stand still for ${about(detail.cutover_estimate_ms)}.`,
  };
}

const CUTTING_OVER = {
  now: 'The cutover is in progress.',
  next: 'Keep the applications stopped until the result is shown.',
};

const ADVICE = {
  invalid_configuration: 'Correct the value that the message names, then start again.',
  refused: 'Correct each finding below, then start again.',
  connection:
    'Check that the named servers are up and can be reached, and that a majority of their members is up. Then start again.',
  unauthorized: 'Grant what is missing, or correct user and password. Then start again.',
  snapshot_unavailable: 'Start again at a time of fewer writes, or with fewer walkers.',
  position_lost: 'Enlarge the oplog of the source, then start again.',
  primary_changed: 'Find out why the elections of the target do not end, then start again.',
  unsupported_entry:
    'The message names a change that this version cannot apply. Exclude that namespace, or use a newer version.',
  target_refused: 'Remove the cause that the message names, on the target or on the source. Then start again.',
  target_blocked: 'Make room on the target, or unblock its writes. Then start again.',
  version_changed: 'Wait until the change of the version is complete on all members, then start again.',
  checkpoint_mismatch: 'Use the id and the two sides that belong to this migration, or forget it and begin anew.',
  already_complete: 'The migration is complete: use the target.',
  lease_held: 'Another process runs this migration. Let it finish, or stop it and start again.',
  lease_lost: 'Another process has taken this migration over. Look at that process.',
  writes_after_stop: 'Find the program that still wrote to the source and stop it. Then cut over again.',
  hook: 'Correct the hook of the host program that the message names. Then try again.',
  rule: 'Correct the filter or transform that the message names, or the document. Then start again.',
  catalog_changed: 'Find out who changed the collections of the source. Then start again.',
  wrong_phase: 'The message says what is possible now.',
  operations_under_way: 'End the named transactions or operations, then cut over again.',
  window_closed: 'Start again, which begins a new cutover window. Extend it earlier next time.',
  stopped: 'Start again to continue from the checkpoint.',
  protocol: 'Start again. If it happens again, report it with the message.',
  panic: 'Start again, and report it with the message: it is a defect of the program.',
  io: 'Check that the disk of this program is writable and has space. Then start again.',
  server: 'Correct what the message of the server says, then start again.',
};

// What to do about an error.
export function advice(error) {
  return ADVICE[error?.kind] ?? 'Read the message, correct its cause, then start again.';
}

export const EXISTING = {
  refuse: 'Do not start if the target has data of the same name',
  clear: 'Delete it',
  keep: 'Keep what is equal, and overwrite the rest',
};

export const VERIFICATION = {
  continuous: 'Every document, already during the run',
  digest: 'Every document, at the cutover only',
  none: 'Options and indexes only, no documents',
};

export const DDL = {
  apply: 'Apply the change to the target',
  warn: 'Apply the change, and warn',
  fail: 'End the run before the change',
};

export const COLLECTION_PHASES = {
  waiting: 'Waiting',
  copying: 'Copying',
  copied: 'Copied',
  indexing: 'Building indexes',
  following: 'Following',
};

export const DIFFERENCE_KINDS = {
  missing: 'Missing on the target',
  extra: 'Only on the target',
  different: 'Different',
};

// The progress of an entry in words and percent, for the list and the header.
export function progressOf(entry) {
  const value = isComplete(entry) ? 100 : progress(entry.copied, entry.total);
  if (value === null) return { value: null, text: 'Nothing copied yet' };
  return { value, text: entry.copied ? counted(entry.copied.documents, 'document') : '' };
}

// A limit in words. Limits are kept in bytes, and people think in MB.
export function throttleText(throttle) {
  const parts = [];
  if (throttle?.copy_bytes_per_second) parts.push(`copy: ${throttle.copy_bytes_per_second / 1e6} MB/s`);
  if (throttle?.tail_operations_per_second) parts.push(`changes: ${throttle.tail_operations_per_second} operations/s`);
  return parts.length ? parts.join(', ') : 'no limit';
}
