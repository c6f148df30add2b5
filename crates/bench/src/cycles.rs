//! Workspaces made, used and deleted, several at a time, and what the host still has of them afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt as _;

use super::workspace::{Place, TTL};
use super::{Bench, Measure, Row, Series, memory};

/// Workspaces at once.
const AT_ONCE: usize = 4;
/// How long the last of what belonged to a workspace may take to be gone.
const GRACE: Duration = Duration::from_secs(5);
/// How long the kernel may take to free what a page kept.
const FREED: Duration = Duration::from_secs(1);
/// Between two looks at it.
const GLANCE: Duration = Duration::from_millis(100);
/// As many of what is left are named.
const NAMED: usize = 5;

pub(super) async fn figures(bench: &mut Bench<'_>) -> Vec<Row> {
    let (each, looks) = bench.plan.amount.cycles();
    // Where nobody else has workspaces: what is there is of these.
    let root = bench.scratch.path().join("workspaces");
    let place = Place::usual(bench).elsewhere(root.clone(), Vec::new());
    let config = &bench.factory.config;
    // Not templates, which others may make or sweep meanwhile, and of which there is one a shape.
    let places = [&root, &config.run_dir, &config.cache_dir].map(PathBuf::clone);
    let [mut cycle, mut left, mut descriptors, mut kept] = [const { Series::new() }; 4];
    // The first ones leave what is there once and for all.
    for took in many(&place, AT_ONCE).await {
        if let Err(why) = took {
            bench.keep(Measure::Cycles, &mut cycle, Err(why));
        }
    }
    let things = settled(&places, &BTreeSet::new()).await;
    let (files, used) = (open_files(), kernels_own().await);
    for _ in 0..looks {
        for took in many(&place, each).await {
            bench.keep(Measure::Cycles, &mut cycle, took);
        }
        let more: Vec<_> = settled(&places, &things).await.difference(&things).cloned().collect();
        let sample = if more.is_empty() {
            Ok(0.0)
        } else {
            Err(format!("{} left: {}", more.len(), more[..more.len().min(NAMED)].join(", ")))
        };
        bench.keep(Measure::Cycles, &mut left, sample);
        bench.keep(Measure::Cycles, &mut descriptors, grown(open_files(), &files));
        bench.keep(Measure::Cycles, &mut kept, grown(kernels_own().await, &used));
    }
    let since = format!("than after the first {AT_ONCE} cycles, every {each} cycles");
    vec![
        Row::new(
            "cycle",
            "ms",
            format!("pyro workspace create, exec -- /bin/true and delete, {AT_ONCE} at once: each of them"),
            cycle,
        ),
        Row::new("cycles_left", "", format!("more processes, files and mounts of ours {since}"), left),
        Row::new("cycles_descriptors", "", format!("more open files in the whole host {since}"), descriptors),
        Row::new(
            "cycles_memory",
            "MiB",
            format!(
                "more shared memory, and kernel memory that cannot be reclaimed, in the whole host {since}"
            ),
            kept,
        ),
    ]
}

fn grown(now: Result<f64, String>, before: &Result<f64, String>) -> Result<f64, String> {
    Ok(now? - before.clone()?)
}

/// So many cycles; how long each took, ms.
async fn many(place: &Place, count: usize) -> Vec<Result<f64, String>> {
    futures::stream::iter(0..count).map(|_| one(place)).buffer_unordered(AT_ONCE).collect().await
}

async fn one(place: &Place) -> Result<f64, String> {
    let (kept, made) = place.create(TTL).await?;
    let (ran, _) = kept.exec(&["/bin/true"]).await?;
    Ok(made + ran + kept.delete().await?)
}

/// What there is in these places, when it is no more than before or nothing goes any more.
async fn settled(places: &[PathBuf], before: &BTreeSet<String>) -> BTreeSet<String> {
    let begin = Instant::now();
    loop {
        let now = things(places);
        if now.is_subset(before) || begin.elapsed() > GRACE {
            return now;
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Files below the places; processes that have one of the first open; mounts there. A cgroup that stays keeps its machine's
/// directory, so it is among the files.
fn things(places: &[PathBuf]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for place in places {
        below(place, &mut found);
    }
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    for process in entries("/proc".into()) {
        let mut links = entries(process.path().join("fd")).filter_map(|fd| fs::read_link(fd.path()).ok());
        if links.any(|link| link.starts_with(&places[0])) && process.file_name() != "self" {
            found.insert(format!("process {}", process.file_name().display()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if places.iter().any(|place| Path::new(point).starts_with(place)) {
            found.insert(format!("mount {point}"));
        }
    }
    found
}

/// Everything below a directory.
fn below(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.insert(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), found);
        }
    }
}

/// What the kernel has for itself when its page cache was given back, where we may ask for that: it keeps a cgroup that is gone
/// for as long as a page is cached that was charged to it.
async fn kernels_own() -> Result<f64, String> {
    if fs::write("/proc/sys/vm/drop_caches", "1").is_ok() {
        tokio::time::sleep(FREED).await;
    }
    memory::kernels_mib()
}

/// Of the whole host.
fn open_files() -> Result<f64, String> {
    let path = "/proc/sys/fs/file-nr";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let count = text.split_whitespace().next().and_then(|word| word.parse().ok());
    count.ok_or_else(|| format!("{path} says {text:?}"))
}
