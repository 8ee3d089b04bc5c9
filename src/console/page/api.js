// Calls of the console's HTTP API, relative to where the page is.

const BASE = 'api/v1/';

// How long an answer that needs no server of MongoDB may take.
const ANSWER_MS = 10_000;

const NO_ANSWER = 'The console does not answer. Check that the program which hosts it still runs, and your network.';

// An answer that is no success, or none at all (`status` 0).
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || 'The console has answered with an error.');
    this.status = status;
    this.error = body.error ?? null;
    this.findings = body.findings ?? body.error?.findings ?? [];
  }
}

// Whether the console answers. Those who listen are called when that changes.
export const connection = {
  lostAt: null,
  listeners: new Set(),
  lost() {
    if (this.lostAt === null) {
      this.lostAt = Date.now();
      this.tell();
    }
  },
  found() {
    if (this.lostAt !== null) {
      this.lostAt = null;
      this.tell();
    }
  },
  tell() {
    for (const listener of this.listeners) listener();
  },
};

// Without an answer in time, the console counts as lost: a process that is stopped keeps its connections open.
export async function get(path, signal, limit = ANSWER_MS) {
  const end = new AbortController();
  const stop = () => end.abort();
  signal?.addEventListener('abort', stop);
  const timer = setTimeout(() => {
    connection.lost();
    stop();
  }, limit);
  try {
    return await call('GET', path, undefined, end.signal);
  } catch (error) {
    if (end.signal.aborted && !signal?.aborted) throw new Problem(0, { detail: NO_ANSWER });
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}

export const post = (path, body = {}) => call('POST', path, body);
export const put = (path, body) => call('PUT', path, body);
export const remove = (path) => call('DELETE', path);

// The path of a migration, or of something of it.
export function path(id, ...rest) {
  return ['migrations', encodeURIComponent(id), ...rest].join('/');
}

async function call(method, path, body, signal) {
  const answer = await fetched(path, {
    method,
    signal,
    headers: body === undefined ? {} : { 'content-type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (answer.status === 204) return null;
  try {
    return await answer.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, { detail: 'The answer of the console broke off. Try again.' });
  }
}

// Fetches a part of the API, and throws a `Problem` unless the answer is a success.
export async function fetched(path, options = {}) {
  let answer;
  try {
    answer = await fetch(BASE + path, { cache: 'no-store', ...options });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    connection.lost();
    throw new Problem(0, { detail: NO_ANSWER });
  }
  // A proxy in front of a console that is down answers with one of these. The console itself says why.
  const own = answer.headers.get('content-type')?.startsWith('application/problem+json');
  if ([502, 504].includes(answer.status) && !own) connection.lost();
  else connection.found();
  if (answer.ok) return answer;
  let problem = {};
  try {
    problem = await answer.json();
  } catch {
    // Not every proxy answers with JSON.
  }
  problem.title ??= `The console has answered with the status ${answer.status}.`;
  throw new Problem(answer.status, problem);
}

// Saves a download under `name`. A link alone would save the text of an error as if it were the file.
export async function save(path, name) {
  const answer = await fetched(path);
  const url = URL.createObjectURL(await answer.blob());
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
