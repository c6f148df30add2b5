//! Hosts, caches and files on a bad day: one clear line, the right exit code, nothing left.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use pyro_core::backend::Preference;

use crate::backends::on_each_backend;
use crate::support::{Over, Said, World, prepared};

// The others are about the host or about one backend.
on_each_backend! {
    a_damaged_kernel_is_never_booted
    a_damaged_manifest_is_refused
    a_damaged_root_image_is_never_booted
    a_read_only_environment_cache_is_enough
    a_full_disk_under_the_vm_is_an_error_in_the_guest_and_no_hang
    more_memory_than_the_host_has_is_refused_before_anything_starts
}

/// A copy of the prepared bundle that a test may damage.
fn bundle_copy(world: &mut World) -> PathBuf {
    let copy = world.home.path().join("bundle");
    copy_dir(&prepared("PYRO_RUNTIME_BUNDLE_DIR"), &copy);
    world.set("PYRO_RUNTIME_BUNDLE_DIR", &copy);
    copy
}

/// A copy of the prepared `debian:12-base`, and nothing else, that a test may damage.
fn environments_copy(world: &mut World) -> PathBuf {
    let copy = world.home.path().join("environments");
    copy_dir(&prepared("PYRO_ENVIRONMENT_CACHE_DIR"), &copy);
    world.set("PYRO_ENVIRONMENT_CACHE_DIR", &copy);
    copy
}

fn copy_dir(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--sparse=always"]).args([from, to]).status().unwrap();
    assert!(status.success());
}

fn one_error(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:?}");
    let errors = said.err.lines().filter(|line| line.starts_with("[error]")).count();
    assert_eq!(errors, 1, "{said:?}");
    for part in parts {
        assert!(said.err.contains(part), "{part:?} is not in {said:?}");
    }
}

/// The file of this name below `dir`.
fn find(dir: &Path, name: &str) -> PathBuf {
    let out = Command::new("find").arg(dir).args(["-type", "f", "-name", name]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    PathBuf::from(text.lines().next().unwrap_or_else(|| panic!("no {name} below {}", dir.display())))
}

/// Turns one byte in the middle of a file over.
fn damage(file: &Path) {
    let mode = fs::metadata(file).unwrap().permissions();
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    let handle = fs::File::options().read(true).write(true).open(file).unwrap();
    let at = handle.metadata().unwrap().len() / 2;
    let mut byte = [0];
    handle.read_exact_at(&mut byte, at).unwrap();
    handle.write_all_at(&[!byte[0]], at).unwrap();
    drop(handle);
    fs::set_permissions(file, mode).unwrap();
}

const TRUE: [&str; 4] = ["run", "debian:12-base", "--", "true"];

#[test]
fn no_qemu_is_said_with_the_package() {
    let mut world = World::new();
    world.set("PYRO_QEMU", "/nonexistent/qemu");
    one_error(&world.pyro(&TRUE), 1, &["/nonexistent/qemu", "qemu-system-x86"]);
}

#[test]
fn without_any_guest_the_host_stands_in_only_when_allowed_and_loudly() {
    let mut world = World::new();
    world.set("PYRO_QEMU", "/nonexistent/qemu");
    let said = world.pyro(&["run", "--allow-host-compat", "debian:12-base", "--", "echo $PPID; exit 5"]);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.err.contains("NO isolation") && said.err.contains("execution_mode=host_compat"), "{said:?}");
    let said = world.pyro(&["run", "--json", "--allow-host-compat", "debian:12-base", "--", "true"]);
    let object = said.json();
    assert_eq!((&object["execution_mode"], &object["backend"]), (&"host_compat".into(), &"host".into()));
    // Where a guest can run, the flag changes nothing.
    let said = World::new().pyro(&["run", "--allow-host-compat", "debian:12-base", "--", "hostname"]);
    assert!(said.stdout().starts_with("pyro-"), "{said:?}");
}

