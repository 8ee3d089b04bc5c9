// The connection to one side, as a host with its options or as a connection string.

import { h } from './dom.js';
import { button, check, choice, field, notice, snippet } from './parts.js';

export class EndpointForm {
  constructor(side, update) {
    this.side = side;
    this.update = update;
    this.way = 'host';
    this.values = {
      host: '',
      replica_set: '',
      user: '',
      password: '',
      auth_source: '',
      ca: '',
      certificate_key: '',
      uri: '',
    };
    this.tls = true;
    this.shown = false;
    // Whether secrets were sent, and are no longer in the page.
    this.sent = false;
    this.problems = {};
  }

  // Whether there is enough to connect with. Otherwise the fields say what is missing.
  complete() {
    const { host, uri, user, password } = this.values;
    this.problems = {};
    if (this.way === 'host') {
      if (!host.trim()) this.problems.host = 'Give the host of the primary, such as db1.example:27017.';
      else if (/[/@\s]/.test(host.trim()))
        this.problems.host =
          'Give host and port only, such as db1.example:27017. For a connection string, choose the other way above.';
      if (user.trim() && !password)
        this.problems.password = this.sent
          ? 'Type the password again: it was sent, and is not kept in this page.'
          : 'Give the password of this user.';
      if (!user.trim() && password) this.problems.user = 'Give the user of this password.';
    } else if (!uri.trim()) {
      this.problems.uri = this.sent
        ? 'Give the connection string again: it was sent, and is not kept in this page.'
        : 'Give the connection string.';
    } else if (!/^mongodb(\+srv)?:\/\//.test(uri.trim())) {
      this.problems.uri = 'A connection string begins with mongodb:// or mongodb+srv://.';
    }
    this.update();
    return Object.keys(this.problems).length === 0;
  }

  // As the console reads it.
  body() {
    const byUri = this.way === 'uri';
    const body = byUri ? { uri: this.values.uri.trim() } : { host: this.values.host.trim(), tls: this.tls };
    const keys = [
      ...(byUri ? [] : ['replica_set', 'user', 'auth_source']),
      ...(byUri || this.tls ? ['ca', 'certificate_key'] : []),
    ];
    for (const key of keys) if (this.values[key].trim()) body[key] = this.values[key].trim();
    if (!byUri && this.values.password) body.password = this.values.password;
    return body;
  }

  // Forgets what is secret, once it was sent.
  clear() {
    this.sent = this.sent || Boolean(this.values.password || this.values.uri || this.values.certificate_key);
    Object.assign(this.values, { password: '', uri: '', certificate_key: '' });
    this.shown = false;
    this.update();
  }

  // Whether secrets have to be typed again before it can be sent again.
  needsSecrets() {
    return this.sent && !this.values.password && !this.values.uri && !this.values.certificate_key;
  }

  view() {
    return h(
      'div',
      { class: 'endpoint' },
      this.needsSecrets() &&
        notice(
          'info',
          null,
          h(
            'p',
            {},
            'Passwords and connection strings were sent, and are not kept in this page. Type them again to change the connection.',
          ),
        ),
      choice(
        `${this.side}-way`,
        `How to reach the ${this.side}`,
        [
          ['host', 'Host, user and password'],
          ['uri', 'Connection string'],
        ],
        this.way,
        (way) => this.set(() => (this.way = way)),
      ),
      this.way === 'host' ? this.hostFields() : this.uriFields(),
    );
  }

  hostFields() {
    return h(
      'div',
      { key: 'host', class: 'stack' },
      this.text(
        'host',
        'Host and port of the primary',
        'db1.example:27017. The other members are found by themselves.',
        { placeholder: 'db1.example:27017', inputmode: 'url' },
      ),
      h(
        'div',
        { class: 'columns' },
        this.text('user', 'User', 'Empty for servers without access control.', { autocomplete: 'off' }),
        this.text('password', 'Password', null, { type: 'password', autocomplete: 'off' }),
      ),
      check(
        `${this.side}-tls`,
        'Use TLS',
        this.tls,
        (tls) => this.set(() => (this.tls = tls)),
        'Without TLS, documents and passwords can be read on the network. It is refused unless the settings accept it, except on this machine.',
      ),
      this.tls &&
        this.area(
          'ca',
          'Certificate of the authority (CA), PEM',
          'Only for servers whose certificate is not from a public authority.',
        ),
      h(
        'details',
        {},
        h('summary', {}, 'More: replica set, authentication database, client certificate'),
        h(
          'div',
          { class: 'stack' },
          h(
            'div',
            { class: 'columns' },
            this.text('replica_set', 'Name of the replica set', 'Found by itself if empty.', { placeholder: 'rs0' }),
            this.text('auth_source', 'Authentication database', 'The database that has the user. Usually admin.', {
              placeholder: 'admin',
            }),
          ),
          this.tls &&
            this.area(
              'certificate_key',
              'Client certificate with its key, PEM',
              'Only if the servers ask for one (X.509).',
              true,
            ),
        ),
      ),
    );
  }

