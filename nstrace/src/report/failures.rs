//! What failed, why, and who met it.

use foldhash::HashMap;
use nstrace_common::wire::Op;

use super::Tally;
use crate::{event::until_nul, explain::Reason, stages::Function};

/// So many sorts of failures are told apart as they are; then namespaces that a reason names
/// do not count, and when there are twice as many reasons do not either.
const SORTS_MAX: usize = 1000;

/// A task's name, with NUL behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comm(pub [u8; 16]);

impl Comm {
    /// As bytes: it may hold anything.
    pub fn bytes(&self) -> &[u8] {
        until_nul(&self.0)
    }
}

/// A sort of failure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failure {
    /// The operation.
    pub op: Op,
    /// What it failed with, positive.
    pub errno: i32,
    /// The function that failed, if that is known.
    pub stage: Option<Function>,
    /// Why, if that is certain.
    pub reason: Option<String>,
}

/// How often that was, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// How often.
    pub count: u64,
    /// By the names of the tasks.
    pub comms: Tally<Comm>,
    /// By their containers, which are places in [`super::Report::containers`].
    pub containers: Tally<usize>,
}

impl Met {
    fn add_all(&mut self, other: &Met) {
        self.count += other.count;
        self.comms.add_all(&other.comms);
        self.containers.add_all(&other.containers);
    }
}

/// What failed, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct What {
    /// The operation.
    pub op: Op,
    /// What it failed with, positive.
    pub errno: i32,
    /// The function that failed, if that is known.
    pub stage: Option<Function>,
}

/// Why something failed, as it is kept: not in words, which are for the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Cause {
    Unknown,
    /// For that reason.
    Reason(Reason<'static>),
    /// For that reason, whatever namespace it names.
    Shape(Reason<'static>),
    /// In words: what is made of something that the machine says.
    Words(String),
}

impl Cause {
    fn new(reason: Option<Reason>) -> Cause {
        match reason.map(|reason| reason.lasting().ok_or(reason)) {
            None => Cause::Unknown,
            Some(Ok(reason)) => Cause::Reason(reason),
            Some(Err(reason)) => Cause::Words(reason.to_string()),
        }
    }

    /// The same, whatever namespace it names.
    fn into_shape(self) -> Cause {
        match self {
            Cause::Reason(reason) => Cause::Shape(reason.without_namespaces()),
            Cause::Words(words) => Cause::Words(shape(&words)),
            Cause::Unknown | Cause::Shape(_) => self,
        }
    }

    fn words(&self) -> Option<String> {
        match self {
            Cause::Unknown => None,
            Cause::Reason(reason) => Some(reason.to_string()),
            Cause::Shape(reason) => Some(shape(&reason.to_string())),
            Cause::Words(words) => Some(words.clone()),
        }
    }
}

/// All failures.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    sorts: Vec<((What, Cause), Met)>,
    /// Where in these.
    places: HashMap<(What, Cause), usize>,
    /// The last one: they come in runs.
    last: usize,
}

impl Failures {
    /// Adds one of a task of that name, in that container.
    pub fn add(&mut self, what: What, reason: Option<Reason>, comm: Comm, container: usize) {
        let at = self.place((what, Cause::new(reason)));
        let (_, met) = &mut self.sorts[at];
        met.count += 1;
        met.comms.add(comm);
        met.containers.add(container);
    }

    /// Where that sort is; it has a place then.
    fn place(&mut self, mut sort: (What, Cause)) -> usize {
        if let Some((last, _)) = self.sorts.get(self.last)
            && *last == sort
        {
            return self.last;
        }
        let len = self.sorts.len();
        if len >= SORTS_MAX && !self.places.contains_key(&sort) {
            sort.1 = match len < 2 * SORTS_MAX {
                true => sort.1.into_shape(),
                false => Cause::Unknown,
            };
        }
        self.last = *self.places.entry(sort.clone()).or_insert(len);
        if self.last == len {
            self.sorts.push((sort, Met::default()));
        }
        self.last
    }

