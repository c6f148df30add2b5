//! One guest of this process: what a command costs over a connection that is there, bytes both ways, the VMM's own
//! memory, and the disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;

use pyro_core::cause;
use pyro_core::command::{CommandLine, CommandOptions, Outcome, Streams};
use pyro_core::environment::DISK_BYTES;
use pyro_core::start::StartMethod;
use pyro_core::vm::{Factory, Vm, VmRequest};

use super::{Bench, Measure, Row, Series, memory};

const MIB: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(120);

async fn exec(vm: &mut Vm, command: &CommandLine, streams: &mut Streams) -> Result<Outcome, String> {
    let options = CommandOptions { timeout: Some(DEADLINE), ..CommandOptions::default() };
    let outcome = vm.exec(command, &options, streams).await.map_err(|error| cause::chain(&error))?;
    if outcome.exit_code == 0 { Ok(outcome) } else { Err(format!("{command} exited {}", outcome.exit_code)) }
}

fn shell(line: impl Into<std::ffi::OsString>) -> CommandLine {
    CommandLine::Shell(line.into())
}

fn argv(words: &[&str]) -> CommandLine {
    CommandLine::Argv(words.iter().map(Into::into).collect())
}

/// The least that a guest can be asked to run.
pub(super) async fn run_true(vm: &mut Vm) -> Result<(), String> {
    exec(vm, &argv(&["/bin/true"]), &mut Streams::captured()).await.map(drop)
}

/// `true` from here, against `true` started by a shell in the guest, which forks as cheaply as a shell can (dash
/// vforks); in rounds of many, alternating.
pub(super) async fn round_trips(bench: &mut Bench<'_>) -> Vec<Row> {
    let (mut ours, mut inside) = (Series::default(), Series::default());
    let (rounds, each) = bench.plan.amount.round_trips();
    match bench.guest().await {
        Err(why) => bench.keep(Measure::Exec, &mut ours, Err(why)),
        Ok(mut vm) => {
            // A guest that fails once may hang every time after that.
            'rounds: for _ in 0..rounds {
                let sample = in_the_guest(&mut vm, each).await;
                bench.keep(Measure::Exec, &mut inside, sample);
                for _ in 0..each {
                    // Without an argument, as in the guest: coreutils' `true` sets up a locale when it has one.
                    let command = argv(&["/bin/true"]);
                    let begin = Instant::now();
                    let outcome = exec(&mut vm, &command, &mut Streams::captured()).await;
                    let sample = outcome.map(|_| begin.elapsed().as_secs_f64() * 1e3);
                    let failed = sample.is_err();
                    bench.keep(Measure::Exec, &mut ours, sample);
                    if failed {
                        break 'rounds;
                    }
                }
            }
            // Waited for, or its time would count as somebody else's; its samples are taken, however it ends.
            let _ = vm.stop().await;
        }
    }
    vec![
        Row::new("exec_round_trip", "ms", "/bin/true by a client that holds the connection", ours)
            .against(format!("/bin/true by a shell in the guest, the mean of {each}"), inside),
    ]
}

async fn in_the_guest(vm: &mut Vm, each: usize) -> Result<f64, String> {
    let script = format!(
        "s=$(date +%s%N); i=0; while [ $i -lt {each} ]; do /bin/true; i=$((i+1)); done; e=$(date +%s%N); \
         echo $(((e-s)/{each}))"
    );
    let outcome = exec(vm, &shell(script), &mut Streams::captured()).await?;
    let text = String::from_utf8_lossy(&outcome.stdout.unwrap_or_default().bytes).into_owned();
    text.trim().parse::<f64>().map(|ns| ns / 1e6).map_err(|_| format!("it printed {text:?}"))
}

/// MB (10^6 bytes) a second, the start of the command included, and how much this process grew meanwhile.
pub(super) async fn bytes(bench: &mut Bench<'_>) -> Vec<Row> {
    let (mut out, mut into, mut grown) = (Series::default(), Series::default(), Series::default());
    let (mib, copies) = bench.plan.amount.copies();
    match bench.guest().await {
        Err(why) => bench.keep(Measure::Bytes, &mut out, Err(why)),
        Ok(mut vm) => {
            for _ in 0..copies {
                memory::forget_peak();
                let before = memory::resident_and_peak_mib();
                let sample = copy_out(&mut vm, mib * MIB).await;
                bench.keep(Measure::Bytes, &mut out, sample);
                let sample = copy_in(&mut vm, mib * MIB).await;
                bench.keep(Measure::Bytes, &mut into, sample);
                let growth = before.and_then(|(resident, _)| {
                    memory::resident_and_peak_mib().map(|(_, peak)| (peak - resident).max(0.0))
                });
                bench.keep(Measure::Bytes, &mut grown, growth);
            }
            let _ = vm.stop().await;
        }
    }
    vec![
        Row::new("bytes_out", "MB/s", format!("{mib} MiB of a command's output"), out),
        Row::new("bytes_in", "MB/s", format!("{mib} MiB of a command's input"), into),
        Row::new("copy_memory", "MiB", "growth of the copying process over both", grown),
    ]
}

