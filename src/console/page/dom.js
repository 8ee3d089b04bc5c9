// Builds elements from descriptions, and changes only what differs from the last description. Text is always set as text, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

// Properties that a person changes as well: they are set only when the description changes.
const LIVE = new Set(['value', 'checked', 'open', 'selected', 'disabled', 'indeterminate']);

// Describes an element. Children are descriptions, text, or lists of both. Absent children (null, false) keep their place, so that
// conditional ones do not shift their neighbours. Items of lists that change have a `key`.
export function h(tag, props, ...children) {
  const list = [];
  collect(children, list);
  return { tag, props: props ?? {}, key: props?.key, children: list };
}

function collect(children, list) {
  for (const child of children) {
    if (Array.isArray(child)) collect(child, list);
    else if (child === null || child === undefined || child === false || child === true) list.push({ text: '' });
    else list.push(typeof child === 'object' ? child : { text: String(child) });
  }
}

// Makes the children of `container` fit the descriptions.
export function render(container, ...descriptions) {
  const next = [];
  collect(descriptions, next);
  patchChildren(container, container.$children ?? [], next, container.namespaceURI === SVG);
  container.$children = next;
}

function patchChildren(parent, before, after, svg) {
  const keyed = new Map();
  const free = [];
  for (const node of before) {
    if (node.key === undefined) free.push(node);
    else keyed.set(node.key, node);
  }
  let position = 0;
  const gone = new Set(before);
  for (const node of after) {
    const old = node.key === undefined ? free[position++] : keyed.get(node.key);
    if (old && old.tag === node.tag && gone.delete(old)) patch(old, node, svg);
    else create(node, svg);
  }
  for (const node of gone) node.element.remove();
  let cursor = parent.firstChild;
  // Markup that was there before the first rendering is replaced.
  if (!before.length && !parent.$rendered) {
    parent.replaceChildren();
    cursor = null;
  }
  parent.$rendered = true;
  for (const node of after) {
    if (node.element === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(node.element, cursor);
  }
}

function create(node, svg) {
  if (node.tag === undefined) {
    node.element = document.createTextNode(node.text);
    return;
  }
  const inside = svg || node.tag === 'svg';
  const element = inside ? document.createElementNS(SVG, node.tag) : document.createElement(node.tag);
  node.element = element;
  for (const [name, value] of Object.entries(node.props)) set(element, name, value, undefined);
  patchChildren(element, [], node.children, inside);
  // The value of a select depends on its options.
  if (node.tag === 'select' && node.props.value !== undefined) element.value = node.props.value;
  node.props.ref?.(element);
}

function patch(old, node, svg) {
  const element = old.element;
  node.element = element;
  if (node.tag === undefined) {
    if (old.text !== node.text) element.data = node.text;
    return;
  }
  for (const name of Object.keys(old.props)) {
    if (!(name in node.props)) set(element, name, undefined, old.props[name]);
  }
  for (const [name, value] of Object.entries(node.props)) {
    const last = old.props[name];
    if (value !== last || name === 'style') set(element, name, value, last);
  }
  patchChildren(element, old.children, node.children, svg || node.tag === 'svg');
}

function set(element, name, value, last) {
  if (name === 'key' || name === 'ref') return;
  if (name.startsWith('on')) {
    const type = name.slice(2).toLowerCase();
    element.$on ??= {};
    if (!(type in element.$on)) element.addEventListener(type, (event) => element.$on[type]?.(event));
    element.$on[type] = value;
  } else if (name === 'style') {
    for (const [property, text] of Object.entries(value ?? {})) {
      if (last?.[property] !== text) element.style.setProperty(property, text);
    }
  } else if (LIVE.has(name) && element.localName !== 'option') {
    const empty = name === 'value' ? '' : false;
    if (element[name] !== (value ?? empty)) element[name] = value ?? empty;
  } else if (value === undefined || value === null || value === false) {
    element.removeAttribute(name);
  } else {
    element.setAttribute(name, value === true ? '' : String(value));
  }
}

// Speaks `text` to those who do not see the page.
export function announce(text) {
  const region = document.getElementById('announcer');
  region.textContent = '';
  // A changed text is spoken; the same text again is spoken only if it was empty in between.
  setTimeout(() => {
    region.textContent = text;
  }, 50);
}
