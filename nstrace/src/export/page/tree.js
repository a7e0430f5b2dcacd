// The tree of namespaces at a moment: user namespaces in their parents, pid namespaces in
// these, and the tasks that have all namespaces in common as one line.

const ROWS_MAX = 3000;
const TASKS_SHOWN = 8;
const NESTING_MAX = 64;
// As include/uapi/linux/nsfs.h has them, in the order of the kinds.
const FIRST = [
  0xeffffff8, 0xeffffffe, 0xefffffff, 0xeffffffc, 0xeffffff9, 0xeffffffd, 0xeffffffb, 0xeffffffa,
];
const [PID, USER] = [3, 5];

// Where each task is at a moment: the place of its namespaces.
function placesAt(data, moment) {
  const at = new Uint32Array(data.task_pid.length);
  for (let move = 0; move < data.move_time.length; move++) {
    if (data.move_time[move] <= moment) at[data.move_task[move]] = data.move_to[move];
  }
  return at;
}

// Everything that is known of a moment. Namespaces are numbered from 1 on here, as in the
// columns that point to them.
function treeAt(data, moment) {
  const tree = {
    data,
    moment,
    alive: new Set(),
    tasks: new Map(),
    sets: new Map(),
    below: new Map(),
    taskCount: 0,
  };
  for (let life = 0; life < data.lifeCount; life++)
    if (isAliveAt(data, life, moment)) tree.alive.add(life + 1);
  placesAt(data, moment).forEach((place, task) => place && addTask(tree, task, place));
  for (const set of tree.sets.values()) put(tree, placeOfSet(tree, set.own), 'sets', set);
  for (const ns of tree.alive) addNamespace(tree, ns);
  tree.first = firstOnes(data);
  return tree;
}

function addTask(tree, task, place) {
  const { data } = tree;
  const own = data.inNs.map((column) => column[place]);
  const container = data.containers.of[data.task_cgroup[task]];
  const key = `${own.join()};${container}`;
  if (!tree.sets.has(key)) tree.sets.set(key, { own, container, tasks: [] });
  tree.sets.get(key).tasks.push(task);
  for (const ns of own) if (ns) tree.tasks.set(ns, (tree.tasks.get(ns) ?? 0) + 1);
  tree.taskCount++;
}

function put(tree, above, what, item) {
  const key = tree.alive.has(above) ? above : 0;
  if (!tree.below.has(key)) tree.below.set(key, { sets: [], pids: [], users: [], others: [] });
  tree.below.get(key)[what].push(item);
}

// In the pid namespace, if that is of the user namespace or of one below; else in that.
function placeOfSet({ data }, own) {
  const [pid, user] = [own[PID], own[USER]];
  if (!pid || !user) return pid || user;
  const owner = data.ns_owner[pid - 1];
  let above = owner;
  for (let level = 0; above && level < NESTING_MAX; level++) {
    if (above === user) return pid;
    above = data.ns_parent[above - 1] || data.ns_owner[above - 1];
  }
  return owner ? user : pid;
}

function addNamespace(tree, ns) {
  const { data } = tree;
  const kind = data.ns_kind[ns - 1];
  const [parent, owner] = [data.ns_parent[ns - 1], data.ns_owner[ns - 1]];
  if (kind === USER) return put(tree, isInItself(tree, ns) ? 0 : parent, 'users', ns);
  if (kind !== PID) return tree.tasks.has(ns) ? undefined : put(tree, owner, 'others', ns);
  const isOfOne = parent && data.ns_owner[parent - 1] === owner;
  return put(tree, isInItself(tree, ns) ? 0 : isOfOne ? parent : owner || parent, 'pids', ns);
}

// A recording that lies may say so.
function isInItself({ data }, ns) {
  let above = data.ns_parent[ns - 1];
  for (let level = 0; above && level < NESTING_MAX; level++) above = data.ns_parent[above - 1];
  return above !== 0;
}

// The first namespace of each kind: by its number, or else that of init.
function firstOnes(data) {
  if (data.first) return data.first;
  const init = data.task_tid.indexOf(1);
  const move = init < 0 ? -1 : data.move_task.indexOf(init);
  data.first = new Set();
  FIRST.forEach((inum, kind) => {
    const known = data.ns_inum.findIndex(
      (own, life) => own === inum && data.ns_kind[life] === kind,
    );
    const ns = known >= 0 ? known + 1 : move >= 0 ? data.inNs[kind][data.move_to[move]] : 0;
    if (ns) data.first.add(ns);
  });
  return data.first;
}

// Draws it.
class TreeView {
  constructor(data, page) {
    this.data = data;
    this.page = page;
  }

