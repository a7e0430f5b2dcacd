//! Where in the calls of the kernel write access does not pair.
//!
//! The stacks of a mount are put together as a tree from the system call inwards. What each
//! subtree took less what it gave back is its balance. Where everything pairs it is zero, and
//! the search goes down into what is not.
//!
//! A function that takes and gives back does so through others that only take, or only give
//! back: balances of those are never zero, and say nothing. So of the calls of one function
//! those that take and those that give back are paired off first, the equally deep with each
//! other: a function mostly takes and gives back by ways of the same length. What is left
//! over is the imbalance. The search goes on in the call that has it, but for two cases, in
//! which it is the function itself that has one call too many or too few: a part of that call
//! was paired off; or it is of a function that only takes, or only gives back, and pairs with
//! others elsewhere.

use std::collections::{BTreeMap, BTreeSet};

/// Calls of a function, from outside inwards.
#[derive(Debug, Default)]
pub struct Node {
    /// How often access was taken below.
    pub taken: i64,
    /// How often it was given back.
    pub given: i64,
    /// How deep the accesses below are at most.
    depth: usize,
    /// What it called; an access of its own is a call without calls.
    calls: BTreeMap<Vec<u8>, Node>,
}

/// A function in which write access does not pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// The functions from the system call on; the last is the one.
    pub path: Vec<Vec<u8>>,
    /// What it took more than it gave back.
    pub balance: i64,
    /// How often it took, below it too.
    pub taken: i64,
    /// How often it gave back.
    pub given: i64,
}

/// What is known of a function from all places where it was called.
#[derive(Default)]
struct Role {
    taken: i64,
    given: i64,
    /// Whether somewhere it was one half of a pair.
    pairs: bool,
}

impl Node {
    /// Adds accesses of one stack, whose functions come from outside inwards; the last stands
    /// for the access. `count` is negative for what was given back.
    pub fn add(&mut self, stack: &[Vec<u8>], count: i64) {
        let mut node = self;
        for (at, name) in stack.iter().enumerate() {
            node.count(count, stack.len() - at);
            node = node.calls.entry(name.clone()).or_default();
        }
        node.count(count, 0);
    }

    fn count(&mut self, count: i64, depth: usize) {
        if count > 0 {
            self.taken = self.taken.saturating_add(count);
        } else {
            self.given = self.given.saturating_sub(count);
        }
        self.depth = self.depth.max(depth);
    }

    /// What was taken less what was given back.
    pub fn balance(&self) -> i64 {
        self.taken.saturating_sub(self.given)
    }

    /// The functions in which it does not pair. Their balances come to that of the whole.
    pub fn culprits(&self) -> Vec<Culprit> {
        let mut roles = BTreeMap::new();
        self.roles(&mut roles);
        let is_half = |role: &Role| role.pairs && (role.taken == 0) != (role.given == 0);
        let halves = roles.iter().filter(|(_, role)| is_half(role));
        let halves: BTreeSet<&[u8]> = halves.map(|(name, _)| *name).collect();
        let mut found = Vec::new();
        self.search(&halves, &mut Vec::new(), &mut found);
        found
    }

    fn roles<'n>(&'n self, roles: &mut BTreeMap<&'n [u8], Role>) {
        for (name, _, was_paired) in self.left_over() {
            let Some(call) = self.calls.get(name) else {
                continue;
            };
            let role = roles.entry(name).or_default();
            role.taken = role.taken.saturating_add(call.taken);
            role.given = role.given.saturating_add(call.given);
            role.pairs |= was_paired;
            call.roles(roles);
        }
    }

    fn search(&self, halves: &BTreeSet<&[u8]>, path: &mut Vec<Vec<u8>>, found: &mut Vec<Culprit>) {
        let mut own = 0_i64;
        for (name, left, was_paired) in self.left_over() {
            let Some(call) = self.calls.get(name).filter(|_| left != 0) else {
                continue;
            };
            if call.calls.is_empty() || was_paired || halves.contains(name) {
                own = own.saturating_add(left);
                continue;
            }
            path.push(name.to_vec());
            call.search(halves, path, found);
            path.pop();
        }
        if own != 0 {
            found.push(Culprit {
                path: path.clone(),
                balance: own,
                taken: self.taken,
                given: self.given,
            });
        }
    }

    /// Of each call what is left of its balance when those that take are paired off with
    /// those that give back, and whether some of it was.
    ///
    /// What only takes is paired off with what only gives back, the equally deep first, then
    /// those that are nearest. What does both, and does not pair, is one half only of what it
    /// leaves over exactly.
    fn left_over(&self) -> Vec<(&[u8], i64, bool)> {
        let mut left: Vec<(&[u8], i64, bool)> = self
            .calls
            .iter()
            .map(|(name, call)| (name.as_slice(), call.balance(), false))
            .collect();
        let call = |name: &[u8]| self.calls.get(name).map_or((0, false), Node::shape);
        let mut pairs: Vec<(bool, usize, usize, usize)> = Vec::new();
        for (one, (takes, ..)) in left.iter().enumerate().filter(|(_, call)| call.1 > 0) {
            for (other, (gives, ..)) in left.iter().enumerate().filter(|(_, call)| call.1 < 0) {
                let ((depth, mixed), (other_depth, other_mixed)) = (call(takes), call(gives));
                pairs.push((
                    mixed || other_mixed,
                    depth.abs_diff(other_depth),
                    one,
                    other,
                ));
            }
        }
        pairs.sort_unstable();
        for (is_mixed, _, one, other) in pairs {
            let (takes, gives) = (left[one].1, left[other].1.saturating_neg());
            if takes <= 0 || gives <= 0 || is_mixed && takes != gives {
                continue;
            }
            let paired = takes.min(gives);
            left[one].1 -= paired;
            left[other].1 += paired;
            left[one].2 = true;
            left[other].2 = true;
        }
        left
    }

    /// How deep it is, and whether it both takes and gives back.
    fn shape(&self) -> (usize, bool) {
        (self.depth, self.taken > 0 && self.given > 0)
    }
}
