//! A running guest: what a command costs from a client that holds the connection, bytes through the stream, and the
//! VMM's own memory.

use std::time::{Duration, Instant};

use pyro_core::command::{CommandLine, Options, Outcome, Streams};
use pyro_core::vm::{Vm, VmRequest};
use tokio::io::AsyncReadExt;

use super::{Failure, Places, Row, median};

const MIB: u64 = 1 << 20;
const COPIED: u64 = 256 * MIB;
/// A round trip may take so many times what the same costs inside the guest, and [`ROUND_TRIP_MS`] more.
const ROUND_TRIP_RATIO: f64 = 1.2;
const ROUND_TRIP_MS: f64 = 2.0;
const LEAST_MB_PER_S: f64 = 150.0;
const MOST_VMM_MIB: f64 = 120.0;
const MOST_GROWTH_MIB: f64 = 64.0;

/// Measures all of it in one guest.
pub async fn measure(places: &Places, quick: bool) -> Result<Vec<Row>, Failure> {
    let request = VmRequest::new("debian:12");
    let mem_mib = request.mem_mib;
    let mut vm = Vm::create(places.factory.clone(), request, |_| {}).await?;
    vm.start(&mut |_| ()).await?;
    let mut rows = vec![round_trip(&mut vm, if quick { 1 } else { 5 }).await?];
    eprintln!("[bench] 500 commands");
    for _ in 0..if quick { 20 } else { 500 } {
        exec(&mut vm, &["/bin/ls", "/usr/bin"], &mut Streams::kept_only()).await?;
    }
    let pid = vm.vmm_pid().ok_or("there is no VMM")?;
    let beside = vmm_memory_beside_guest_mib(pid, mem_mib)?;
    rows.push(Row {
        name: "VMM memory beside guest RAM, 500 commands",
        unit: "MiB",
        samples: vec![beside],
        reference: Vec::new(),
        promise: format!("under {MOST_VMM_MIB} MiB"),
        kept: beside < MOST_VMM_MIB,
    });
    let copies = if quick { 1 } else { 7 };
    let before = peak_mib()?;
    for (name, out) in [("256 MiB out of the guest", true), ("256 MiB into the guest", false)] {
        eprintln!("[bench] {name}");
        let mut samples = Vec::new();
        for _ in 0..copies {
            samples.push(copy(&mut vm, out).await?);
        }
        let kept = median(&samples) >= LEAST_MB_PER_S;
        let promise = format!("at least {LEAST_MB_PER_S} MB/s");
        rows.push(Row { name, unit: "MB/s", samples, reference: Vec::new(), promise, kept });
    }
    let grown = peak_mib()? - before;
    rows.push(Row {
        name: "this process's growth over all copies",
        unit: "MiB",
        samples: vec![grown],
        reference: Vec::new(),
        promise: format!("under {MOST_GROWTH_MIB} MiB"),
        kept: grown < MOST_GROWTH_MIB,
    });
    vm.stop().await?;
    Ok(rows)
}

/// One word is a shell line, as on the command line.
async fn exec(vm: &mut Vm, words: &[&str], streams: &mut Streams) -> Result<Outcome, Failure> {
    let command = CommandLine::from_words(words.iter().map(Into::into).collect()).ok_or("no command")?;
    execute(vm, &command, streams).await
}

async fn execute(vm: &mut Vm, command: &CommandLine, streams: &mut Streams) -> Result<Outcome, Failure> {
    let options = Options { timeout: Some(Duration::from_secs(120)), ..Options::default() };
    let outcome = vm.exec(command, &options, streams).await?;
    if outcome.exit_code == 0 {
        Ok(outcome)
    } else {
        Err(format!("{command} exited {}", outcome.exit_code).into())
    }
}

/// `true` from here, against `true` started by a shell in the guest, which forks as cheaply as a shell can (dash
/// vforks); alternating.
async fn round_trip(vm: &mut Vm, rounds: usize) -> Result<Row, Failure> {
    const EACH: usize = 40;
    let script = format!(
        "s=$(date +%s%N); i=0; while [ $i -lt {EACH} ]; do /bin/true; i=$((i+1)); done; e=$(date +%s%N); echo $(((e-s)/{EACH}))"
    );
    // Without an argument, as in the script: coreutils' `true` sets up a locale, for 7 ms, when it has one.
    let command = CommandLine::Argv(vec!["/bin/true".into()]);
    let (mut ours, mut inside) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("[bench] round trips, round {} of {rounds}", round + 1);
        let outcome = exec(vm, &[&script], &mut Streams::kept_only()).await?;
        let nanoseconds: f64 = String::from_utf8(outcome.stdout.bytes)?.trim().parse()?;
        inside.push(nanoseconds / 1e6);
        for _ in 0..EACH {
            let begin = Instant::now();
            execute(vm, &command, &mut Streams::kept_only()).await?;
            ours.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    let bound = ROUND_TRIP_RATIO * median(&inside) + ROUND_TRIP_MS;
    let kept = median(&ours) <= bound;
    let promise =
        format!("at most {ROUND_TRIP_RATIO} x the same in the guest + {ROUND_TRIP_MS} ms = {bound:.1} ms");
    Ok(Row { name: "exec round trip of true", unit: "ms", samples: ours, reference: inside, promise, kept })
}

/// MB (10^6 bytes) a second, the start of the command included. `dd` moves 64 KiB at a time: `head` and `wc` take
/// small pieces and are slower than the stream.
async fn copy(vm: &mut Vm, out: bool) -> Result<f64, Failure> {
    let begin = Instant::now();
    let bytes = COPIED.to_string();
    if out {
        let outcome = exec(
            vm,
            &[&format!("dd if=/dev/zero bs=64k count={} status=none", COPIED >> 16)],
            &mut Streams::kept_only(),
        )
        .await?;
        if outcome.stdout.total != COPIED {
            return Err(format!("{} bytes came out", outcome.stdout.total).into());
        }
    } else {
        let mut streams = Streams::kept_only();
        streams.stdin = Some(Box::new(tokio::io::repeat(0).take(COPIED)));
        let outcome = exec(vm, &["dd of=/dev/null bs=64k iflag=fullblock"], &mut streams).await?;
        if !String::from_utf8_lossy(&outcome.stderr.bytes).contains(&format!("{bytes} bytes")) {
            return Err("not all bytes went in".into());
        }
    }
    Ok(COPIED as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

fn peak_mib() -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.split_whitespace().next().unwrap_or_default().parse::<f64>()? / 1024.0)
}

/// The VMM's proportional set size without the mappings of guest RAM (those of exactly its size), MiB.
fn vmm_memory_beside_guest_mib(pid: u32, mem_mib: u32) -> Result<f64, Failure> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut beside, mut guest) = (0_u64, false);
    for line in smaps.lines() {
        let kib =
            || line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default();
        if line.starts_with("Size:") {
            guest = kib() == u64::from(mem_mib) * 1024;
        } else if line.starts_with("Pss:") && !guest {
            beside += kib();
        }
    }
    Ok(beside as f64 / 1024.0)
}
