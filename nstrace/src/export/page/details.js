// Everything about an operation or a namespace, beside the rest.

class DetailsView {
  constructor(data, page) {
    this.data = data;
    this.page = page;
    this.panel = byId('details');
    byId('details-close').addEventListener('click', () => this.close());
  }

  get isOpen() {
    return !this.panel.hidden;
  }

  // Opens it; what had the focus gets it back.
  open(name, parts, takesFocus) {
    if (!this.isOpen) this.before = document.activeElement;
    byId('details-name').textContent = name;
    byId('details-body').replaceChildren(...parts.filter(Boolean));
    this.panel.hidden = false;
    this.panel.scrollTop = 0;
    document.body.classList.add('has-details');
    if (takesFocus) byId('details-name').focus();
  }

  close() {
    if (!this.isOpen) return;
    this.panel.hidden = true;
    document.body.classList.remove('has-details');
    this.before?.focus({ preventScroll: true });
    this.page.detailsClosed();
  }

  openOperation(i, takesFocus) {
    const { data } = this;
    const name = `${data.ops[data.op[i]]} by ${data.comms[data.comm[i]]}[${data.pid[i]}]`;
    this.open(
      name,
      [this.outcome(i), this.stages(i), this.namespaces(i), this.chain(i), this.fields(i)],
      takesFocus,
    );
  }

  outcome(i) {
    const { data } = this;
    const isFailed = data.failure[i] > 0;
    const words = [
      element('b', { class: isFailed ? 'bad' : 'good' }, resultName(data, i)),
      ` after ${length(data.took[i])}`,
    ];
    if (stageOfFailure(data, i)) words.push(' in ', element('code', {}, stageOfFailure(data, i)));
    const reason = reasonOf(data, i);
    const why = isFailed
      ? element(
          'p',
          { class: reason ? 'reason' : 'quiet' },
          reason ?? 'nstrace cannot tell why for certain.',
        )
      : null;
    return element('div', { class: 'outcome' }, element('p', {}, ...words), why);
  }

  // The functions that it passed, as function_graph draws them.
  stages(i) {
    const { data } = this;
    const [from, to] = [data.stageAt[i], data.stageAt[i + 1]];
    if (from === to) return null;
    const list = element('ol', { class: 'stages' });
    list.append(this.stage(data.ops[data.op[i]], 0, 0, data.took[i], data.took[i], false));
    for (let at = from; at < to; at++) {
      const isFailed = at - from + 1 === data.stage_failed[i];
      list.append(
        this.stage(
          functionOf(data, at),
          depthOf(data, at) + 1,
          data.stage_start[at],
          data.stage_took[at],
          data.took[i],
          isFailed,
        ),
      );
    }
    return element('section', {}, element('h3', {}, 'Stages'), list);
  }

  stage(name, depth, start, took, whole, isFailed) {
    const bar = element('span', { class: 'stage-bar' });
    const share = (ns) => `${Math.min((ns / Math.max(whole, 1)) * 100, 100)}%`;
    bar.style.left = `min(${share(start)}, 100% - 2px)`;
    bar.style.width = share(took);
    const label = element('span', { class: 'stage-name' }, `${name}()${isFailed ? ' failed' : ''}`);
    label.style.paddingLeft = `${depth * 12}px`;
    const title = `begins after ${exactly(start)}, takes ${exactly(took)}`;
    return element(
      'li',
      { class: isFailed ? 'bad' : null, title },
      label,
      element('span', { class: 'stage-track' }, bar),
      element('span', { class: 'number' }, length(took)),
    );
  }

  namespaces(i) {
    const { data } = this;
    const [before, after] = [data.before[i], data.after[i]];
    const rows = data.kinds.map((kind, at) => {
      const [old, now] = [data.setInums[at][before], data.setInums[at][after]];
      if (!old && !now) return null;
      const isSame = isSameNs(data, at, before, after);
      return element(
        'tr',
        { class: isSame ? 'quiet' : 'changed' },
        element('th', { scope: 'row', 'data-kind': kind }, kind),
        element('td', {}, this.inum(kind, old, data.setIds[at][before], data.start[i])),
        element('td', {}, isSame ? '' : '→'),
        element(
          'td',
          {},
          isSame
            ? 'the same'
            : this.inum(kind, now, data.setIds[at][after], data.start[i] + data.took[i]),
        ),
      );
    });
    const head = element(
      'tr',
      {},
      element('th', { scope: 'col' }, 'kind'),
      element('th', { scope: 'col' }, 'before'),
      element('th'),
      element('th', { scope: 'col' }, 'after'),
    );
    return element(
      'section',
      {},
      element('h3', {}, 'Namespaces'),
      element(
        'table',
        { class: 'plain' },
        element('thead', {}, head),
        element('tbody', {}, ...rows.filter(Boolean)),
      ),
    );
  }

  inum(kind, inum, id, time) {
    if (!inum) return '';
    const name = id ? `${inum} (id ${id})` : String(inum);
    const life = findLife(this.data, kind, inum, time);
    if (life < 0) return name;
    return element(
      'button',
      { type: 'button', class: 'link', onclick: () => this.page.openLife(life) },
      name,
    );
  }

