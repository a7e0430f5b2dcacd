//! Which functions a successful operation passes, from the kernel's source:
//! copy_process and ksys_unshare of kernel/fork.c, create_new_namespaces and
//! validate_nsset of kernel/nsproxy.c.

use super::line::Stage;
use crate::book::Entry;
use crate::kinds::{KINDS, NEWUSER};

/// create_new_namespaces makes them in this order, by index of the kind.
const COPIED_IN_ORDER: [usize; 7] = [0, 1, 2, 3, 6, 4, 7];

/// setns enters them in this order.
pub const ENTERED_IN_ORDER: [usize; 8] = [5, 0, 1, 2, 3, 6, 4, 7];

/// The functions that a successful operation passes, with their depth. None if
/// that does not follow from its flags.
fn expected(entry: &Entry) -> Option<Vec<(&'static str, u32)>> {
    let in_order = |order: &[usize], flags: u64| -> Vec<usize> {
        order
            .iter()
            .copied()
            .filter(|kind| flags & KINDS[*kind].flag != 0)
            .collect()
    };
    let copies = in_order(&COPIED_IN_ORDER, entry.flags);
    let mut stages = Vec::new();
    if entry.op != "setns" && entry.flags & NEWUSER != 0 {
        stages.push(("create_user_ns", 0));
    }
    let mut copy = |depth: u32| {
        if !copies.is_empty() {
            stages.push(("create_new_namespaces", depth));
            stages.extend(copies.iter().map(|kind| (KINDS[*kind].copy, depth + 1)));
        }
    };
    match entry.op.as_str() {
        "clone" | "clone3" => {
            // A copy is below copy_namespaces, whose place is before it.
            copy(1);
            let at = stages
                .iter()
                .position(|(_, depth)| *depth > 0)
                .unwrap_or(stages.len());
            stages.insert(at, ("copy_namespaces", 0));
            stages.push(("alloc_pid", 0));
        }
        "unshare" => {
            copy(0);
            if !copies.is_empty() {
                stages.push(("switch_task_namespaces", 0));
            }
        }
        // With a descriptor the kind need not be in the flags.
        "setns" if entry.flags != 0 => {
            let entered = in_order(&ENTERED_IN_ORDER, entry.flags);
            stages.extend(entered.iter().map(|kind| (KINDS[*kind].install, 0)));
            stages.push(("switch_task_namespaces", 0));
        }
        _ => return None,
    }
    Some(stages)
}

/// What differs between the functions that a successful operation must have
/// passed and those that nstrace reports.
pub fn difference(entry: &Entry, stages: &[Stage]) -> Option<String> {
    if stages
        .windows(2)
        .any(|pair| pair[0].start_ns > pair[1].start_ns)
    {
        return Some("stages are not in the order in which they began".to_owned());
    }
    let expected = expected(entry)?;
    // setns, and a clone whose children have another time namespace, pass it with
    // nothing to make.
    let makes = expected
        .iter()
        .any(|(name, _)| *name == "create_new_namespaces");
    let found: Vec<(&str, u32)> = stages
        .iter()
        .map(|stage| (stage.stage.as_str(), stage.depth))
        .filter(|(name, _)| makes || *name != "create_new_namespaces")
        .collect();
    (found != expected).then(|| format!("stages {}, not {}", show(&found), show(&expected)))
}

fn show(stages: &[(&str, u32)]) -> String {
    let names: Vec<String> = stages
        .iter()
        .map(|(name, depth)| format!("{}{name}", ">".repeat(*depth as usize)))
        .collect();
    format!("[{}]", names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{NEWCGROUP, NEWNET, NEWNS, NEWPID};

    fn names(op: &str, flags: u64) -> String {
        let entry = Entry {
            op: op.to_owned(),
            flags,
            ..Entry::default()
        };
        show(&expected(&entry).unwrap())
    }

    #[test]
    fn a_clone_copies_below_copy_namespaces() {
        assert_eq!(
            names("clone", NEWUSER | NEWNS | NEWPID),
            "[create_user_ns copy_namespaces >create_new_namespaces >>copy_mnt_ns >>copy_pid_ns \
             alloc_pid]"
        );
        assert_eq!(
            names("clone3", NEWUSER),
            "[create_user_ns copy_namespaces alloc_pid]"
        );
    }

    #[test]
    fn an_unshare_of_a_user_namespace_alone_switches_nothing() {
        assert_eq!(names("unshare", NEWUSER), "[create_user_ns]");
        assert_eq!(
            names("unshare", NEWNET | NEWCGROUP),
            "[create_new_namespaces >copy_cgroup_ns >copy_net_ns switch_task_namespaces]"
        );
    }

    #[test]
    fn setns_enters_the_user_namespace_first() {
        assert_eq!(
            names("setns", NEWUSER | NEWNS | NEWNET),
            "[userns_install mntns_install netns_install switch_task_namespaces]"
        );
    }
}
