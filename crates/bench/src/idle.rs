//! Memory of VMs that were restored, have run something, and now wait: of the first, and of one more.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use pyro_core::backend::Preference;

use super::{Bench, Measure, Row, Series, memory};

/// What the guest runs, a program a word: the shell that waits is the other one.
const SCRIPT: &str = "/bin/true; echo ready; read line";
/// How many programs that are, for the floor to run as many.
const COMMANDS: usize = 2;
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) async fn memory(bench: &mut Bench<'_>) -> Vec<Row> {
    let (mut ours, mut floor) = (Pair::default(), Pair::default());
    for _ in 0..bench.plan.amount.runs {
        if let Some(bare) = &bench.floor {
            let sample = bare.idle_memory(COMMANDS).await.map_err(|why| format!("the floor: {why}"));
            floor.keep(bench, sample);
        }
        let sample = match tokio::time::timeout(DEADLINE, two(bench)).await {
            Ok(sample) => sample,
            Err(_) => Err(format!("it did not end within {} s", DEADLINE.as_secs())),
        };
        ours.keep(bench, sample);
    }
    let row = |name, of, ours, floor| {
        let what = format!("PSS of all processes of {of} restored VM, which waits after {COMMANDS} programs");
        Row::new(name, "MiB", what, ours).against(format!("the same of {of} restored bare VMM"), floor)
    };
    vec![
        row("idle_memory", "one more", ours.more, floor.more),
        row("first_memory", "the first", ours.alone, floor.alone),
    ]
}

/// Of the first VM while it is alone, and what another adds to all.
#[derive(Default)]
struct Pair {
    alone: Series,
    more: Series,
}

impl Pair {
    fn keep(&mut self, bench: &mut Bench<'_>, sample: Result<(f64, f64), String>) {
        bench.keep(
            Measure::IdleMemory,
            &mut self.alone,
            sample.as_ref().map(|both| both.0).map_err(Clone::clone),
        );
        self.more.push(sample.map(|both| both.1));
    }
}

/// One VM, and then another.
async fn two(bench: &Bench<'_>) -> Result<(f64, f64), String> {
    let preference = bench.factory.preference;
    let first = Idle::start(bench, preference).await?;
    let alone = first.pss()?;
    let second = Idle::start(bench, preference).await?;
    let both = first.pss()? + second.pss()?;
    second.end().await?;
    first.end().await?;
    Ok((alone, both - alone))
}

/// A `pyro run` whose command has run its programs and reads from a pipe.
pub(super) struct Idle {
    child: Child,
    stdin: ChildStdin,
    /// Kept open: a reader that goes away ends the run.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Idle {
    pub(super) async fn start(bench: &Bench<'_>, preference: Preference) -> Result<Self, String> {
        let mut command = bench.pyro_run(preference, &[], &[SCRIPT]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", bench.plan.pyro.display()))?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).ok_or("it has no pipes")?;
        let mut lines = BufReader::new(stdout).lines();
        match lines.next_line().await {
            Ok(Some(line)) if line == "ready" => {}
            other => return Err(format!("its command said {other:?} instead of ready")),
        }
        // As long as the floor's guest is given.
        tokio::time::sleep(super::floor::qemu::SETTLE).await;
        Ok(Self { child, stdin, _stdout: lines })
    }

    /// Of `pyro`.
    pub(super) fn pid(&self) -> Result<u32, String> {
        self.child.id().ok_or_else(|| "it ended".to_owned())
    }

    fn pss(&self) -> Result<f64, String> {
        memory::pss_of_all_mib(self.pid()?)
    }

    pub(super) async fn end(mut self) -> Result<(), String> {
        let _ = self.stdin.write_all(b"\n").await;
        drop(self.stdin);
        let status = self.child.wait().await.map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("its command ended with {status}")) }
    }
}
