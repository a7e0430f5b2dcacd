//! The mounts of a namespace as a tree.

use foldhash::HashMap;

use super::MountNs;

/// A mount in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which of the namespace's mounts it is.
    pub mount: usize,
    /// How many are above it.
    pub depth: usize,
    /// How many of those that follow are below it.
    pub below: usize,
}

/// The mounts of a namespace, each before those that are mounted on it. What is mounted on
/// something that is not among them is at the top; so is what is mounted on itself by way of
/// others, as it can come out of a list that was read while mounts moved.
pub fn order(ns: &MountNs) -> Vec<Placed> {
    let mounts = &ns.mounts;
    let ids: HashMap<u32, usize> = mounts
        .iter()
        .enumerate()
        .map(|(at, mount)| (mount.id, at))
        .collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); mounts.len()];
    let mut tops = Vec::new();
    for (at, mount) in mounts.iter().enumerate() {
        match ids.get(&mount.parent) {
            Some(parent) if *parent != at => children[*parent].push(at),
            _ => tops.push(at),
        }
    }
    let mut order = Order {
        children,
        placed: Vec::with_capacity(mounts.len()),
        is_placed: vec![false; mounts.len()],
    };
    tops.into_iter().for_each(|top| order.place(top));
    // What is left goes round in circles.
    (0..mounts.len()).for_each(|top| order.place(top));
    order.placed
}

struct Order {
    children: Vec<Vec<usize>>,
    placed: Vec<Placed>,
    is_placed: Vec<bool>,
}

impl Order {
    /// Places a mount and all below it. They can be stacked as high as there are mounts: so
    /// this does not call itself.
    fn place(&mut self, top: usize) {
        enum Step {
            Into(usize, usize),
            OutOf(usize),
        }
        let mut steps = vec![Step::Into(top, 0)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Into(mount, _) if self.is_placed[mount] => {}
                Step::Into(mount, depth) => {
                    self.is_placed[mount] = true;
                    steps.push(Step::OutOf(self.placed.len()));
                    self.placed.push(Placed {
                        mount,
                        depth,
                        below: 0,
                    });
                    let children = std::mem::take(&mut self.children[mount]);
                    let into = children.into_iter().rev();
                    steps.extend(into.map(|child| Step::Into(child, depth + 1)));
                }
                Step::OutOf(at) => self.placed[at].below = self.placed.len() - at - 1,
            }
        }
    }
}
