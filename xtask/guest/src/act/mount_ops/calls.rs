//! What is done, one system call after the other.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use libc::{MS_BIND, MS_MOVE, MS_NODEV, MS_PRIVATE, MS_RDONLY, MS_REC, MS_REMOUNT};

use super::{Crew, Entry, HERE, Plan, c_path, call, escaped, show, tell};
use crate::keeper;
use crate::kinds::NEWNS;
use crate::sys::{self, Call};

impl Crew {
    /// By mount(2) and umount2(2).
    pub fn classic(&self) -> Result<()> {
        let (a, b, c) = (self.made("a")?, self.made("b")?, self.made("c")?);
        self.tmpfs("new", &a)?;
        let x = self.made("a/x")?;
        self.tmpfs("below", &x)?;
        let source = a.to_string_lossy();
        self.mount("bind", "bind", (Some(&source), &b, None), MS_BIND, 1)?;
        self.mount(
            "rbind",
            "bind",
            (Some(&source), &c, None),
            MS_BIND | MS_REC,
            2,
        )?;
        let flags = MS_REMOUNT | MS_BIND | MS_RDONLY;
        self.mount("bind remount", "bind_remount", (None, &b, None), flags, 0)?;
        self.mount(
            "remount",
            "remount",
            (None, &a, None),
            MS_REMOUNT | MS_NODEV,
            0,
        )?;
        let p = self.made("p")?;
        self.tmpfs("to be private", &p)?;
        self.mount("private", "private", (None, &p, None), MS_PRIVATE, 0)?;
        let (from, to) = (self.made("p/from")?, self.made("to")?);
        self.tmpfs("to be moved", &from)?;
        let source = from.to_string_lossy();
        self.mount("move", "move", (Some(&source), &to, None), MS_MOVE, 0)?;
        // What is mounted on a shared mount cannot be moved.
        let source = to.to_string_lossy();
        self.mount(
            "move shared",
            "move",
            (Some(&source), &from, None),
            MS_MOVE,
            0,
        )?;
        // What was on it was a peer of what is on the directory that it was bound of.
        self.umount("lazy", &c, libc::MNT_DETACH, 2)?;
        self.umount("plain", &b, 0, 1)?;
        self.tmpfs("below again", &x)?;
        self.umount("expire", &to, libc::MNT_EXPIRE, 1)?;
        self.umount("expired", &to, libc::MNT_EXPIRE, 1)?;
        Ok(())
    }

    /// What the kernel refuses.
    pub fn failures(&self) -> Result<()> {
        let nowhere = self.at("nowhere");
        self.tmpfs("mount nowhere", &nowhere)?;
        let none = (Some("x"), self.at("b"), Some("nofs"));
        self.mount("no file system", "new", (none.0, &none.1, none.2), 0, 1)?;
        let target = self.at("b");
        self.mount(
            "bind nothing",
            "bind",
            (Some("/nowhere"), &target, None),
            MS_BIND,
            1,
        )?;
        self.umount("umount nowhere", &nowhere, 0, 1)?;
        self.umount("no mount point", &target, 0, 1)?;
        self.umount("has mounts", &self.at("a"), 0, 1)?;
        let held = File::create(self.at("a/x/held"))?;
        self.umount("in use", &self.at("a/x"), 0, 1)?;
        drop(held);
        self.umount("unknown flags", &self.at("a/x"), 0x100, 1)?;
        let (mut ready, said) = sys::pipe()?;
        let pid = sys::spawn(Call::Fork, 0, || keeper::status(self.ordinary(&said)));
        ensure!(pid > 0, "no child: errno {}", -pid);
        drop(said);
        let _ = ready.read(&mut [0])?;
        ensure!(
            sys::wait(pid)? == sys::End::Code(0),
            "an ordinary user failed"
        );
        Ok(())
    }

    /// What an ordinary user may not do.
    fn ordinary(&self, _said: &File) -> Result<()> {
        let own = self.alone()?;
        sys::become_user(1000)?;
        own.tmpfs("no right to mount", &self.at("b"))?;
        own.umount("no right to unmount", &self.at("a/x"), 0, 1)?;
        Ok(())
    }

