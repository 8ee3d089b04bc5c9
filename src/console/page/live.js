// What is known of one migration, kept up to date by the console's stream of events.

import { connection, fetched, get, path, post, put } from './api.js';
import { normal } from './words.js';

// The stream has something each second. After this much silence it counts as lost.
const SILENCE_MS = 6_000;
// A page that nobody looks at gives its connection back: browsers allow only a few to one host.
const HIDDEN_MS = 20_000;
// The console keeps as many for each migration.
const EVENTS = 1_000;
const LONGEST_DELAY_MS = 5_000;
const POLL_MS = 2_000;
// Both sides are asked for a document.
const DOCUMENTS_MS = 60_000;

export class Live {
  constructor(id, changed) {
    this.id = id;
    this.changed = changed;
    this.readOnly = false;
    this.detail = null;
    this.events = [];
    this.problem = null;
    this.lastId = null;
    this.heardAt = Date.now();
    this.ended = new AbortController();
    this.onVisible = () => this.wake?.();
    document.addEventListener('visibilitychange', this.onVisible);
    this.follow();
  }

  stop() {
    this.ended.abort();
    document.removeEventListener('visibilitychange', this.onVisible);
    this.wake?.();
  }

  now() {
    return Date.now();
  }

  // Loads everything, the plan included, which the stream leaves out.
  async reload() {
    try {
      this.take(await get(path(this.id), this.ended.signal));
    } catch (problem) {
      if (this.ended.signal.aborted) return;
      if (problem.status === 404) this.problem = problem;
      this.changed();
    }
  }

  take(detail) {
    const plan = 'plan' in detail ? detail.plan : (this.detail?.plan ?? null);
    this.detail = normal({ ...detail, plan });
    this.problem = null;
    this.heardAt = Date.now();
    this.changed();
  }

  // Does one of the actions. Its answer is the new state.
  async act(action, body) {
    const detail = await post(path(this.id, action), body);
    if (detail?.id === this.id) this.take(detail);
    return detail;
  }

  async setEndpoints(endpoints) {
    this.take(await put(path(this.id, 'endpoints'), endpoints));
  }

  async preflight() {
    const plan = await post(path(this.id, 'preflight'));
    if (this.detail) this.take({ ...this.detail, plan });
    return plan;
  }

  collections({ filter = '', phase = '', sort = 'name', offset = 0, limit = 25 }) {
    const query = new URLSearchParams({ sort, offset, limit });
    if (filter) query.set('filter', filter);
    if (phase) query.set('phase', phase);
    return get(`${path(this.id, 'collections')}?${query}`, this.ended.signal);
  }

  async history() {
    return (await get(path(this.id, 'history'), this.ended.signal)).samples;
  }

  documents(namespace, id) {
    const query = new URLSearchParams({ namespace, id });
    return get(`${path(this.id, 'documents')}?${query}`, this.ended.signal, DOCUMENTS_MS);
  }

  async follow() {
    await this.reload();
    let delay = 300;
    while (!this.ended.signal.aborted) {
      if (document.hidden) await this.untilVisible();
      if (this.ended.signal.aborted) return;
      try {
        await this.stream();
        delay = 300;
      } catch (problem) {
        if (this.ended.signal.aborted) return;
        if (problem.status === 404) {
          this.problem = problem;
          this.changed();
        }
        // Too many streams are open: ask now and then instead.
        if (problem.status === 503) await this.reload();
      }
      await this.sleep(delay);
      delay = this.problem || !connection.lostAt ? POLL_MS : Math.min(delay * 2, LONGEST_DELAY_MS);
    }
  }

  // Reads the stream until it ends. Throws the problem if there is none.
  async stream() {
    const end = new AbortController();
    const stop = () => end.abort();
    this.ended.signal.addEventListener('abort', stop);
    let heard = Date.now();
    let hiddenAt = null;
    const watch = setInterval(() => {
      hiddenAt = document.hidden ? (hiddenAt ?? Date.now()) : null;
      const left = hiddenAt !== null && Date.now() - hiddenAt > HIDDEN_MS;
      const silent = hiddenAt === null && Date.now() - heard > SILENCE_MS;
      if (silent) connection.lost();
      if (left || silent) end.abort();
    }, 1_000);
    try {
      const headers = { accept: 'text/event-stream' };
      if (this.lastId !== null) headers['last-event-id'] = this.lastId;
      const answer = await fetched(path(this.id, 'events'), { headers, signal: end.signal });
      // What the stream leaves out may have changed while there was none.
      if (this.wasLost) await this.reload();
      this.wasLost = false;
      await readEvents(answer.body, (event) => {
        heard = Date.now();
        if (event) this.hear(event);
      });
      connection.lost();
    } catch (problem) {
      if (!end.signal.aborted) {
        if (problem.status === undefined) connection.lost();
        throw problem;
      }
    } finally {
      this.wasLost = true;
      clearInterval(watch);
      this.ended.signal.removeEventListener('abort', stop);
    }
  }

  hear({ id, type, data }) {
    let content;
    try {
      content = JSON.parse(data);
    } catch {
      return;
    }
    if (type === 'detail') {
      this.take(content);
      return;
    }
    if (id !== null) this.lastId = id;
    this.events.push({ at: new Date().toISOString(), ...content, type });
    if (this.events.length > EVENTS) this.events.splice(0, this.events.length - EVENTS);
    this.changed();
  }

  untilVisible() {
    return new Promise((resolve) => {
      this.wake = () => {
        if (!document.hidden || this.ended.signal.aborted) {
          this.wake = null;
          resolve();
        }
      };
      this.wake();
    });
  }

  sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.ended.signal.addEventListener('abort', () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}

// Reads server-sent events from a body. `take` gets each event, and null for anything else that shows that the console is there.
// The browser's own reader of such streams cannot continue one that it has given up, nor say why it was refused.
export async function readEvents(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let event = { id: null, type: 'message', data: [] };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    take(null);
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === '') {
        if (event.data.length) take({ ...event, data: event.data.join('\n') });
        event = { id: null, type: 'message', data: [] };
        continue;
      }
      const colon = line.indexOf(':');
      const name = colon < 0 ? line : line.slice(0, colon);
      const text = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (name === 'id') event.id = text;
      else if (name === 'event') event.type = text;
      else if (name === 'data') event.data.push(text);
    }
  }
}
