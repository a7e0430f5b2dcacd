//! The namespaces of a task: where that of each kind is found, and what it says of itself.

use nstrace_common::{
    field::{Member, member},
    kind::Kind,
};

use crate::read::{Reader, has};

/// A kind of namespace, as a type: which members its instructions read is known when they
/// are compiled.
pub trait Namespace {
    const KIND: Kind;
    /// Its number.
    type Inum: Member;
    /// Its id, from v6.18.
    type Id: Member;
    /// The user namespace that it belongs to; for a user namespace its parent.
    type Owner: Member;

    /// The address of the namespace in an nsproxy; a user namespace is not in one.
    ///
    /// # Safety
    ///
    /// `nsproxy` must be an address that `R` can read.
    unsafe fn address<R: Reader>(nsproxy: u64) -> u64;

    /// Whether this kernel has the kind: time namespaces can be configured out.
    #[inline(always)]
    fn exists() -> bool {
        true
    }
}

macro_rules! namespace {
    ($kind:ident: $inum:ident $id:ident $owner:ident, $link:ident $($optional:ident)?) => {
        pub struct $kind;

        impl Namespace for $kind {
            namespace!(members $kind: $inum $id $owner);

            #[inline(always)]
            unsafe fn address<R: Reader>(nsproxy: u64) -> u64 {
                // SAFETY: the caller's promise.
                unsafe { R::get(nsproxy, member::$link) }
            }

            $(
                #[doc = stringify!($optional)]
                #[inline(always)]
                fn exists() -> bool {
                    has(member::$link)
                }
            )?
        }
    };
    (members $kind:ident: $inum:ident $id:ident $owner:ident) => {
        const KIND: Kind = Kind::$kind;
        type Inum = member::$inum;
        type Id = member::$id;
        type Owner = member::$owner;
    };
}

namespace!(Mnt: MntInum MntId MntOwner, NsproxyMnt);
namespace!(Uts: UtsInum UtsId UtsOwner, NsproxyUts);
namespace!(Ipc: IpcInum IpcId IpcOwner, NsproxyIpc);
namespace!(Pid: PidInum PidId PidOwner, NsproxyPid);
namespace!(Net: NetInum NetId NetOwner, NsproxyNet);
namespace!(Cgroup: CgroupInum CgroupId CgroupOwner, NsproxyCgroup);
namespace!(Time: TimeInum TimeId TimeOwner, NsproxyTime optional);

pub struct User;

impl Namespace for User {
    namespace!(members User: UserInum UserId UserParent);

    #[inline(always)]
    unsafe fn address<R: Reader>(_nsproxy: u64) -> u64 {
        0
    }
}

/// A block for each kind, which it knows as the type of the given name. A loop would look
/// the members up at run time.
macro_rules! for_each_kind {
    ($name:ident => $block:block) => {
        for_each_kind!($name => $block, Mnt Uts Ipc Pid Net User Cgroup Time)
    };
    ($name:ident => $block:block, $($kind:ident)*) => {
        $({
            type $name = $crate::namespaces::$kind;
            $block
        })*
    };
}
pub(crate) use for_each_kind;