/// Where Firecracker runs guests it is used; elsewhere asking for it is an error with the reason, and `auto` goes on with
/// something else and says why.
#[test]
fn firecracker_is_used_or_refused_with_the_reason() {
    let world = World::of_any_backend();
    let asked =
        world.pyro(&["run", "--json", "--backend", "firecracker", "debian:12-base", "--", "echo hello"]);
    let auto = world.pyro(&["run", "--json", "debian:12-base", "--", "echo hello"]);
    assert_eq!((auto.code, &auto.json()["stdout"]), (Some(0), &"hello\n".into()), "{auto:?}");
    if asked.code == Some(0) {
        assert_eq!(asked.json()["backend"], "firecracker");
        assert_eq!(auto.json()["backend"], "firecracker");
    } else {
        println!(
            "NOT TESTED: guests under Firecracker, which does not run them here: {}",
            asked.json()["error"]
        );
        let error = asked.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains("the firecracker backend cannot be used: "), "{error}");
        assert!(asked.json()["hint"].as_str().unwrap().contains("pyro doctor"), "{asked:?}");
        assert_eq!(auto.json()["backend"], "qemu");
    }
}

fn a_damaged_kernel_is_never_booted(backend: Preference) {
    let mut world = World::on(backend);
    let bundle = bundle_copy(&mut world);
    // Seen good once, so that only the change can tell.
    assert_eq!(world.pyro(&TRUE).code, Some(0));
    damage(&find(&bundle, "vmlinux"));
    one_error(&world.pyro(&TRUE), 1, &["vmlinux"]);
    let said = world.pyro(&["doctor"]);
    assert!(said.code == Some(1) && said.stdout().contains("FAIL  runtime"), "{said:?}");
}

fn a_damaged_manifest_is_refused(backend: Preference) {
    let mut world = World::on(backend);
    let bundle = bundle_copy(&mut world);
    for text in ["", "{", "[]", "{\"schema\": 999}"] {
        fs::write(bundle.join("manifest.json"), text).unwrap();
        one_error(&world.pyro(&TRUE), 1, &["manifest.json"]);
    }
}

fn a_damaged_root_image_is_never_booted(backend: Preference) {
    let mut world = World::on(backend);
    let environments = environments_copy(&mut world);
    assert_eq!(world.pyro(&TRUE).code, Some(0));
    damage(&find(&environments.join("debian-12-base"), "base.ext4"));
    let said = world.pyro(&TRUE);
    // Either it was installed anew and then ran, or it was refused: what was damaged did not run.
    if said.code == Some(0) {
        assert!(said.err.contains("[pull] phase=ready"), "{said:?}");
    } else {
        one_error(&said, 1, &["base.ext4"]);
    }
}

fn a_read_only_environment_cache_is_enough(backend: Preference) {
    let mut world = World::on(backend);
    let environments = environments_copy(&mut world);
    let mounted = Mounted::read_only(&environments);
    let said = world.pyro(&TRUE);
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = world.pyro(&["env", "prune"]);
    assert!(said.code == Some(0) || said.err.contains("[error]"), "{said:?}");
    drop(mounted);
}

#[test]
fn an_empty_read_only_environment_cache_is_one_clear_line() {
    let mut world = World::new();
    let empty = world.home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    world.set("PYRO_ENVIRONMENT_CACHE_DIR", &empty);
    let mounted = Mounted::read_only(&empty);
    let said = world.pyro(&TRUE);
    one_error(&said, 1, &[empty.to_str().unwrap(), "PYRO_ENVIRONMENT_CACHE_DIR"]);
    drop(mounted);
    // A file where the directory should be.
    fs::remove_dir(&empty).unwrap();
    fs::write(&empty, "x").unwrap();
    one_error(&world.pyro(&TRUE), 1, &[empty.to_str().unwrap()]);
}

#[test]
fn a_full_disk_under_the_cache_is_one_clear_line_and_leaves_nothing() {
    let mut world = World::new();
    let full = world.home.path().join("full");
    fs::create_dir(&full).unwrap();
    let mounted = Mounted::tmpfs(&full, "16m");
    world.set("PYRO_ENVIRONMENT_CACHE_DIR", &full);
    let said = world.pyro(&["env", "pull", "debian:12-base"]);
    one_error(&said, 1, &["space"]);
    let left = Command::new("du").args(["-sk"]).arg(&full).output().unwrap();
    let kib: u64 =
        String::from_utf8(left.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 1024, "{kib} KiB were left behind");
    drop(mounted);
}

