//! Jails: layout, user, namespaces, limits, files that the VMM can reach, and leftovers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::guest::{self, said};
use pyro_vmm::{CgroupVersion, DeathReason, Jail, VmmError, VmmLimits, VmmUsers};

fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_vmm_is_nobody_and_sees_nothing_else() {
    let place = guest::jailed();
    let (one, two) = (
        place.firecracker.launch(place.spec()).await.unwrap(),
        place.firecracker.launch(place.spec()).await.unwrap(),
    );
    said(&one, "here").await;
    let (uid, other) = (field(one.pid(), "Uid"), field(two.pid(), "Uid"));
    assert_ne!(uid, other, "each has a user of its own");
    let id: u32 = uid.split(' ').next().unwrap().parse().unwrap();
    assert!(place.firecracker.jail.as_ref().unwrap().users.ids.contains(&id));
    assert_eq!(uid, [id.to_string().as_str(); 4].join(" "));
    assert_eq!(field(one.pid(), "Gid"), uid);
    assert_eq!(field(one.pid(), "Groups"), "");
    assert_eq!(field(one.pid(), "CapEff"), "0000000000000000");
    assert_eq!(field(one.pid(), "Seccomp"), "2");
    assert!(field(one.pid(), "NSpid").ends_with(" 1"), "the first of a namespace of its own");
    for namespace in ["mnt", "pid"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(&one.pid().to_string()), of("self"));
        assert_ne!(of(&one.pid().to_string()), of(&two.pid().to_string()));
    }
    // The jail's root, seen from inside.
    let root = Path::new("/proc").join(one.pid().to_string()).join("root");
    let mut names: Vec<_> = walk(&root);
    names.sort();
    let expected = [
        "api.sock",
        "base.ext4",
        "dev",
        "dev/kvm",
        "dev/net",
        "dev/net/tun",
        "dev/urandom",
        "disk.ext4",
        "firecracker",
        "firecracker.pid",
        "initramfs",
        "kernel",
        "log",
        "run",
        "v.sock",
    ];
    names.retain(|name| name != "dev/userfaultfd");
    assert_eq!(names, expected);
    // Only the disk is writable, and only it belongs to the VMM's user.
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", one.pid())).unwrap();
    for name in ["kernel", "initramfs", "base.ext4", "disk.ext4"] {
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(&format!("/{name}"))).unwrap();
        let options: Vec<_> = line.split(' ').nth(5).unwrap().split(',').collect();
        assert_eq!(options[0], if name == "disk.ext4" { "rw" } else { "ro" }, "{line}");
        assert!(options.contains(&"nosuid") && options.contains(&"nodev") && options.contains(&"noexec"));
        let metadata = fs::metadata(root.join(name)).unwrap();
        assert_eq!(metadata.uid() == id, name == "disk.ext4", "{name}");
    }
    assert_eq!(mounts.lines().count(), 5, "its root and four files: {mounts}");
    // No mount of the jail is visible outside.
    let ours = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!ours.contains(place.dir.path().to_str().unwrap()), "{ours}");
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    place.assert_clean();
    assert!(guest::cgroups().is_empty(), "{:?}", guest::cgroups());
}

fn walk(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        }
        found.push(name);
    }
    found
}

#[tokio::test]
async fn the_vmm_has_its_limits() {
    let place = guest::jailed();
    let machine = place.firecracker.launch(place.spec()).await.unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", machine.pid())).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[26..].split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    let longest = ((64 << 20) + (16 << 20)).to_string();
    assert_eq!(limit("Max file size"), format!("{longest} {longest}"));
    assert_eq!(limit("Max open files"), "256 256");
    assert_eq!(limit("Max core file size"), "1 1");
    let id = field(machine.pid(), "Uid").split(' ').next().unwrap().to_owned();
    let memory = (128_u64 << 20).to_string();
    let expected: &[(&str, &str)] = match CgroupVersion::of_host().unwrap() {
        Some(CgroupVersion::V1) => {
            &[("memory/pyro/{}/memory.limit_in_bytes", &memory), ("pids/pyro/{}/pids.max", "9")]
        }
        Some(CgroupVersion::V2) => &[("pyro/{}/memory.max", &memory), ("pyro/{}/pids.max", "9")],
        None => panic!("this host has no cgroups with memory and pids: these limits are not tested"),
    };
    for (file, value) in expected {
        let path = Path::new("/sys/fs/cgroup").join(file.replace("{}", &id));
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), *value, "{}", path.display());
        let members = fs::read_to_string(path.with_file_name("cgroup.procs")).unwrap();
        assert!(members.lines().any(|line| line == machine.pid().to_string()), "{members}");
    }
    machine.stop().await.unwrap();
    place.assert_clean();
    assert!(guest::cgroups().is_empty(), "{:?}", guest::cgroups());
}

#[tokio::test]
async fn files_that_cannot_be_brought_in_are_named() {
    let place = guest::jailed();
    let spec = place.spec();
    let base = spec.parts.base.as_ref().unwrap();
    base.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let error = place.firecracker.launch(spec).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "bad machine specification: base.ext4 may not be read by others (mode 0600), and its VMM, which has a user of its own, is one"
    );
    let mut spec = place.spec();
    spec.parts.disk = Some(guest::memfd());
    let error = place.firecracker.launch(spec).await.unwrap_err();
    assert!(error.to_string().contains("disk.ext4 has no name on the file system of the jail"), "{error}");
    place.assert_clean();
}

#[tokio::test]
async fn what_cannot_start_in_its_jail_is_told() {
    let place = guest::jailed();
    let mut adapter = place.firecracker.clone();
    let jail = adapter.jail.clone().unwrap();
    // With fewer descriptors than it opens the VMM panics; the first process of a namespace cannot end by SIGABRT.
    adapter.jail = Some(Jail { limits: VmmLimits { open_files: 9, ..jail.limits }, ..jail.clone() });
    let error = adapter.launch(place.spec()).await.unwrap_err();
    let VmmError::Died { death, .. } = &error else { panic!("{error:?}") };
    assert_eq!(death.reason, DeathReason::Crash, "{death:?}");
    assert!(death.last_words().is_some_and(|line| line.contains("No file descriptors")), "{death:?}");
    adapter.jail = Some(Jail { binary: "/nonexistent/jailer".into(), ..jail.clone() });
    let error = adapter.launch(place.spec()).await.unwrap_err();
    assert!(matches!(&error, VmmError::BinaryMissing { .. }), "{error:?}");
    adapter.jail = Some(Jail { users: VmmUsers { ids: 0..5, ..jail.users.clone() }, ..jail });
    let error = adapter.launch(place.spec()).await.unwrap_err();
    assert!(matches!(&error, VmmError::Spec(_)), "{error:?}");
    place.assert_clean();
    assert!(guest::cgroups().is_empty(), "{:?}", guest::cgroups());
}
