//! Kills at a named step: the Nth time that a thread makes a system call by which something outside of it changes. strace
//! counts, and delivers the signal as the call is entered.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::room::{Room, signal};
use crate::support::{children, eventually, running};

/// The calls that are steps.
const CALLS: &str = "rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,fsync,\
                     fdatasync,ftruncate,fallocate,pwrite64,copy_file_range,sendfile,sendto,sendmsg,execve,clone,clone3,\
                     vfork,kill,pidfd_send_signal";

/// A call and how many there were of it by then, in one thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step(String, usize);

/// Whose steps they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The keeper's that runs.
    Keeper,
    /// Those of the front end, and of what it starts.
    FrontEnd,
}

/// Who is killed at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Nobody: the steps are counted.
    Nobody,
    /// Whose step it is.
    Itself,
    /// The VMM, while the keeper stands still at its step.
    Vmm,
}

/// Runs `pyro workspace` with these arguments until it ends or its step has come; gives the steps that were taken, and
/// whether somebody was killed.
pub fn run(room: &Room, args: &[&str], whose: Whose, at: Option<&Step>, victim: Victim) -> (Vec<Step>, bool) {
    let file = room.world.home.path().join("trace");
    let mut options =
        vec!["-f".to_owned(), "-o".into(), file.display().to_string(), format!("-etrace={CALLS}")];
    if let Some(Step(call, count)) = at {
        let name = if victim == Victim::Vmm { "STOP" } else { "KILL" };
        options.push(format!("-einject={call}:signal={name}:when={count}"));
    }
    let args = [&["workspace"], args].concat();
    let (keeper, vmm) = match whose {
        Whose::Keeper => room.processes("v"),
        Whose::FrontEnd => (0, 0),
    };
    // Each of its threads may come to that step.
    let (mut killed, mut stops) = (false, 0);
    let mut tracer = None;
    let mut front = room.world.command(&args);
    if whose == Whose::Keeper {
        tracer = Some(attach(&options, keeper));
    } else {
        // The tracer is its grandchild, so that it is ours, and what it starts can outlive it.
        let traced = room.world.command(&[]);
        front = Command::new("strace");
        front.arg("-D").args(&options).arg(traced.get_program()).args(&args).env_clear();
        front.envs(traced.get_envs().filter_map(|(name, value)| Some((name, value?))));
    }
    let mut front = front.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the front end ends", || {
        if victim == Victim::Vmm && text(&file).matches("stopped by SIGSTOP").count() > stops {
            stops += 1;
            if running(vmm) {
                killed = true;
                signal(vmm, "-KILL");
                eventually("the VMM is gone", || !running(vmm));
            }
            go_on(keeper);
        }
        front.try_wait().unwrap().is_some()
    });
    for keeper in room.keepers() {
        let_go(keeper);
    }
    if let Some(mut tracer) = tracer {
        eventually("the tracer ends", || tracer.try_wait().unwrap().is_some());
    }
    if victim == Victim::Vmm {
        go_on(keeper);
    }
    let text = text(&file);
    let _ = std::fs::remove_file(&file);
    (steps(&text), killed || text.contains("killed by SIGKILL") && victim == Victim::Itself)
}

fn text(file: &Path) -> String {
    std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Has strace follow a process, from when this returns.
fn attach(options: &[String], pid: u32) -> Child {
    let mut tracer = Command::new("strace");
    tracer.args(options).args(["-p", &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut tracer = tracer.spawn().unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(tracer.stderr.take().unwrap());
    lines.read_line(&mut said).unwrap();
    assert!(said.contains("attached"), "{said}");
    // Nobody waits for the rest.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    tracer
}

/// Has a keeper go on, and a VMM that it started meanwhile, which came to that step too.
fn go_on(keeper: u32) {
    let mut all = vec![keeper];
    while let Some(pid) = all.pop() {
        all.extend(children(pid));
        // It may be gone.
        let _ = Command::new("kill").args(["-CONT", &pid.to_string()]).stderr(Stdio::null()).status();
    }
}

/// Ends the tracer of a process, which goes on. Asked kindly, strace does not let go of what is in another PID namespace.
fn let_go(pid: u32) {
    let tracer = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap_or("0").trim();
        line.parse::<u32>().unwrap()
    };
    let by = tracer();
    if by != 0 {
        let _ = Command::new("kill").args(["-KILL", &by.to_string()]).stderr(Stdio::null()).status();
        eventually("it is traced no more", || tracer() != by);
    }
}

/// The steps in the order in which they were taken first.
fn steps(text: &str) -> Vec<Step> {
    let (mut counts, mut taken) = (HashMap::new(), Vec::new());
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if !CALLS.split(',').any(|known| known == call) {
            continue;
        }
        let count = counts.entry((thread, call)).or_insert(0);
        *count += 1;
        let step = Step(call.to_owned(), *count);
        if !taken.contains(&step) {
            taken.push(step);
        }
    }
    taken
}

/// Every step, or `most` of them: the first, the last, and some between; or one in the middle.
pub fn some(steps: &[Step], most: usize) -> Vec<Step> {
    if std::env::var_os("PYRO_TEST_EVERY_STEP").is_some() || steps.len() <= most {
        return steps.to_vec();
    }
    let last = steps.len() - 1;
    let at = |n| if most == 1 { last / 2 } else { n * last / (most - 1) };
    (0..most).map(|n| steps[at(n)].clone()).collect()
}

/// A file beside the workspaces, for what a front end reads or writes.
pub fn beside(room: &Room, name: &str) -> PathBuf {
    room.world.home.path().join(name)
}