  show(moment) {
    this.tree = treeAt(this.data, moment);
    this.named = new Set();
    this.rows = 0;
    const { alive, taskCount } = this.tree;
    byId('tree-count').textContent =
      `${counted(alive.size, 'namespace', 'namespaces')}, ${counted(taskCount, 'task', 'tasks')}`;
    const list = this.list(0);
    if (this.rows >= ROWS_MAX)
      list.append(
        element('li', { class: 'quiet' }, 'More than is shown here: only the first lines are.'),
      );
    byId('tree-list').replaceChildren(list);
  }

  // What stands in a namespace, or at the top.
  list(above) {
    const { sets, pids, users, others } = this.tree.below.get(above) ?? {
      sets: [],
      pids: [],
      users: [],
      others: [],
    };
    const list = element('ul');
    const { data } = this;
    const byNumber = (a, b) => data.ns_inum[a - 1] - data.ns_inum[b - 1];
    const lowest = (set) =>
      set.tasks.reduce((least, task) => Math.min(least, data.task_pid[task]), Infinity);
    const addSets = () =>
      sets
        .sort((a, b) => lowest(a) - lowest(b))
        .forEach((set) => this.add(list, () => this.set(set)));
    if (above) addSets();
    for (const ns of pids.sort(byNumber)) this.add(list, () => this.node(ns));
    for (const ns of users.sort(byNumber)) this.add(list, () => this.node(ns));
    // At the top are those of which it is not known where they stand.
    if (!above) addSets();
    for (const ns of others.sort(byNumber)) this.add(list, () => this.other(ns));
    return list;
  }

  add(list, row) {
    if (this.rows++ < ROWS_MAX) list.append(row());
  }

  node(ns) {
    const below = this.list(ns);
    return element('li', { class: 'node' }, this.line(ns), below.childElementCount ? below : null);
  }

  line(ns, why) {
    const tasks = this.tree.tasks.get(ns) ?? 0;
    const isFirst = this.tree.first.has(ns);
    const maker = makerName(this.data, ns - 1);
    const words = [
      isFirst ? 'first' : null,
      why ?? counted(tasks, 'task', 'tasks'),
      maker && `made by ${maker}`,
    ];
    return element(
      'div',
      {},
      this.label(ns),
      ' ',
      element('span', { class: 'quiet' }, words.filter(Boolean).join(' · ')),
    );
  }

  other(ns) {
    return element('li', { class: 'other' }, this.line(ns, 'no task in it'));
  }

  set({ own, container, tasks }) {
    const row = element('li', { class: 'set' });
    if (container)
      row.append(
        element(
          'div',
          { class: 'container' },
          `container ${this.data.containers.names[container]}`,
        ),
      );
    const labels = element('div', { class: 'labels' });
    own.forEach((ns, kind) => this.isNamed(ns, kind) && labels.append(this.label(ns), ' '));
    if (labels.childElementCount) row.append(labels);
    row.append(this.tasks(tasks));
    return row;
  }

  // The first ones are where nearly everything is: only the first set names them.
  isNamed(ns, kind) {
    const isNode = kind === PID || kind === USER;
    if (!ns || isNode || (this.tree.first.has(ns) && this.named.has(ns))) return false;
    return true;
  }

  tasks(tasks) {
    const names = tasks.map(
      (task) => `${this.data.comms[this.data.task_comm[task]]}[${this.data.task_tid[task]}]`,
    );
    const words = element(
      'div',
      { class: 'tasks' },
      `${counted(tasks.length, 'task', 'tasks')}: ${names.slice(0, TASKS_SHOWN).join(', ')}`,
    );
    if (names.length > TASKS_SHOWN) words.append(' ', this.more(words, tasks, names));
    return words;
  }

  more(words, tasks, names) {
    const all = () => {
      words.textContent = `${counted(tasks.length, 'task', 'tasks')}: ${names.join(', ')}`;
    };
    return element(
      'button',
      { type: 'button', class: 'link', onclick: all },
      `and ${count(names.length - TASKS_SHOWN)} more`,
    );
  }

  label(ns) {
    this.named.add(ns);
    const name = nsName(this.data, ns - 1);
    const attributes = {
      type: 'button',
      class: 'ns',
      'data-kind': this.data.kinds[this.data.ns_kind[ns - 1]],
      'data-ns': name,
      'data-tasks': this.tree.tasks.get(ns) ?? 0,
      onclick: () => this.page.openLife(ns - 1),
    };
    const [kind, inum] = name.split(':');
    return element('button', attributes, element('b', {}, kind), `:${inum}`);
  }
}

// The moment of the last change before one, or of the first behind it.
function changeBeside(data, moment, isBehind) {
  let best = isBehind ? data.span : 0;
  const look = (time) => {
    if (isBehind ? time > moment && time < best : time < moment && time > best) best = time;
  };
  for (let life = 0; life < data.lifeCount; life++) {
    look(data.ns_start[life]);
    if (data.ns_length[life]) look(deathOf(data, life));
  }
  return best;
}