    /// By descriptors.
    pub fn descriptors(&self) -> Result<()> {
        const FSCONFIG_SET_STRING: usize = 1;
        const FSCONFIG_CMD_CREATE: usize = 6;
        const FSCONFIG_CMD_RECONFIGURE: usize = 7;
        const F_EMPTY_PATH: usize = 4;
        const OPEN_TREE_CLONE: usize = 1;
        const AT_RECURSIVE: usize = 0x8000;
        const NOSUID: usize = 2;
        let at = |text: &CString| text.as_ptr() as usize;
        let text = |text: &str| CString::new(text);
        let (tmpfs, nofs, empty) = (text("tmpfs")?, text("nofs")?, text("")?);
        self.perform(Plan::new("fsopen nofs", "fsopen"), || {
            call(libc::SYS_fsopen, [at(&nofs), 0, 0, 0, 0])
        })?;
        let context = self.perform(Plan::new("fsopen", "fsopen"), || {
            call(libc::SYS_fsopen, [at(&tmpfs), 0, 0, 0, 0])
        })?;
        let (context, context_fd) = descriptor(context)?;
        // Not an operation: it only sets an option.
        let (size, value) = (text("size")?, text("1m")?);
        let args = [context_fd, FSCONFIG_SET_STRING, at(&size), at(&value), 0];
        ensure!(call(libc::SYS_fsconfig, args) == 0, "fsconfig");
        let unknown = text("nonsense")?;
        let plan = Plan {
            source: Some("nonsense"),
            ..Plan::new("unknown option", "fsconfig")
        };
        self.perform(plan, || {
            let args = [context_fd, FSCONFIG_SET_STRING, at(&unknown), at(&value), 0];
            call(libc::SYS_fsconfig, args)
        })?;
        self.perform(Plan::new("create", "fsconfig"), || {
            call(
                libc::SYS_fsconfig,
                [context_fd, FSCONFIG_CMD_CREATE, 0, 0, 0],
            )
        })?;
        let plan = Plan {
            unseen: 1,
            ..Plan::new("fsmount", "fsmount")
        };
        let mounted = self.perform(plan, || {
            call(libc::SYS_fsmount, [context_fd, 0, NOSUID, 0, 0])
        })?;
        let (mounted, mounted_fd) = descriptor(mounted)?;
        drop(context);
        let nowhere = self.at("nowhere");
        let (n, t) = (self.made("n")?, self.made("t")?);
        for (note, target, own) in [("move nowhere", &nowhere, 1), ("move_mount", &n, 1)] {
            let c_target = c_path(target)?;
            let plan = Plan {
                source: Some(""),
                target: Some(target),
                own,
                unseen: -1,
                ..Plan::new(note, "move_mount")
            };
            self.perform(plan, || {
                let args = [mounted_fd, at(&empty), HERE, at(&c_target), F_EMPTY_PATH];
                call(libc::SYS_move_mount, args)
            })?;
        }
        drop(mounted);
        let a = self.at("a");
        let c_a = c_path(&a)?;
        // Not an operation: it only opens the path.
        let opened = call(libc::SYS_open_tree, [HERE, at(&c_a), 0, 0, 0]);
        drop(descriptor(opened)?);
        let source = a.to_string_lossy();
        let plan = Plan {
            source: Some(&source),
            unseen: 2,
            ..Plan::new("open_tree", "open_tree")
        };
        let tree = self.perform(plan, || {
            let flags = OPEN_TREE_CLONE | AT_RECURSIVE;
            call(libc::SYS_open_tree, [HERE, at(&c_a), flags, 0, 0])
        })?;
        let (tree, tree_fd) = descriptor(tree)?;
        let attributes: [u64; 4] = [1, 0, 0, 0];
        let flags = libc::AT_EMPTY_PATH as usize | AT_RECURSIVE;
        let args = [tree_fd, at(&empty), flags, attributes.as_ptr() as usize, 32];
        // Up to v5.11 there is none, and nobody to tell of it.
        let is_there = call(libc::SYS_mount_setattr, [0; 5]) != -i64::from(libc::ENOSYS);
        if is_there {
            // Of no length it was EINVAL just now.
            tell(&Entry {
                note: "mount_setattr of nothing".to_owned(),
                tid: self.tid,
                op: "mount_setattr".to_owned(),
                errno: libc::EINVAL,
                ..Entry::default()
            })?;
            let plan = Plan {
                target: Some(Path::new("")),
                ..Plan::new("mount_setattr", "mount_setattr")
            };
            self.perform(plan, || call(libc::SYS_mount_setattr, args))?;
        }
        let c_t = c_path(&t)?;
        let plan = Plan {
            source: Some(""),
            target: Some(&t),
            own: 2,
            unseen: -2,
            ..Plan::new("move tree", "move_mount")
        };
        self.perform(plan, || {
            let args = [tree_fd, at(&empty), HERE, at(&c_t), F_EMPTY_PATH];
            call(libc::SYS_move_mount, args)
        })?;
        drop(tree);
        let c_n = c_path(&n)?;
        let plan = Plan {
            target: Some(&n),
            ..Plan::new("fspick", "fspick")
        };
        let picked = self.perform(plan, || call(libc::SYS_fspick, [HERE, at(&c_n), 0, 0, 0]))?;
        let (picked, picked_fd) = descriptor(picked)?;
        self.perform(Plan::new("reconfigure", "fsconfig"), || {
            let args = [picked_fd, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0];
            call(libc::SYS_fsconfig, args)
        })?;
        drop(picked);
        Ok(())
    }

