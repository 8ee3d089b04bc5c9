// Numbers, amounts and times as people read them.

const WHOLE = new Intl.NumberFormat('en-US');
const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

export const NONE = '–';

export function count(number) {
  return number === null || number === undefined ? NONE : WHOLE.format(number);
}

// "1 collection", "2,000 collections".
export function counted(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function bytes(number) {
  if (number === null || number === undefined) return NONE;
  let value = number;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export function rate(number) {
  if (number === null || number === undefined) return NONE;
  return number >= 10 ? count(Math.round(number)) : number.toFixed(1);
}

// A duration to read at a glance: "0.4 s", "12 s", "3 min 20 s", "5 h 10 min", "4 d 3 h".
export function duration(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms === 0) return '0 s';
  if (ms < 9_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 10) return pair(minutes, 'min', seconds % 60, 's');
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return pair(hours, 'h', minutes % 60, 'min');
  return pair(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

function pair(large, unit, small, next) {
  return small ? `${large} ${unit} ${small} ${next}` : `${large} ${unit}`;
}

// An estimate in whole seconds or minutes, rounded up, never less than a second: "about 3 s".
export function about(ms) {
  return ms === null || ms === undefined ? 'an unknown time' : `about ${rounded(ms)}`;
}

export function rounded(ms) {
  if (ms === null || ms === undefined) return NONE;
  const unit = ms < 100_000 ? 1_000 : 60_000;
  return duration(Math.max(unit, Math.ceil(ms / unit) * unit)).replace('.0', '');
}

// A countdown that shows that it runs: "119 h 59 min 07 s".
export function countdown(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const two = (number) => String(number).padStart(2, '0');
  return `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds / 60) % 60)} min ${two(seconds % 60)} s`;
}

const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const DAY = new Intl.DateTimeFormat('en-GB', {
  weekday: 'short',
  day: 'numeric',
  month: 'short',
  hour: '2-digit',
  minute: '2-digit',
});

export function clock(at) {
  return CLOCK.format(new Date(at));
}

export function day(at) {
  return DAY.format(new Date(at));
}

// A part as a whole percentage that is 100 only when everything is done.
export function percent(part, whole) {
  if (!whole) return part ? 100 : 0;
  return Math.max(0, Math.min(part >= whole ? 100 : 99, Math.floor((part / whole) * 100)));
}

// The progress of a copy in percent: by bytes, or by documents where bytes are not known. An empty collection is complete once copied.
export function progress(copied, total) {
  if (!copied || !total) return null;
  return total.bytes ? percent(copied.bytes, total.bytes) : percent(copied.documents, total.documents);
}

export function version(numbers) {
  return numbers?.length ? numbers.join('.') : NONE;
}

export function position(value) {
  return value ? `${new Date(value.t * 1000).toISOString().replace('.000Z', 'Z')} (${value.t}:${value.i})` : NONE;
}