    /// Whether nothing has failed.
    pub fn is_empty(&self) -> bool {
        self.sorts.is_empty()
    }

    /// Those of each sort, in an order of their own.
    pub fn sorts(&self) -> Vec<(Failure, &Met)> {
        let sorts = self.sorts.iter().map(|((what, cause), met)| {
            let What { op, errno, stage } = *what;
            let reason = cause.words();
            let failure = Failure {
                op,
                errno,
                stage,
                reason,
            };
            (failure, met)
        });
        let mut all: Vec<(Failure, &Met)> = sorts.collect();
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    /// The same by what failed, with what, the most frequent first.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (failure, met) in self.sorts() {
            let key = (failure.errno, failure.stage);
            let at = groups
                .iter()
                .position(|group| (group.errno, group.stage) == key);
            let group = match at {
                Some(at) => &mut groups[at],
                None => {
                    groups.push(Group {
                        errno: failure.errno,
                        stage: failure.stage,
                        count: 0,
                        reasons: Vec::new(),
                    });
                    let last = groups.len() - 1;
                    &mut groups[last]
                }
            };
            group.count += met.count;
            group.add(&failure, met);
        }
        for group in &mut groups {
            group
                .reasons
                .sort_by_key(|reason| std::cmp::Reverse(reason.met.count));
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        groups
    }
}

/// Failures of one function, with one errno.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they failed with, positive.
    pub errno: i32,
    /// The function that failed, if that is known.
    pub stage: Option<Function>,
    /// How many.
    pub count: u64,
    /// Why, the most frequent reason first.
    pub reasons: Vec<Why>,
}

/// Failures for one reason, whatever namespace it names.
#[derive(Clone, Debug)]
pub struct Why {
    /// In words; without numbers of namespaces if it is of several.
    pub reason: Option<String>,
    /// Of how many sets of namespaces.
    pub variants: usize,
    /// By operation.
    pub ops: Tally<Op>,
    /// How often, and to whom.
    pub met: Met,
    /// Its words without any number of a namespace.
    pub shape: Option<String>,
}

impl Group {
    fn add(&mut self, failure: &Failure, met: &Met) {
        let shape = failure.reason.as_deref().map(shape);
        let at = self.reasons.iter().position(|why| why.shape == shape);
        let why = match at {
            Some(at) => &mut self.reasons[at],
            None => {
                self.reasons.push(Why {
                    reason: failure.reason.clone(),
                    variants: 1,
                    ops: Tally::default(),
                    met: Met::default(),
                    shape,
                });
                let last = self.reasons.len() - 1;
                &mut self.reasons[last]
            }
        };
        if why.reason != failure.reason {
            why.variants += 1;
            why.reason.clone_from(&why.shape);
        }
        why.ops.add_many(failure.op, met.count);
        why.met.add_all(met);
    }
}

