//! Whatever is wrong with a template, the start works, says so in one line, and leaves a good one behind.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use pyro_core::backend::Preference;
use pyro_core::start::{Remark, StartDisk, StartMethod};
use pyro_vmm::{Accelerator, Shape};

use crate::backends::on_each_backend;
use crate::support::{BASE, Host, SHAPE, config, restored, shell, stop};

// The others put something in place of QEMU.
on_each_backend! {
    async
    a_damaged_template_costs_a_boot_and_one_line
    a_template_of_a_host_with_another_clock_rate_is_not_used
    a_template_of_another_kind_is_not_believed
    where_no_template_can_be_written_a_start_boots
}

type Damage = (&'static str, fn(&Path), &'static str);

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

fn cut(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

const DAMAGES: [Damage; 12] = [
    ("a memory file that was cut", |dir| cut(&dir.join("memory")), "bytes instead of"),
    ("a byte of memory", |dir| flip(&dir.join("memory"), 0x10_0000), "its memory was touched"),
    ("a byte of state", |dir| flip(&dir.join("state"), 1000), "its state was touched"),
    ("a state that was cut", |dir| cut(&dir.join("state")), "bytes instead of"),
    ("a byte of the disk", |dir| flip(&dir.join("disk.ext4"), 4096), "its disk.ext4 was touched"),
    ("no memory", |dir| fs::remove_file(dir.join("memory")).unwrap(), "its memory cannot be opened"),
    ("no manifest", |dir| fs::remove_file(dir.join("manifest.json")).unwrap(), "manifest cannot be read"),
    ("half a manifest", |dir| cut(&dir.join("manifest.json")), "manifest is damaged"),
    (
        "an edited manifest",
        |dir| {
            let path = dir.join("manifest.json");
            let text = fs::read_to_string(&path).unwrap().replace("\"vcpus\": 1", "\"vcpus\": 2");
            fs::write(path, text).unwrap();
        },
        "manifest is damaged",
    ),
    (
        "a copy of the same bytes",
        |dir| {
            fs::copy(dir.join("memory"), dir.join("copy")).unwrap();
            fs::rename(dir.join("copy"), dir.join("memory")).unwrap();
        },
        "its memory was touched",
    ),
    (
        "a link in place of a file",
        |dir| {
            fs::rename(dir.join("state"), dir.join("elsewhere")).unwrap();
            std::os::unix::fs::symlink("elsewhere", dir.join("state")).unwrap();
        },
        "its state cannot be opened",
    ),
    (
        "a directory that others can write to",
        |dir| fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap(),
        "others than this user",
    ),
];

async fn a_damaged_template_costs_a_boot_and_one_line(backend: Preference) {
    let host = Host::on(backend, BASE).await;
    stop(host.start(SHAPE, StartDisk::Blank).await.0).await;
    for (what, damage, said) in DAMAGES {
        damage(&host.template());
        let (guest, remarks) = host.start(SHAPE, StartDisk::Blank).await;
        assert_eq!(guest.how, StartMethod::Booted, "{what}");
        match remarks.as_slice() {
            [Remark::Unusable(why)] => assert!(why.contains(said), "{what}: {why}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(shell(&guest, "echo works").await, "works\n", "{what}");
        stop(guest).await;
        stop(restored(&host, SHAPE).await).await;
        assert_eq!(host.leftovers(), Vec::<std::path::PathBuf>::new(), "{what}");
    }
    // All of it gone is nothing to be said but that one is made.
    fs::remove_dir_all(host.dir.path().join("templates")).unwrap();
    let (guest, remarks) = host.start(SHAPE, StartDisk::Blank).await;
    assert_eq!((guest.how, remarks), (StartMethod::Booted, vec![Remark::First]));
    stop(guest).await;
}

/// On a disk that was moved to another host everything else about a template may still be right, and its guest's clock
/// would go by that other host's counter. Under KVM the counter's rate is part of what is saved.
async fn a_template_of_a_host_with_another_clock_rate_is_not_used(backend: Preference) {
    use sha2::Digest as _;
    let host = Host::on(backend, BASE).await;
    stop(host.start(SHAPE, StartDisk::Blank).await.0).await;
    let path = host.template().join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove("checksum").unwrap();
    let khz = manifest["tsc_khz"].as_u64().unwrap();
    manifest["tsc_khz"] = (khz + khz / 100).into();
    let sum: String = sha2::Sha256::digest(serde_json::to_vec(&manifest).unwrap())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    manifest["checksum"] = sum.into();
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    if host.choice.vmm.accelerator() == Accelerator::Kvm {
        stop(restored(&host, SHAPE).await).await;
        return;
    }
    let (guest, remarks) = host.start(SHAPE, StartDisk::Blank).await;
    assert_eq!(guest.how, StartMethod::Booted);
    match remarks.as_slice() {
        [Remark::Unusable(why)] => assert!(why.contains("clock goes by a counter"), "{why}"),
        other => panic!("{other:?}"),
    }
    stop(guest).await;
    stop(restored(&host, SHAPE).await).await;
}

async fn a_template_of_another_kind_is_not_believed(backend: Preference) {
    let host = Host::on(backend, BASE).await;
    let other = Shape { vcpus: 1, mem_mib: 288 };
    stop(host.start(other, StartDisk::Blank).await.0).await;
    let theirs = host.template();
    stop(host.start(SHAPE, StartDisk::Blank).await.0).await;
    let root = host.dir.path().join("templates");
    let mut ours = fs::read_dir(root).unwrap().flatten().map(|entry| entry.path().join("template"));
    let ours = ours.find(|path| *path != theirs).unwrap();
    fs::remove_dir_all(&ours).unwrap();
    fs::rename(&theirs, &ours).unwrap();
    let (guest, remarks) = host.start(SHAPE, StartDisk::Blank).await;
    assert_eq!(guest.how, StartMethod::Booted);
    assert_eq!(remarks, [Remark::Unusable("it was made for something else".into())]);
    stop(guest).await;
    stop(restored(&host, SHAPE).await).await;
}

const WORKS: &str = "broken=0";
const BROKEN: &str = "broken=1";

/// Makes the script into the other one, which to all that a template's key knows of it is the same: in its sandbox it
/// sees no file that could tell it.
fn turn(host: &Host, from: &str, into: &str) {
    let script = host.dir.path().join("qemu");
    let made = fs::metadata(&script).unwrap().modified().unwrap();
    let text = fs::read_to_string(&script).unwrap();
    assert!(text.contains(from));
    fs::write(&script, text.replace(from, into)).unwrap();
    fs::File::options().write(true).open(&script).unwrap().set_modified(made).unwrap();
}

/// A host whose QEMU boots well and does `instead` when it is to restore.
async fn host_with_qemu_that(instead: &str) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("qemu");
    let text = format!(
        "#!/bin/sh\n{WORKS}\ncase \"$*\" in *-incoming*) if [ $broken = 1 ]; then {instead}; fi;; esac\n\
         exec /usr/bin/qemu-system-x86_64 \"$@\"\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let config = pyro_core::config::Config { qemu_binary: script, ..config(dir.path()) };
    Host::with(dir, config, Preference::Qemu, BASE).await
}

async fn refused_at_restore(instead: &str, said: &str) {
    let host = host_with_qemu_that(instead).await;
    stop(host.start(SHAPE, StartDisk::Blank).await.0).await;
    turn(&host, WORKS, BROKEN);
    let (guest, remarks) = host.start(SHAPE, StartDisk::Blank).await;
    assert_eq!(guest.how, StartMethod::Booted);
    match remarks.as_slice() {
        [Remark::Unusable(why)] => assert!(why.contains(said), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(shell(&guest, "echo works").await, "works\n");
    stop(guest).await;
    turn(&host, BROKEN, WORKS);
    stop(restored(&host, SHAPE).await).await;
}

#[tokio::test]
async fn a_vmm_that_refuses_the_state_costs_a_boot() {
    refused_at_restore("echo 'qemu: error while loading state' >&2; exit 1", "error while loading state")
        .await;
}

#[tokio::test]
async fn a_vmm_that_hangs_with_the_state_costs_its_deadline_and_a_boot() {
    refused_at_restore("exec sleep 1000", "did not finish qmp_capabilities").await;
}

/// The guest itself runs, and never says a word.
#[tokio::test]
async fn a_restored_guest_that_is_silent_costs_its_deadline_and_a_boot() {
    // Its port leads to a file: the state loads, the guest runs, and its words go nowhere.
    refused_at_restore(
        "n=; for a in \"$@\"; do case \"$a\" in socket,id=port,*) a=file,id=port,path=/dev/null;; esac; \
         n=\"$n '$a'\"; done; eval exec /usr/bin/qemu-system-x86_64 \"$n\"",
        "15 s",
    )
    .await;
}

async fn where_no_template_can_be_written_a_start_boots(backend: Preference) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    fs::write(dir.path().join("file"), "").unwrap();
    config.template_dir = dir.path().join("file/templates");
    let host = Host::with(dir, config, backend, BASE).await;
    for _ in 0..2 {
        let (guest, remarks) = host.start(SHAPE, StartDisk::Blank).await;
        assert_eq!(guest.how, StartMethod::Booted);
        assert!(matches!(remarks.as_slice(), [Remark::NotSaved(_)]), "{remarks:?}");
        assert_eq!(shell(&guest, "echo works").await, "works\n");
        stop(guest).await;
    }
}
