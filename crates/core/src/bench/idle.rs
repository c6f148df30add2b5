//! Memory of one more VM that was restored, has run something, and now waits.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::{Bench, Measure, Row, Series, memory};

/// What the guest runs, a program a word: the shell that waits is the other one.
const SCRIPT: &str = "/bin/true; echo ready; read line";
/// How many programs that are, for the floor to run as many.
const COMMANDS: usize = 2;
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) async fn memory(bench: &mut Bench<'_>) -> Vec<Row> {
    let measure = Measure::IdleMemory;
    let (mut ours, mut floor) = (Series::default(), Series::default());
    for _ in 0..bench.plan.amount.runs {
        bench.floor_sample(measure, &mut floor, async |floor| floor.idle_memory(COMMANDS).await).await;
        let sample = match tokio::time::timeout(DEADLINE, one(bench)).await {
            Ok(sample) => sample,
            Err(_) => Err(format!("it did not end within {} s", DEADLINE.as_secs())),
        };
        bench.keep(measure, &mut ours, sample);
    }
    let what = format!("PSS of all processes of one more restored VM, which waits after {COMMANDS} programs");
    let floor_is = format!("PSS of one more restored bare VMM after {COMMANDS} programs");
    vec![Row::new("idle_memory", "MiB", what, ours).against(floor_is, floor)]
}

/// The second of two.
async fn one(bench: &Bench<'_>) -> Result<f64, String> {
    let first = Idle::start(bench).await?;
    let second = Idle::start(bench).await?;
    // As long as the floor's guest is given.
    tokio::time::sleep(super::floor::qemu::SETTLE).await;
    let used = second.child.id().ok_or("it ended".to_owned()).and_then(memory::pss_of_all_mib);
    second.end().await?;
    first.end().await?;
    used
}

/// A `pyro run` whose command has run its programs and reads from a pipe.
struct Idle {
    child: Child,
    stdin: ChildStdin,
    /// Kept open: a reader that goes away ends the run.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Idle {
    async fn start(bench: &Bench<'_>) -> Result<Self, String> {
        let mut command = bench.pyro_run(&[], &[SCRIPT]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", bench.plan.pyro.display()))?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).ok_or("it has no pipes")?;
        let mut lines = BufReader::new(stdout).lines();
        match lines.next_line().await {
            Ok(Some(line)) if line == "ready" => Ok(Self { child, stdin, _stdout: lines }),
            other => Err(format!("its command said {other:?} instead of ready")),
        }
    }

    async fn end(mut self) -> Result<(), String> {
        let _ = self.stdin.write_all(b"\n").await;
        drop(self.stdin);
        let status = self.child.wait().await.map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("its command ended with {status}")) }
    }
}
