//! The tree of namespaces: as text, as a list, as JSON, and as it changes.
//!
//! ```text
//! user:4026531837 (first)
//!   pid:4026531836 (first)
//!     mnt:4026531841 uts:4026531838 ipc:4026531839 net:4026531840 …
//!       87 tasks: systemd[1], sshd[812], …
//!     pid:4026532279, made by runc[4242] clone, 3m12s ago
//!       container web (3f2a91c04b7d)
//!         mnt:4026532276 uts:4026532277 ipc:4026532278 net:4026532281
//!           3 tasks: nginx[4300] (2 threads), nginx[4302]
//!           made by runc[4242] unshare, 3m12s ago
//!   net:4026532400
//!     bind mount /run/netns/blue in mnt:4026531841
//! ```
//!
//! [`index`] says what stands where. The first namespaces of most kinds are where nearly
//! everything is: only the first set of tasks names them.

mod change;
mod index;
mod json;
mod outline;
mod page;
mod recent;
mod view;
mod watch;
pub(super) mod words;

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub use self::{
    change::Changes,
    json::tree as tree_json,
    recent::Recent,
    view::{TreeFilter, TreeView},
    watch::watch,
    words::unseen,
};
pub(super) use self::{
    index::{Index, first},
    json::{
        died as died_json, head as head_json, maker as maker_json, namespace as namespace_json,
        out_of_sight as out_of_sight_json, task as task_json,
    },
    outline::Outline,
    page::{Mark, Page, fitted},
};
use super::Text;
use crate::world::World;

/// Appends the tree; with kinds that were asked for, their namespaces as a list.
pub fn tree(out: &mut Text, world: &World, view: &TreeView) {
    let index = Index::new(world, view, None);
    let mut page = Page::new(out, view.width, view.color);
    words::missing(&mut page, world, view);
    let outline = Outline {
        index: &index,
        view,
        recent: None,
    };
    match view.filter.kinds.is_empty() {
        true => outline.print(&mut page),
        false => outline.list(&mut page),
    }
}
