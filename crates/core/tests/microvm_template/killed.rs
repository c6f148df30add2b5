//! A process that is killed at any step of making or restoring a template leaves nothing that a later start trusts
//! wrongly: each step by its name.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use pyro_core::backend::Preference;
use pyro_core::start::{StartDisk, StartMethod};
use pyro_core::timeline::{Observer, Step};
use pyro_vmm::Shape;

use crate::backends::on_each_backend;
use crate::support::{BASE, Host, config, shell, stop};

const STEP: &str = "PYRO_TEST_DIE_AT";
const DIR: &str = "PYRO_TEST_DIE_IN";
const MEM: &str = "PYRO_TEST_DIE_MEM";
const BARE: &str = "PYRO_TEST_DIE_BARE";
const BACKEND: &str = "PYRO_TEST_DIE_BACKEND";

/// A blank disk, or one of the guest's own, for which there is another kind of template.
fn disk(host: &Host, bare: bool) -> StartDisk {
    if bare { StartDisk::Existing(host.new_disk()) } else { StartDisk::Blank }
}

fn shape(mem_mib: u32) -> Shape {
    Shape { vcpus: 1, mem_mib }
}

/// What the killed process runs: this test, told by its environment what to do. Without that it does nothing.
#[tokio::test]
async fn the_one_who_dies() {
    let (Ok(step), Ok(dir), Ok(mem)) = (std::env::var(STEP), std::env::var(DIR), std::env::var(MEM)) else {
        return;
    };
    let dir = std::path::PathBuf::from(dir);
    let holder = tempfile::tempdir().unwrap();
    let backend = std::env::var(BACKEND).unwrap().parse().unwrap();
    let host = Host::with(holder, config(&dir), backend, BASE).await;
    let observer = Observer::new(move |taken| {
        if taken.to_string() == step {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    });
    let disk = disk(&host, std::env::var_os(BARE).is_some());
    let (started, _) = host.try_start(shape(mem.parse().unwrap()), disk, Some(observer)).await;
    let _ = started.map(|_| ());
    panic!("the step was never taken");
}

/// Processes that run a VM of this size, which is no other test's, or have to do with this host's directory.
fn vmms(host: &Host, mem_mib: u32) -> usize {
    let (dir, size) = (host.dir.path().to_str().unwrap(), format!("{mem_mib}M"));
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_vmm = |process: &std::path::PathBuf| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let cwd = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        line.split('\0').any(|word| word == size || word.contains(dir)) || cwd.starts_with(dir)
    };
    entries.filter(is_vmm).count()
}

async fn dies(host: &Host, step: Step, mem_mib: u32, bare: bool) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "killed::the_one_who_dies", "--nocapture"]);
    child.env(STEP, step.to_string()).env(DIR, host.dir.path()).env(MEM, mem_mib.to_string());
    child.env(BACKEND, host.factory.preference.name());
    if bare {
        child.env(BARE, "1");
    }
    #[expect(clippy::disallowed_methods, reason = "a panic in a test fails it")]
    let status = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert_eq!(status.status.signal(), Some(9), "{step}: {status:?}");
    let begin = Instant::now();
    while vmms(host, mem_mib) > 0 {
        assert!(begin.elapsed() < Duration::from_secs(5), "{step}: its VMM lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Kills a start at `step`, then starts twice more.
async fn killed_at(host: &Host, step: Step, mem_mib: u32, bare: bool, next: StartMethod) {
    dies(host, step, mem_mib, bare).await;
    let (guest, remarks) = host.start(shape(mem_mib), disk(host, bare)).await;
    assert_eq!(guest.how, next, "{step}: {remarks:?}");
    assert_eq!(
        shell(&guest, "echo works; cat /etc/debian_version | cut -c1-2").await,
        "works\n12\n",
        "{step}"
    );
    stop(guest).await;
    assert_eq!(host.leftovers(), Vec::<std::path::PathBuf>::new(), "{step}");
    let (guest, remarks) = host.start(shape(mem_mib), disk(host, bare)).await;
    assert_eq!((guest.how, remarks.as_slice()), (StartMethod::Restored, &[][..]), "{step}");
    stop(guest).await;
}

async fn while_making(backend: Preference, step: Step, mem_mib: u32, next: StartMethod) {
    killed_at(&Host::on(backend, BASE).await, step, mem_mib, false, next).await;
}

macro_rules! making {
    ($($name:ident: $step:ident, $mem:literal, $next:ident;)*) => {
        $(async fn $name(backend: Preference) {
            while_making(backend, Step::$step, $mem, StartMethod::$next).await;
        })*

        on_each_backend! {
            async
            $($name)*
            killed_at_each_step_of_a_restore
            killed_while_a_bare_template_is_made_or_restored
        }
    };
}

making! {
    killed_when_it_has_the_lock: BuildLocked, 257, Booted;
    killed_when_the_vmm_answers: VmmAnswered, 258, Booted;
    killed_when_the_guest_is_connected: Connected, 259, Booted;
    killed_when_the_guest_is_identified: Identified, 260, Booted;
    killed_when_the_guest_is_booted: BuildBooted, 261, Booted;
    killed_when_the_guest_is_warm: BuildWarmed, 262, Booted;
    killed_when_the_guest_is_paused: BuildPaused, 263, Booted;
    killed_when_the_state_is_saved: BuildStateSaved, 264, Booted;
    killed_when_the_memory_is_written: BuildMemoryWritten, 265, Booted;
    killed_when_the_disk_is_written: BuildDiskWritten, 266, Booted;
    killed_when_all_is_on_disk_without_a_name: BuildSynced, 267, Booted;
    killed_when_it_has_its_name: BuildPublished, 268, Restored;
}

async fn killed_at_each_step_of_a_restore(backend: Preference) {
    const MEM_MIB: u32 = 269;
    let host = Host::on(backend, BASE).await;
    stop(host.start(shape(MEM_MIB), StartDisk::Blank).await.0).await;
    for step in [
        Step::TemplateOpened,
        Step::DiskMade,
        Step::VmmAnswered,
        Step::StateLoaded,
        Step::Connected,
        Step::Identified,
    ] {
        killed_at(&host, step, MEM_MIB, false, StartMethod::Restored).await;
    }
}

/// The same of the template for guests that bring a disk, at the steps where it goes another way.
async fn killed_while_a_bare_template_is_made_or_restored(backend: Preference) {
    for (step, mem_mib, next) in [
        (Step::BuildBooted, 270, StartMethod::Booted),
        (Step::BuildPaused, 271, StartMethod::Booted),
        (Step::BuildSynced, 272, StartMethod::Booted),
        (Step::BuildPublished, 273, StartMethod::Restored),
        (Step::Assembled, 274, StartMethod::Restored),
    ] {
        killed_at(&Host::on(backend, BASE).await, step, mem_mib, true, next).await;
    }
}
