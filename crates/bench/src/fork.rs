//! Workspaces whose memory is kept and shared: a checkpoint, and forks of a workspace that runs and waits.

use std::time::Instant;

use futures::future::try_join_all;
use serde_json::Value;

use super::workspace::{Kept, Place, TTL};
use super::{Bench, Measure, Row, Series, memory};

const MEASURE: Measure = Measure::Fork;
/// No more forks than that are made at once.
const MOST: usize = 64;
/// What a fork runs, a program a word: the shell is the other one.
const LINE: &str = "/bin/true";
/// How many programs that are, for the floor to run as many.
const COMMANDS: usize = 2;
const KEPT: &str = "bench";

/// What one round gives.
struct Round {
    checkpoint: f64,
    paused: f64,
    /// Of the workspace, before and after.
    before: f64,
    after: f64,
    forked: f64,
    /// What that may be compared with.
    starts: f64,
    forks: f64,
}

pub(super) async fn figures(bench: &mut Bench<'_>) -> Vec<Row> {
    let count = bench.plan.amount.parallel.min(MOST);
    let [mut checkpoint, mut paused, mut before, mut after] = [const { Series::new() }; 4];
    let [mut forked, mut starts, mut forks, mut floors] = [const { Series::new() }; 4];
    for _ in 0..bench.plan.amount.runs {
        if let Some(bare) = &bench.floor {
            let floor = bare.idle_memory(COMMANDS).await.map_err(|why| format!("the floor: {why}"));
            bench.keep(MEASURE, &mut floors, floor.map(|(_, more)| more * count as f64));
        }
        match round(bench, count).await {
            Ok(round) => {
                for (series, sample) in [
                    (&mut checkpoint, round.checkpoint),
                    (&mut paused, round.paused),
                    (&mut before, round.before),
                    (&mut after, round.after),
                    (&mut forked, round.forked),
                    (&mut starts, round.starts),
                    (&mut forks, round.forks),
                ] {
                    bench.keep(MEASURE, series, Ok(sample));
                }
            }
            Err(why) => bench.keep(MEASURE, &mut checkpoint, Err(why)),
        }
    }
    let snapshot = "pyro workspace snapshot create --memory of an idle workspace";
    vec![
        Row::new("checkpoint", "ms", format!("{snapshot}, exec to exit"), checkpoint),
        Row::new("checkpoint_pause", "ms", format!("{snapshot}: how long its guest stood still"), paused),
        Row::new("checkpoint_memory", "MiB", "PSS of keeper and VMM of that workspace afterwards", after)
            .against("the same before", before),
        Row::new(
            "fork",
            "ms",
            format!("pyro workspace fork --count {count} of it, then exec -- '{LINE}' in all at once: first exec to last exit"),
            forked,
        )
        .against(format!("that checkpoint, and {count} times a warm `pyro run`, divided by the cores"), starts),
        Row::new("fork_memory", "MiB", format!("PSS of keepers and VMMs of those {count} together"), forks)
            .against(format!("{count} times one more restored bare VMM after {COMMANDS} programs"), floors),
    ]
}

async fn round(bench: &Bench<'_>, count: usize) -> Result<Round, String> {
    let place = Place::usual(bench);
    let (kept, _) = place.create(TTL).await?;
    kept.exec(&[LINE]).await?;
    let own = kept.keeper().await?;
    settle().await;
    let before = memory::pss_of_all_mib(own)?;
    let words = ["snapshot", "create", &kept.id, KEPT, "--memory", "--json"];
    let (said, checkpoint) = place.workspace(&words).await?;
    let paused = parse(&said)?["paused_ms"].as_f64().ok_or("its guest did not stand still")?;
    settle().await;
    let after = memory::pss_of_all_mib(own)?;

    let warm = bench.run_warm().await?;
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let begin = Instant::now();
    let words = ["fork", &kept.id, "--count", &count.to_string(), "--json"];
    let (said, _) = place.workspace(&words).await?;
    let said = parse(&said)?;
    let made: Vec<&Value> = said["workspaces"].as_array().into_iter().flatten().collect();
    let forks: Vec<Kept> = made
        .iter()
        .filter_map(|fork| fork["workspace_id"].as_str())
        .map(|id| place.kept(id.into()))
        .collect();
    try_join_all(forks.iter().map(|fork| fork.exec(&[LINE]))).await?;
    let forked = begin.elapsed().as_secs_f64() * 1e3;
    if forks.len() != count {
        return Err(format!("it made {} forks", forks.len()));
    }
    settle().await;
    let each = made.iter().map(|fork| memory::pss_of_all_mib(keeper(fork)?));
    let together = each.sum::<Result<f64, String>>()?;
    Ok(Round {
        checkpoint,
        paused,
        before,
        after,
        forked,
        starts: checkpoint + count as f64 * warm / cores,
        forks: together,
    })
}

/// As long as the floor's guest is given.
async fn settle() {
    tokio::time::sleep(super::floor::qemu::SETTLE).await;
}

fn parse(said: &str) -> Result<Value, String> {
    serde_json::from_str(said).map_err(|error| error.to_string())
}

/// Of a workspace's status.
fn keeper(status: &Value) -> Result<u32, String> {
    let pid = status["keeper_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.ok_or_else(|| format!("it has no keeper: {status}"))
}
