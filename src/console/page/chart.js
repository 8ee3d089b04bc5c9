// The lag and the rate of changes over time.

import { h } from './dom.js';
import { NONE, bytes, clock, day, duration, rate } from './format.js';

const HEIGHT = 190;
const LEFT = 54;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 26;
const RELOAD_MS = 10_000;

const SERIES = {
  lag: {
    name: 'Lag',
    of: (sample) => sample.lag_ms,
    text: duration,
    steps: [
      1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000,
      21_600_000, 86_400_000,
    ],
    least: 2_000,
  },
  applied: {
    name: 'Changes applied per second',
    of: (sample) => sample.applied_per_second,
    text: rate,
    steps: null,
    least: 10,
  },
  copied: { name: 'Copied', of: (sample) => sample.copied_bytes, text: bytes, steps: null, least: 1_000 },
};

export class LagChart {
  constructor(screen) {
    this.screen = screen;
    this.whole = false;
    this.series = 'lag';
    this.history = null;
    this.loadedAt = null;
    this.width = 720;
    this.hover = null;
  }

  view(detail) {
    if (this.whole) this.load();
    const shown = SERIES[this.whole ? this.series : 'lag'];
    const samples = (this.whole ? (this.history ?? []) : (detail.status?.lag_history ?? []))
      .map((sample) => ({ at: new Date(sample.at).getTime(), value: shown.of(sample) }))
      .filter((sample) => sample.value !== null && sample.value !== undefined);
    return h(
      'section',
      { class: 'panel', 'aria-labelledby': 'chart' },
      h(
        'div',
        { class: 'heading' },
        h('h2', { id: 'chart' }, shown.name),
        h(
          'div',
          { class: 'filters', role: 'group', 'aria-label': 'Time shown' },
          this.toggle('Last 10 minutes', !this.whole, () => (this.whole = false)),
          this.toggle('Whole run', this.whole, () => (this.whole = true)),
        ),
        this.whole &&
          h(
            'div',
            { class: 'filters', role: 'group', 'aria-label': 'What is shown' },
            Object.entries(SERIES).map(([key, series]) =>
              this.toggle(series.name, this.series === key, () => (this.series = key)),
            ),
          ),
      ),
      samples.length < 2
        ? h(
            'p',
            { class: 'empty' },
            this.whole && !this.history ? 'Loading …' : 'Shown as soon as there are some values.',
          )
        : [this.drawing(samples, shown), alternative(samples, shown)],
    );
  }

  toggle(text, pressed, change) {
    return h(
      'button',
      {
        key: text,
        type: 'button',
        class: 'filter',
        'aria-pressed': String(pressed),
        onClick: () => (change(), (this.hover = null), this.screen.update()),
      },
      text,
    );
  }

  async load() {
    const { live } = this.screen;
    // A recording has everything at hand, and changes only with its time.
    const now = live.readOnly ? live.at : Math.floor(Date.now() / RELOAD_MS);
    if (now === this.loadedAt) return;
    this.loadedAt = now;
    try {
      this.history = await live.history();
    } catch {
      // The banner says that the console does not answer.
    }
    this.screen.update();
  }

