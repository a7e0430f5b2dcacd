// Lives of a kind in lanes: in each, one after the other.
function lanesOf(data, kind) {
  const lives = [];
  for (let life = 0; life < data.lifeCount; life++)
    if (data.ns_kind[life] === kind) lives.push(life);
  lives.sort((a, b) => data.ns_start[a] - data.ns_start[b] || a - b);
  const lanes = [];
  const free = new Heap();
  for (const life of lives) {
    const lane =
      free.length && free.first()[0] <= data.ns_start[life] ? free.pop()[1] : lanes.push([]) - 1;
    lanes[lane].push(life);
    free.push([deathOf(data, life), lane]);
  }
  return lanes;
}

// The place in a lane of the first life that ends at a time or later.
function firstEnding(data, lane, time) {
  let [low, high] = [0, lane.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (deathOf(data, lane[middle]) < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Pairs, the one with the least number first.
class Heap {
  constructor() {
    this.pairs = [];
  }

  get length() {
    return this.pairs.length;
  }

  first() {
    return this.pairs[0];
  }

  push(pair) {
    const { pairs } = this;
    let at = pairs.push(pair) - 1;
    while (at && isLess(pairs[at], pairs[(at - 1) >> 1])) {
      swap(pairs, at, (at - 1) >> 1);
      at = (at - 1) >> 1;
    }
  }

  pop() {
    const { pairs } = this;
    const first = pairs[0];
    const last = pairs.pop();
    if (pairs.length) {
      pairs[0] = last;
      this.sink();
    }
    return first;
  }

  sink() {
    const { pairs } = this;
    for (let at = 0; ;) {
      let least = at;
      for (const child of [2 * at + 1, 2 * at + 2])
        if (child < pairs.length && isLess(pairs[child], pairs[least])) least = child;
      if (least === at) return;
      swap(pairs, at, least);
      at = least;
    }
  }
}

function isLess(a, b) {
  return a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);
}

function swap(pairs, a, b) {
  [pairs[a], pairs[b]] = [pairs[b], pairs[a]];
}