fn a_full_disk_under_the_vm_is_an_error_in_the_guest_and_no_hang(backend: Preference) {
    let mut world = World::on(backend);
    let small = world.home.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = Mounted::tmpfs(&small, "64m");
    world.set("PYRO_CACHE_DIR", &small);
    let script = "dd if=/dev/zero of=/workspace/big bs=1M count=160; sync /workspace/big; echo code $?";
    let said = world.pyro(&["run", "--timeout-seconds", "90", "debian:12-base", "--", script]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout().contains("code 1"), "{said:?}");
    drop(mounted);
}

#[test]
fn a_kernel_that_hangs_meets_its_deadline_with_its_console() {
    let mut world = World::new();
    world.set("PYRO_BOOT_TIMEOUT_SECONDS", "8");
    let hanging = hanging_vmm(&world);
    world.set("PYRO_QEMU", hanging);
    world.set("PYRO_BACKEND", "qemu");
    let said = world.pyro(&TRUE);
    one_error(&said, 1, &["did not answer within 8 s", "console"]);
}

/// The real QEMU, with a kernel line that makes the real kernel stop before it starts its init: the agent never runs.
/// Only for VMs with a root: the boot that chooses the backend works.
fn hanging_vmm(world: &World) -> PathBuf {
    let path = world.home.path().join("qemu");
    let script = "#!/bin/bash\nargs=()\nfor arg in \"$@\"; do\n  case $arg in *dummy.numdummies*) arg=\"$arg rdinit=/dev/null loglevel=7 panic=0\";; esac\n  \
                  args+=(\"$arg\")\ndone\nexec qemu-system-x86_64 \"${args[@]}\"\n";
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn more_memory_than_the_host_has_is_refused_before_anything_starts(backend: Preference) {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = text.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    let said = World::on(backend).pyro(&["run", "--mem-mib", "32768", "debian:12-base", "--", "true"]);
    if kib / 1024 < 32_768 {
        one_error(&said, 1, &["mem_mib is 32768, and this host has", "MiB free", "--mem-mib"]);
    } else {
        assert!(said.code == Some(0) || said.err.contains("MiB free"), "{said:?}");
    }
}

#[test]
fn no_home_is_one_clear_line() {
    let world = World::new();
    let mut command = world.command(&TRUE);
    command.env_remove("HOME");
    let said = crate::support::finish(command.spawn().unwrap());
    one_error(&said, 1, &["HOME", "PYRO_CACHE_DIR"]);
}

/// Something mounted for a test; unmounted when dropped. Needs root, as `make test` does.
struct Mounted(PathBuf);

impl Mounted {
    fn read_only(dir: &Path) -> Self {
        Self::mount(&["--bind", "-o", "ro"], dir, dir)
    }

    fn tmpfs(dir: &Path, size: &str) -> Self {
        Self::mount(&["-t", "tmpfs", "-o", &format!("size={size}")], Path::new("none"), dir)
    }

    fn mount(options: &[&str], what: &Path, dir: &Path) -> Self {
        let status = Command::new("mount").args(options).args([what, dir]).status().unwrap();
        assert!(status.success(), "mount needs root");
        Self(dir.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What the kernel would check the counter by is late there; a guest that then trusts it no more has a clock of 10 ms, and
/// so have all that are restored from it.
#[test]
fn a_guest_booted_on_a_busy_host_keeps_its_clock() {
    let (world, over) = (World::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _busy = Over(&over);
        for _ in 0..3 * std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        for _ in 0..3 {
            // For some rounds of the kernel's check, since what is observed is that it changes nothing.
            let look = "sleep 2; cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
            let said = world.pyro(&["run", "--cold", "--mem-mib", "256", "debian:12-base", "--", look]);
            assert_eq!(said.stdout(), "tsc\n", "{said:?}");
        }
    });
}