  drawing(samples, shown) {
    const { width } = this;
    const from = samples[0].at;
    const to = Math.max(samples.at(-1).at, from + 1);
    const most = Math.max(...samples.map((sample) => sample.value), shown.least);
    const ticks = ticksOf(most, shown.steps);
    const top = ticks.at(-1);
    const x = (at) => LEFT + ((at - from) / (to - from)) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const line = samples
      .map((sample, index) => `${index ? 'L' : 'M'}${x(sample.at).toFixed(1)} ${y(sample.value).toFixed(1)}`)
      .join('');
    const times = timesOf(from, to, width);
    const label = (at) => (to - from > 86_400_000 ? day(at) : clock(at).slice(0, to - from < 1_200_000 ? 8 : 5));
    const at = this.hover === null ? null : samples[Math.min(this.hover, samples.length - 1)];
    return h(
      'svg',
      {
        class: 'chart',
        viewBox: `0 0 ${width} ${HEIGHT}`,
        height: HEIGHT,
        role: 'img',
        'aria-label': inWords(samples, shown),
        ref: (element) => (this.element = element),
        onPointermove: (event) => this.point(event, samples, from, to),
        onPointerleave: () => this.set(null),
      },
      ticks.map((tick) =>
        h(
          'g',
          { key: `y${tick}` },
          h('line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
          h('text', { x: LEFT - 8, y: y(tick) + 4, 'text-anchor': 'end' }, tickText(tick, shown)),
        ),
      ),
      times.map((time) =>
        h(
          'text',
          {
            key: `x${time}`,
            x: x(time),
            y: HEIGHT - 6,
            'text-anchor': x(time) > width - 60 ? 'end' : x(time) < LEFT + 20 ? 'start' : 'middle',
          },
          label(time),
        ),
      ),
      h('path', { class: 'area', d: `${line}L${x(to).toFixed(1)} ${y(0)}L${x(from)} ${y(0)}Z` }),
      h('path', { class: 'line', d: line }),
      at &&
        h(
          'g',
          { class: 'hover' },
          h('line', { x1: x(at.at), x2: x(at.at), y1: TOP, y2: y(0) }),
          h('circle', { cx: x(at.at), cy: y(at.value), r: 4 }),
          h(
            'text',
            { x: Math.min(Math.max(x(at.at), LEFT + 60), width - 70), y: TOP + 2, 'text-anchor': 'middle' },
            `${clock(at.at)}: ${shown.text(at.value)}`,
          ),
        ),
    );
  }

  point(event, samples, from, to) {
    const box = event.currentTarget.getBoundingClientRect();
    const at =
      from +
      (((event.clientX - box.left) / box.width) * this.width - LEFT) * ((to - from) / (this.width - LEFT - RIGHT));
    let nearest = 0;
    samples.forEach((sample, index) => {
      if (Math.abs(sample.at - at) < Math.abs(samples[nearest].at - at)) nearest = index;
    });
    this.set(nearest);
  }

  set(hover) {
    this.hover = hover;
    this.screen.update();
  }

  // The drawing has the width of its place, so that its text has the size of other text.
  measure() {
    const width = Math.round(this.element?.isConnected ? this.element.parentElement.clientWidth - 40 : this.width);
    if (width > 100 && Math.abs(width - this.width) > 2) {
      this.width = width;
      this.screen.update();
    }
  }
}

function inWords(samples, shown) {
  const last = samples.at(-1);
  const highest = samples.reduce((one, other) => (other.value > one.value ? other : one));
  const lowest = samples.reduce((one, other) => (other.value < one.value ? other : one));
  return `${shown.name} from ${clock(samples[0].at)} to ${clock(last.at)}: now ${shown.text(last.value)}, highest ${shown.text(highest.value)} at ${clock(highest.at)}, lowest ${shown.text(lowest.value)} at ${clock(lowest.at)}.`;
}

// The same as text: a sentence, and some values as a table.
function alternative(samples, shown) {
  const step = Math.max(1, Math.ceil(samples.length / 20));
  const rows = samples.filter((_, index) => index % step === 0 || index === samples.length - 1);
  return h(
    'details',
    { class: 'alternative' },
    h('summary', {}, 'As text'),
    h('p', {}, inWords(samples, shown)),
    h(
      'table',
      { class: 'small' },
      h(
        'thead',
        {},
        h('tr', {}, h('th', { scope: 'col' }, 'Time'), h('th', { scope: 'col', class: 'number' }, shown.name)),
      ),
      h(
        'tbody',
        {},
        rows.map((sample) =>
          h(
            'tr',
            { key: sample.at },
            h('td', {}, clock(sample.at)),
            h('td', { class: 'number' }, sample.value === null ? NONE : shown.text(sample.value)),
          ),
        ),
      ),
    ),
  );
}

// Three to five lines, from 0 to just above the highest value.
function ticksOf(most, steps) {
  const rough = most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step =
    steps?.find((one) => one >= rough) ?? [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const ticks = [];
  for (let tick = 0; tick < most + step; tick += step) ticks.push(tick);
  return ticks;
}

function tickText(tick, shown) {
  return tick === 0 ? '0' : shown.text(tick).replace('.0 ', ' ');
}

function timesOf(from, to, width) {
  const number = Math.max(2, Math.min(6, Math.floor(width / 140)));
  return Array.from({ length: number }, (_, index) => from + ((to - from) * index) / (number - 1));
}