    /// A path that no terminal should see.
    pub fn hostile(&self) -> Result<()> {
        let name = std::ffi::OsStr::from_bytes(b"h\n\x1b[2J\\\xff");
        let path = self.dir.join(name);
        fs::create_dir(&path)?;
        self.tmpfs("hostile", &path)?;
        self.umount("hostile gone", &path, 0, 1)?;
        Ok(())
    }

    /// Another root, in a child with a mount namespace of its own.
    pub fn pivots(&self) -> Result<()> {
        let from = self.mounts(self.tid)?;
        let (mut ready, said) = sys::pipe()?;
        let (wait, goes_on) = sys::pipe()?;
        let said_fd = said.as_raw_fd();
        let pid = sys::spawn(Call::Clone, NEWNS, || {
            keeper::status(self.pivot(said_fd, &wait))
        });
        ensure!(pid > 0, "no child: errno {}", -pid);
        drop(said);
        ready.read_exact(&mut [0])?;
        self.copied("clone pivot", &from, pid as u32)?;
        (&goes_on).write_all(b".")?;
        ensure!(sys::wait(pid)? == sys::End::Code(0), "no other root");
        Ok(())
    }

    pub fn pivot(&self, said: i32, mut wait: &File) -> Result<()> {
        // SAFETY: the descriptor is ours in the child.
        let mut said = unsafe { File::from_raw_fd(said) };
        said.write_all(b".")?;
        wait.read_exact(&mut [0])?;
        let own = self.alone()?;
        let root = Path::new("/");
        own.mount(
            "alone",
            "private",
            (None, root, None),
            MS_REC | MS_PRIVATE,
            0,
        )?;
        let new = own.made("b")?;
        own.tmpfs("new root", &new)?;
        let old = own.made("b/old")?;
        let (c_new, c_old) = (c_path(&new)?, c_path(&old)?);
        let source = new.to_string_lossy();
        // It is told, not looked at: our root is another one after it.
        let args = [c_new.as_ptr() as usize, c_old.as_ptr() as usize, 0, 0, 0];
        let ret = call(libc::SYS_pivot_root, args);
        tell(&Entry {
            note: "pivot_root".to_owned(),
            tid: own.tid,
            op: "pivot_root".to_owned(),
            errno: if ret < 0 { -ret as i32 } else { 0 },
            source: Some(escaped(source.as_bytes())),
            target: Some(show(&old)),
            target_path: Some(show(&old)),
            ..Entry::default()
        })
    }
}

/// A new descriptor, and its number.
fn descriptor(ret: i64) -> Result<(OwnedFd, usize)> {
    if ret < 0 {
        bail!(
            "no descriptor: {}",
            std::io::Error::from_raw_os_error(-ret as i32)
        );
    }
    // SAFETY: a new descriptor, which nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(ret as i32) };
    let number = fd.as_raw_fd() as usize;
    Ok((fd, number))
}
