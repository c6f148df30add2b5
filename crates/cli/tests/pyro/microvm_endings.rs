//! How runs end that are made to end: by signals, by the guest's own doing, by a VMM that is killed. Nothing stays.

use std::process::Command;

use pyro_core::backend::Preference;

use crate::backends::on_each_backend;
use crate::support::{Traces, World, children, eventually, finish, running, started};

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

on_each_backend! {
    a_signal_to_pyro_takes_the_vm_down
    sigkill_to_pyro_takes_the_vm_down
    sigkill_while_the_guest_boots_takes_the_vm_down
    a_vmm_that_is_killed_is_an_error_that_says_so
    a_guest_that_ends_itself_is_an_error_that_says_so
    a_guest_that_panics_is_an_error_with_its_last_words
    a_fork_bomb_is_killed_when_its_time_is_up
    eating_all_memory_kills_the_command_and_not_the_run
    eight_at_once_all_succeed
    memory_stays_bounded_whatever_comes
    a_reader_that_does_not_read_stops_the_command
}

const SLEEP: [&str; 4] = ["run", "debian:12-base", "--", "echo ready; sleep 1000"];

fn a_signal_to_pyro_takes_the_vm_down(backend: Preference) {
    let world = World::on(backend);
    world.pyro(&["run", "debian:12-base", "--", "true"]);
    let before = Traces::of(&world);
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let (child, vmm, _out) = started(&world, &SLEEP);
        kill(signal, child.id());
        let said = finish(child);
        assert_eq!(said.code, Some(code), "{signal} {said:?}");
        assert!(!running(vmm), "{signal}: the VMM outlived pyro");
    }
    before.check(&world);
}

fn sigkill_to_pyro_takes_the_vm_down(backend: Preference) {
    let world = World::on(backend);
    world.pyro(&["run", "debian:12-base", "--", "true"]);
    let before = Traces::of(&world);
    let (mut child, vmm, _out) = started(&world, &SLEEP);
    kill("-KILL", child.id());
    child.wait().unwrap();
    eventually("the VMM is gone", || !running(vmm));
    // A directory that the VMM needed names in is swept by the next start.
    world.pyro(&["run", "debian:12-base", "--", "true"]);
    before.check(&world);
}

fn sigkill_while_the_guest_boots_takes_the_vm_down(backend: Preference) {
    let world = World::on(backend);
    let mut child = world.start(&["run", "debian:12-base", "--", "true"]);
    eventually("a VMM is there", || !children(child.id()).is_empty());
    let vmm = children(child.id())[0];
    kill("-KILL", child.id());
    child.wait().unwrap();
    eventually("the VMM is gone", || !running(vmm));
    // What had a name is swept by the next start; without one, a cgroup would outlive this test.
    assert_eq!(world.pyro(&["run", "debian:12-base", "--", "true"]).code, Some(0));
}

fn a_vmm_that_is_killed_is_an_error_that_says_so(backend: Preference) {
    let world = World::on(backend);
    let (child, vmm, _out) = started(&world, &SLEEP);
    kill("-KILL", vmm);
    let said = finish(child);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.contains("[error] the virtual machine ended while the command ran: the VMM was killed"),
        "{said:?}"
    );
}

/// Firecracker's machine has no power to switch off: a guest there ends by a reset.
fn a_guest_that_ends_itself_is_an_error_that_says_so(backend: Preference) {
    let world = World::on(backend);
    let (key, words) = match backend {
        Preference::Firecracker => ("b", "the guest reset itself"),
        _ => ("o", "the guest powered off"),
    };
    let script = format!("echo {key} > /proc/sysrq-trigger; sleep 1000");
    let said = world.pyro(&["run", "debian:12-base", "--", &script]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains(words), "{said:?}");
}

fn a_guest_that_panics_is_an_error_with_its_last_words(backend: Preference) {
    let world = World::on(backend);
    let said = world.pyro(&["run", "debian:12-base", "--", "echo c > /proc/sysrq-trigger; sleep 1000"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("panic"), "{said:?}");
}

fn a_fork_bomb_is_killed_when_its_time_is_up(backend: Preference) {
    let world = World::on(backend);
    let said = world.pyro(&[
        "run",
        "--timeout-seconds",
        "5",
        "debian:12-base",
        "--",
        "b() { b | b & }; b; sleep 1000",
    ]);
    assert_eq!(said.code, Some(124), "{said:?}");
}

fn eating_all_memory_kills_the_command_and_not_the_run(backend: Preference) {
    let world = World::on(backend);
    let script = "tail /dev/zero; echo $?";
    let said =
        world.pyro(&["run", "--mem-mib", "256", "--timeout-seconds", "90", "debian:12-base", "--", script]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.stdout().lines().last(), Some("137"), "{said:?}");
}

fn eight_at_once_all_succeed(backend: Preference) {
    let world = World::on(backend);
    world.pyro(&["run", "debian:12-base", "--", "true"]);
    let before = Traces::of(&world);
    let runs: Vec<_> = (0..8)
        .map(|n| world.start(&["run", "--mem-mib", "256", "debian:12-base", "--", &format!("echo {n}")]))
        .collect();
    for (n, child) in runs.into_iter().enumerate() {
        let said = finish(child);
        assert_eq!((said.code, said.stdout()), (Some(0), format!("{n}\n")), "{said:?}");
    }
    before.check(&world);
}

fn memory_stays_bounded_whatever_comes(backend: Preference) {
    let world = World::on(backend);
    let script = "head -c 1073741824 /dev/zero; echo done >&2; sleep 1000";
    let mut child = world.start(&["run", "--timeout-seconds", "600", "debian:12-base", "--", script]);
    let mut out = child.stdout.take().unwrap();
    let mut total = 0_u64;
    let mut buffer = vec![0; 1 << 20];
    use std::io::Read;
    // The memory of an idle run, once output flows, against the peak when all of it has passed.
    let mut early = None;
    while total < 1 << 30 {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0, "the output ended after {total} bytes");
        total += n as u64;
        early.get_or_insert_with(|| peak_kib(child.id()));
    }
    let late = peak_kib(child.id());
    let grown = late.saturating_sub(early.unwrap());
    assert!(grown < 64 * 1024, "pyro grew by {grown} KiB");
    kill("-INT", child.id());
    finish(child);
}

fn a_reader_that_does_not_read_stops_the_command(backend: Preference) {
    let world = World::on(backend);
    let script = "(head -c 300000000 /dev/zero; echo written >&2) | cat; sleep 1000";
    let mut child = world.start(&["run", "--timeout-seconds", "600", "debian:12-base", "--", script]);
    let mut err = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    use std::io::BufRead;
    while !line.contains("phase=execute") {
        line.clear();
        assert!(err.read_line(&mut line).unwrap() > 0);
    }
    let memory = |pid| std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    // Nobody reads stdout: after a while nothing moves any more, and pyro holds little. A fixed time, since what is observed
    // is that nothing comes: neither growth nor the command's end.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let resident: u64 = memory(child.id()).split(' ').nth(1).unwrap().parse().unwrap();
    assert!(resident * 4096 < 64 << 20, "pyro holds {} MiB", (resident * 4096) >> 20);
    kill("-INT", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let rest = err.lines().map_while(Result::ok).any(|line| line.contains("written"));
    assert!(!rest, "the command went on although nobody read");
}

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
