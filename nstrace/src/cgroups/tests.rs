use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn found(path: &str) -> Option<String> {
    let path = path.replace("ID", ID);
    container(path.as_bytes()).map(|id| String::from_utf8(id.to_vec()).unwrap())
}

#[test]
fn containers_of_engines_are_named() {
    for path in [
        "/docker/ID",
        "/system.slice/docker-ID.scope",
        "/system.slice/docker-ID.scope/init.scope",
        "/default/ID",
        "/system.slice/nerdctl-ID.scope",
        "/kubepods/burstable/pod1f5ad0c2-71a9-4c4d-8f0f-6b1f0f9f4b11/ID",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f5a.slice/cri-containerd-ID.scope",
        "/kubepods.slice/kubepods-pod1f5a.slice/crio-ID.scope",
        "/system.slice/containerd.service/kubepods-besteffort-pod1f5a.slice:cri-containerd:ID",
        "/machine.slice/libpod-ID.scope/container",
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
        "/libpod_parent/libpod-ID",
        "/ecs/2f1b/ID",
    ] {
        assert_eq!(found(path).as_deref(), Some(ID), "{path}");
    }
}

#[test]
fn the_innermost_container_counts() {
    let outer = ID.replace('0', "f");
    assert_eq!(
        found(&format!("/docker/{outer}/docker/ID")).as_deref(),
        Some(ID)
    );
    assert_eq!(found(&format!("/docker/{outer}/init.scope")), Some(outer));
    assert_eq!(found("/lxc.payload.web/docker/ID").as_deref(), Some(ID));
}

#[test]
fn machines_and_lxc_are_named() {
    for (path, name) in [
        ("/machine.slice/machine-web.scope", "web"),
        ("/machine.slice/machine-web.scope/payload/init.scope", "web"),
        (
            "/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt",
            "qemu\\x2d1\\x2dweb",
        ),
        ("/machine.slice/systemd-nspawn@web.service/payload", "web"),
        ("/lxc.payload.web", "web"),
        ("/lxc.payload.web/system.slice/ssh.service", "web"),
        ("/lxc.payload/web", "web"),
        ("/lxc/web/init.scope", "web"),
    ] {
        assert_eq!(found(path).as_deref(), Some(name), "{path}");
    }
}

#[test]
fn a_container_of_runc_by_hand_is_named() {
    for path in [
        "/demo",
        "/demo/init",
        "/user.slice/user-1000.slice/demo",
        "/system.slice/demo",
    ] {
        assert_eq!(found(path).as_deref(), Some("demo"), "{path}");
    }
}

#[test]
fn what_is_no_container_is_not_named() {
    for path in [
        "",
        "/",
        "/init.scope",
        "/system.slice",
        "/system.slice/ssh.service",
        "/system.slice/foo.service/sub",
        "/user.slice/user-1000.slice/session-3.scope",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope",
        "/docker",
        "/kubepods/burstable/pod1f5a",
        "/kubepods.slice/kubepods-pod1f5a.slice/crio-conmon-ID.scope",
        "/machine.slice/libpod-conmon-ID.scope",
        "/lxc.monitor.web",
        "/machine.slice/machine-.scope",
        "/system.slice/x0ID.scope",
    ] {
        assert_eq!(found(path), None, "{path}");
    }
}

#[test]
fn many_cgroups_do_not_fill_the_memory() {
    let mut cgroups = Cgroups::default();
    for id in 0..3 * GENERATION as u64 {
        cgroups.learn(id, b"/demo");
    }
    assert!(cgroups.young.len() + cgroups.old.len() <= 2 * GENERATION);
    let last = 3 * GENERATION as u64 - 1;
    assert_eq!(cgroups.path(last), Some(&b"/demo"[..]));
    assert_eq!(cgroups.container(last), Some(&b"demo"[..]));
    assert_eq!(cgroups.path(0), None);
}

#[test]
fn a_path_that_was_cut_is_not_taken_for_whole() {
    let mut cgroups = Cgroups::default();
    let path = [b'a'; CGROUP_PATH];
    cgroups.made(&Cgroup { id: 1, path: &path });
    assert_eq!(cgroups.path(1), None);
    cgroups.made(&Cgroup {
        id: 1,
        path: &path[1..],
    });
    assert_eq!(cgroups.path(1), Some(&path[1..]));
}