  // A connection string names certificates as files on the machine of the program. Here they can be given as text.
  uriFields() {
    return h(
      'div',
      { key: 'uri', class: 'stack' },
      this.uriField(),
      h(
        'details',
        {},
        h('summary', {}, 'More: certificates'),
        h(
          'div',
          { class: 'stack' },
          this.area(
            'ca',
            'Certificate of the authority (CA), PEM',
            'Only for servers whose certificate is not from a public authority.',
          ),
          this.area(
            'certificate_key',
            'Client certificate with its key, PEM',
            'Only if the servers ask for one (X.509).',
            true,
          ),
        ),
      ),
    );
  }

  uriField() {
    const id = `${this.side}-uri`;
    const problem = this.problems.uri;
    return h(
      'div',
      { class: 'field' },
      h('label', { for: id }, 'Connection string'),
      h(
        'div',
        { class: 'with-button' },
        h('input', {
          id,
          type: this.shown ? 'text' : 'password',
          autocomplete: 'off',
          autocapitalize: 'off',
          spellcheck: 'false',
          placeholder: 'mongodb://user:password@db1.example/?replicaSet=rs0&tls=true',
          value: this.values.uri,
          'aria-invalid': problem ? 'true' : undefined,
          'aria-describedby': `${id}-hint`,
          onInput: (event) => this.type('uri', event),
        }),
        button(this.shown ? 'Hide' : 'Show', () => this.set(() => (this.shown = !this.shown)), {
          kind: 'secondary',
          label: `${this.shown ? 'Hide' : 'Show'} the connection string of the ${this.side}`,
        }),
      ),
      h(
        'p',
        { class: problem ? 'hint wrong' : 'hint', id: `${id}-hint` },
        problem ?? 'As for a driver. Percent-encode special characters of the password.',
      ),
    );
  }

  text(name, label, hint, options = {}) {
    const problem = this.problems[name];
    const input = h('input', {
      type: 'text',
      autocapitalize: 'off',
      spellcheck: 'false',
      autocomplete: 'off',
      value: this.values[name],
      'aria-invalid': problem ? 'true' : undefined,
      onInput: (event) => this.type(name, event),
      ...options,
    });
    return wrong(field(`${this.side}-${name}`, label, input, problem ?? hint), problem);
  }

  area(name, label, hint, secret = false) {
    const id = `${this.side}-${name}`;
    const area = h('textarea', {
      rows: '3',
      spellcheck: 'false',
      autocomplete: 'off',
      class: secret ? 'mono masked' : 'mono',
      placeholder: '-----BEGIN CERTIFICATE-----',
      value: this.values[name],
      onInput: (event) => this.type(name, event),
    });
    return h(
      'div',
      { class: 'stack tight' },
      field(id, label, area, hint),
      h(
        'label',
        { class: 'file' },
        'Or read it from a file ',
        h('input', {
          type: 'file',
          accept: '.pem,.crt,.cer,.key',
          onChange: (event) => this.read(name, event.currentTarget),
        }),
      ),
    );
  }

  async read(name, input) {
    const [file] = input.files;
    // The console takes less in all.
    if (file && file.size < 60_000) {
      this.values[name] = await file.text();
      this.update();
    }
    input.value = '';
  }

  type(name, event) {
    this.values[name] = event.currentTarget.value;
    delete this.problems[name];
    this.update();
  }

  set(change) {
    change();
    this.problems = {};
    this.update();
  }
}

function wrong(description, problem) {
  if (problem) description.props.class = 'field wrong';
  return description;
}

const ROLES = {
  source: ['readAnyDatabase', 'clusterMonitor'],
  target: ['readWriteAnyDatabase', 'dbAdminAnyDatabase', 'clusterMonitor'],
};

// The command that creates the user of one side.
export function userCommand(side) {
  const roles = ROLES[side].map((role) => `    { role: "${role}", db: "admin" }`).join(',\n');
  return snippet(
    `db.getSiblingDB("admin").createUser({\n  user: "mongoferry",\n  pwd: passwordPrompt(),\n  roles: [\n${roles}\n  ]\n})`,
    `the command that creates the user of the ${side}`,
  );
}