  // The new task's ids, from the first pid namespace down.
  chain(i) {
    const { data } = this;
    const [from, to] = [data.chainAt[i], data.chainAt[i + 1]];
    if (from === to) return null;
    const list = element('ol', { class: 'pids' });
    for (let at = from; at < to; at++)
      list.append(
        element(
          'li',
          {},
          element('b', {}, String(data.chain_nr[at])),
          ' in ',
          this.inum('pid', data.chain_ns[at], 0, data.start[i] + data.took[i]),
        ),
      );
    return element('section', {}, element('h3', {}, 'Process ids of the new task'), list);
  }

  fields(i) {
    const { data } = this;
    const [id, path, container, name] = data.cgroups[data.cgroup[i] - 1] ?? [];
    const isNewUser = data.user_parent[i] > 0;
    const fields = [
      ['began', fullTime(data, data.start[i])],
      ['monotonic', `${BigInt(data.head.mono_ns) + BigInt(data.start[i])} ns`],
      ['took', exactly(data.took[i])],
      ['flags', data.tables.flags[data.flags[i]]],
      ['gave back', String(data.ret[i])],
      ['process', String(data.pid[i])],
      ['thread', data.tid[i] === data.pid[i] ? null : String(data.tid[i])],
      ['uid', String(data.uid[i])],
      ['command', data.comms[data.comm[i]]],
      ['container', [name, container].filter(Boolean).join(' ')],
      ['cgroup', [path, id && `(id ${id})`].filter(Boolean).join(' ')],
      ['owner of the new', data.owner[i] ? `user:${data.owner[i]}` : null],
      [
        'parent of the new',
        [
          data.pid_parent[i] && `pid:${data.pid_parent[i]}`,
          isNewUser && `user:${data.user_parent[i]}`,
        ]
          .filter(Boolean)
          .join(', '),
      ],
      ['owner uid', isNewUser ? String(data.owner_uid[i]) : null],
      ['mounts copied', data.mounts[i] ? count(data.mounts[i]) : null],
      ['was to enter', data.target[i] ? String(data.target[i]) : null],
    ];
    return element('section', {}, element('h3', {}, 'Fields'), fieldList(fields));
  }

  openLife(life, takesFocus) {
    const { data } = this;
    const name = nsName(data, life);
    const act = (text, onclick) => element('button', { type: 'button', onclick }, text);
    const acts = element(
      'p',
      { class: 'acts' },
      act('Its operations', () => this.page.search(name)),
      ' ',
      act('Its life', () => this.page.timeline.showLife(life)),
    );
    if (data.ns_op[life])
      acts.append(
        ' ',
        act('What made it', () => this.openOperation(data.ns_op[life] - 1, true)),
      );
    this.open(
      name,
      [
        element('p', { class: 'outcome' }, ...lifeWords(data, life).slice(1).join(' · ')),
        acts,
        this.lifeFields(life),
      ],
      takesFocus,
    );
  }

  lifeFields(life) {
    const { data } = this;
    const above = (number) => (number ? nsName(data, number - 1) : null);
    const death = deathOf(data, life);
    const [, path, container, containerName] = data.cgroups[data.ns_maker_cgroup[life] - 1] ?? [];
    const isMade = data.ns_maker_op[life] > 0;
    const fields = [
      ['id', data.ns_id[life] ? String(data.ns_id[life]) : null],
      [
        ['there before', 'seen first', 'born'][data.ns_since[life]],
        data.ns_since[life] ? fullTime(data, data.ns_start[life]) : 'the first look',
      ],
      ['died', death === Infinity ? 'no: it lives at the end' : fullTime(data, death)],
      ['how it is known', data.ns_inferred[life] ? 'its death follows from something else' : null],
      ['length', death === Infinity ? null : exactly(death - data.ns_start[life])],
      ['parent', above(data.ns_parent[life])],
      ['owner', above(data.ns_owner[life])],
      ['owner uid', data.ns_owner_uid[life] ? String(data.ns_owner_uid[life] - 1) : null],
      ['made by', makerName(data, life)],
      ['uid', isMade ? String(data.ns_maker_uid[life]) : null],
      ['container', isMade ? [containerName, container].filter(Boolean).join(' ') : null],
      ['cgroup', isMade ? path : null],
    ];
    return element('section', {}, element('h3', {}, 'Fields'), fieldList(fields));
  }
}

function fieldList(fields) {
  const list = element('dl', { class: 'fields' });
  for (const [name, value] of fields)
    if (value) list.append(element('dt', {}, name), element('dd', {}, value));
  return list;
}

// The life of a number at a time: numbers are used again.
function findLife(data, kind, inum, time) {
  const lives = livesByNumber(data).get(inum) ?? [];
  const fits = (life) =>
    data.kinds[data.ns_kind[life]] === kind &&
    data.ns_start[life] <= time &&
    deathOf(data, life) >= time;
  return lives.find(fits) ?? -1;
}

function livesByNumber(data) {
  if (data.byNumber) return data.byNumber;
  data.byNumber = new Map();
  for (let life = 0; life < data.lifeCount; life++) {
    const inum = data.ns_inum[life];
    if (!data.byNumber.has(inum)) data.byNumber.set(inum, []);
    data.byNumber.get(inum).push(life);
  }
  return data.byNumber;
}
