// Shows the screen that the address names, and keeps the frame around it.

import { connection, get } from './api.js';
import { announce, h, render } from './dom.js';
import { clock } from './format.js';
import { button, notice } from './parts.js';
import { ListScreen } from './list.js';
import { MigrationScreen } from './migration.js';
import { NewScreen } from './create.js';
import { ReplayScreen } from './replay.js';

const app = {
  // What the console allows; null until it has said so.
  info: null,
  screen: null,
  // The difference between the console's clock and that of this machine.
  clockOffset: 0,
  update,
  go(hash) {
    if (location.hash === hash) route();
    else location.hash = hash;
  },
  now() {
    return Date.now() + app.clockOffset;
  },
};

let planned = false;
let shownTitle = null;

function update() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    draw();
  });
}

function draw() {
  const screen = app.screen;
  const title = screen.title();
  document.title = `${title} – mongoferry`;
  const lost = connection.lostAt !== null && !screen.offline;
  render(
    document.getElementById('page'),
    h(
      'header',
      { class: 'top' },
      h('a', { class: 'brand', href: '#/' }, logo(), h('span', {}, 'mongoferry')),
      h(
        'nav',
        { 'aria-label': 'Console' },
        link('#/', 'Migrations', screen.section === 'list'),
        app.info?.can_create && link('#/new', 'New migration', screen.section === 'new'),
        link('#/replay', 'Replay', screen.section === 'replay'),
      ),
    ),
    h('div', { class: 'lost', role: 'alert' }, lost && lostNotice()),
    h('main', { id: 'main', tabindex: '-1', class: lost ? 'old' : '' }, screen.view()),
    h('footer', { class: 'bottom' }, app.info ? `mongoferry ${app.info.version}` : 'mongoferry'),
  );
  screen.drawn?.();
  if (shownTitle !== null && shownTitle !== screen.place) {
    document.getElementById('main').focus({ preventScroll: true });
    window.scrollTo(0, 0);
    announce(title);
  }
  shownTitle = screen.place;
}

function logo() {
  return h(
    'svg',
    { viewBox: '0 0 24 24', class: 'logo', 'aria-hidden': 'true' },
    h('path', { d: 'M3 14h18l-3 6H6zM6 14V9h8l3 5M9 9V5' }),
  );
}

function link(href, text, current) {
  return h('a', { href, 'aria-current': current ? 'page' : undefined }, text);
}

function lostNotice() {
  return notice(
    'bad',
    'The console does not answer',
    h(
      'p',
      {},
      `What you see is from ${clock(connection.lostAt)} or before. This page tries again by itself, and keeps what you have typed. The migration runs on as long as its program does.`,
    ),
    button('Try now', load, { kind: 'secondary small' }),
  );
}

function route() {
  const [name = '', id, tab = ''] = location.hash.replace(/^#\/?/, '').split('/').map(decoded);
  const place = `${name}/${id ?? ''}`;
  const wanted = { new: NewScreen, m: MigrationScreen, replay: ReplayScreen }[name] ?? ListScreen;
  const key = wanted === MigrationScreen ? place : name;
  if (app.screen?.key !== key || !(app.screen instanceof wanted)) {
    app.screen?.stop?.();
    app.screen = new wanted(app, id);
    app.screen.key = key;
  }
  app.screen.place = location.hash;
  app.screen.show?.(wanted === ReplayScreen ? (id ?? '') : tab);
  update();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// Asks what the console allows. Tries again until it answers.
async function load() {
  try {
    app.info = await get('console');
    app.clockOffset = app.info.now ? new Date(app.info.now).getTime() - Date.now() : 0;
  } catch (problem) {
    app.infoProblem = problem;
  }
  update();
}

function keepAsking() {
  if (app.info === null || connection.lostAt !== null) load();
}

connection.listeners.add(update);
window.addEventListener('hashchange', route);
window.addEventListener('resize', update);
// A page that the browser keeps for its back button gives its connection back.
window.addEventListener('pagehide', () => app.screen.stop?.());
window.addEventListener('pageshow', (event) => {
  if (event.persisted) {
    app.screen = null;
    route();
  }
});
setInterval(keepAsking, 3_000);
// Countdowns and times that were "seconds ago" move on.
setInterval(update, 1_000);
// The address after # names the screen, so a link within the page cannot use it.
document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault();
  document.getElementById('main').focus();
});
load();
route();