/// A reason without the numbers of namespaces: `user:4026532139 has no uid_map yet` as
/// `user:… has no uid_map yet`.
pub fn shape(reason: &str) -> String {
    const KINDS: [&str; 2] = ["user:", "pid:"];
    let mut shape = String::with_capacity(reason.len());
    for (at, word) in reason.split(' ').enumerate() {
        if at > 0 {
            shape.push(' ');
        }
        let kind = KINDS.into_iter().find(|kind| word.starts_with(kind));
        let number = kind.and_then(|kind| word.strip_prefix(kind));
        let digits = |word: &str| word.bytes().take_while(u8::is_ascii_digit).count();
        match kind.zip(number) {
            Some((kind, number)) if digits(number) > 0 => {
                shape.push_str(kind);
                shape.push('…');
                shape.push_str(&number[digits(number)..]);
            }
            _ => shape.push_str(word),
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{Capability, PidsLimit};
    use nstrace_common::kind::Kind;

    #[test]
    fn a_shape_has_no_numbers_of_namespaces() {
        for (reason, expected) in [
            (
                "user:4026532139 has no uid_map yet",
                "user:… has no uid_map yet",
            ),
            (
                "CAP_SYS_ADMIN in user:4026532150 only, not in user:1, the owner",
                "CAP_SYS_ADMIN in user:… only, not in user:…, the owner",
            ),
            (
                "pids.max is 3 in /pid:x/user:",
                "pids.max is 3 in /pid:x/user:",
            ),
            ("user: pid:x", "user: pid:x"),
        ] {
            assert_eq!(shape(reason), expected);
        }
    }

    fn what(op: Op) -> What {
        What {
            op,
            errno: libc::EPERM,
            stage: Some(Function::CreateUserNs),
        }
    }

    #[test]
    fn reasons_that_differ_in_a_namespace_are_one() {
        let mut failures = Failures::default();
        let comm = |name: u8| Comm([name, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for (op, user, by) in [
            (Op::Clone, 7, b'a'),
            (Op::Clone3, 8, b'b'),
            (Op::Clone3, 8, b'b'),
        ] {
            let reason = Reason::NoIdMap("uid_map", user);
            failures.add(what(op), Some(reason), comm(by), 0);
        }
        failures.add(what(Op::Clone), None, comm(b'a'), 1);
        assert_eq!(failures.sorts().len(), 3);
        let groups = failures.groups();
        assert_eq!((groups.len(), groups[0].count), (1, 4));
        let [why, none] = &groups[0].reasons[..] else {
            panic!("{groups:?}");
        };
        assert_eq!(why.reason.as_deref(), Some("user:… has no uid_map yet"));
        assert_eq!((why.variants, why.met.count), (2, 3));
        assert_eq!(why.ops.ranked(), [(Op::Clone3, 2), (Op::Clone, 1)]);
        assert_eq!(why.met.comms.ranked()[0], (comm(b'b'), 2));
        assert_eq!((&none.reason, none.met.count), (&None, 1));
    }

    #[test]
    fn sorts_are_bounded_and_all_are_counted() {
        let mut failures = Failures::default();
        let most = SORTS_MAX as u32;
        for user in 0..3 * most {
            let limit = PidsLimit {
                cgroup: "/x".to_owned(),
                max: Some(user.into()),
            };
            for reason in [Reason::NoIdMap("uid_map", user), Reason::Pids(&limit)] {
                failures.add(what(Op::Clone), Some(reason), Comm([0; 16]), 0);
            }
        }
        let sorts = failures.sorts();
        assert!(sorts.len() <= 2 * SORTS_MAX + 16);
        let all: u64 = sorts.iter().map(|(_, met)| met.count).sum();
        assert_eq!(all, 6 * SORTS_MAX as u64);
        let shaped = Some("user:… has no uid_map yet".to_owned());
        let found = sorts.iter().find(|(failure, _)| failure.reason == shaped);
        assert!(found.is_some_and(|(_, met)| met.count > 1));
    }

    #[test]
    fn a_shape_is_that_of_the_words() {
        const CAPABILITY: Capability = Capability("CAP_SYS_ADMIN", 21);
        for reason in [
            Reason::NoCapability(CAPABILITY, 7),
            Reason::CapabilityElsewhere(CAPABILITY, 7, 8),
            Reason::AlreadyIn(7),
            Reason::NotBelow(7),
            Reason::Limit(Kind::Net, 3, 7),
            Reason::UserTooDeep(7),
            Reason::PidTooDeep(7),
            Reason::NoIdMap("gid_map", 7),
            Reason::PidForChildren(7, 8),
            Reason::PidOwnerNotAbove(7),
            Reason::DeadInit(7),
            Reason::Threads("CLONE_NEWUSER", 7),
            Reason::UnknownFlags(Op::Clone, 7),
            Reason::SharedFs(Kind::Mnt, 7),
        ] {
            let cause = Cause::new(Some(reason));
            assert!(matches!(cause, Cause::Reason(_)));
            let words = reason.to_string();
            assert_eq!(cause.words().as_ref(), Some(&words));
            assert_eq!(cause.into_shape().words(), Some(shape(&words)), "{words}");
        }
    }
}