/// `dd` moves 64 KiB at a time: `head` and `wc` take small pieces and are slower than the stream.
async fn copy_out(vm: &mut Vm, bytes: u64) -> Result<f64, String> {
    let command = shell(format!("dd if=/dev/zero bs=64k count={} status=none", bytes >> 16));
    let begin = Instant::now();
    let outcome = exec(vm, &command, &mut Streams::captured()).await?;
    let seconds = begin.elapsed().as_secs_f64();
    match outcome.stdout.unwrap_or_default().total {
        total if total == bytes => Ok(bytes as f64 / 1e6 / seconds),
        total => Err(format!("{total} of {bytes} bytes came out")),
    }
}

async fn copy_in(vm: &mut Vm, bytes: u64) -> Result<f64, String> {
    let mut streams = Streams::captured();
    streams.stdin = Some(Box::new(tokio::io::repeat(0).take(bytes)));
    let begin = Instant::now();
    let outcome = exec(vm, &shell("dd of=/dev/null bs=64k iflag=fullblock"), &mut streams).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let said = outcome.stderr.unwrap_or_default().bytes;
    let said = String::from_utf8_lossy(&said);
    if said.contains(&format!("{bytes} bytes")) {
        Ok(bytes as f64 / 1e6 / seconds)
    } else {
        Err(format!("not all bytes went in: {}", said.trim()))
    }
}

pub(super) async fn vmm_memory(bench: &mut Bench<'_>) -> Vec<Row> {
    let mut series = Series::default();
    let (vms, commands) = bench.plan.amount.commands();
    for _ in 0..vms {
        let sample = vmm_after(bench, commands).await;
        bench.keep(Measure::VmmMemory, &mut series, sample);
    }
    let what = format!("PSS of the VMM beside guest RAM, after {commands} commands");
    vec![Row::new("vmm_memory", "MiB", what, series)]
}

async fn vmm_after(bench: &Bench<'_>, commands: usize) -> Result<f64, String> {
    let mut vm = bench.guest().await?;
    for _ in 0..commands {
        exec(&mut vm, &argv(&["/bin/ls", "/usr/bin"]), &mut Streams::captured()).await?;
    }
    let pid = vm.vmm_pid().ok_or("there is no VMM")?;
    let beside = memory::pss_beside_guest_mib(pid, vm.info().mem_mib)?;
    vm.stop().await.map_err(|error| cause::chain(&error))?;
    Ok(beside)
}

pub(super) async fn disk(bench: &mut Bench<'_>) -> Vec<Row> {
    let mut series = Series::default();
    for _ in 0..bench.plan.amount.runs {
        let sample = disk_of_one(bench).await;
        bench.keep(Measure::Disk, &mut series, sample);
    }
    vec![Row::new("disk", "MiB", "disk that one more VM takes before it writes", series)]
}

async fn disk_of_one(bench: &Bench<'_>) -> Result<f64, String> {
    let mut vm = bench.guest().await?;
    let pid = vm.vmm_pid().ok_or("there is no VMM")?;
    let taken = match vm.how() {
        Some(StartMethod::Restored) => disks_mib(pid),
        _ => Err("it was not restored".into()),
    };
    vm.stop().await.map_err(|error| cause::chain(&error))?;
    taken
}

/// What the disks without a name take that a process holds open. They are told by their size: a
/// guest's memory may be a file without a name too.
fn disks_mib(pid: u32) -> Result<f64, String> {
    let dir = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&dir).map_err(|error| format!("{dir}: {error}"))?;
    let (mut seen, mut bytes) = (BTreeSet::new(), 0);
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(stat) = fs::metadata(&path) else { continue };
        let is_disk = stat.is_file() && stat.nlink() == 0 && stat.len() == DISK_BYTES;
        if is_disk && seen.insert((stat.dev(), stat.ino())) {
            bytes += stat.blocks() * 512;
        }
    }
    if seen.is_empty() { Err("its VMM holds no disk".into()) } else { Ok(bytes as f64 / MIB as f64) }
}

impl Bench<'_> {
    /// A guest of this process, started as every guest is.
    pub(super) async fn guest(&self) -> Result<Vm, String> {
        self.guest_of(self.factory.clone()).await
    }

    pub(super) async fn guest_of(&self, factory: Factory) -> Result<Vm, String> {
        let request = VmRequest::new(&self.plan.environment);
        let started = async {
            let mut vm = Vm::create(factory, request, |_| {}).await?;
            vm.start(&mut |_| ()).await?;
            Ok::<_, pyro_core::vm::VmError>(vm)
        };
        started.await.map_err(|error| cause::chain(&error))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn disks_are_told_from_other_files() {
        use std::io::Write as _;
        let own = std::process::id();
        let files = [(super::DISK_BYTES, 3), (1 << 30, 7)].map(|(size, mib)| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&vec![1; mib << 20]).unwrap();
            file.set_len(size).unwrap();
            file.sync_all().unwrap();
            file
        });
        let taken = super::disks_mib(own).unwrap();
        assert!((3.0..7.0).contains(&taken), "{taken}");
        drop(files);
    }
}
