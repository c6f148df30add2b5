//! Workspaces as a person has them: whole processes of `pyro workspace`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use super::{Bench, Measure, Row, Series};

const MEASURE: Measure = Measure::Workspace;

/// Nothing here takes more than some seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a workspace wrote before its disk is copied, in MiB.
const WRITTEN_MIB: u32 = 100;

/// A workspace, deleted with this.
struct Kept {
    pyro: PathBuf,
    id: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut delete = std::process::Command::new(&self.pyro);
        delete.args(["workspace", "delete", &self.id]).stdin(Stdio::null()).stdout(Stdio::null());
        // It is stopped and forgotten by itself later if this fails.
        let _ = delete.stderr(Stdio::null()).status();
    }
}

impl Bench<'_> {
    /// What `pyro workspace` with these words prints, and how long it took, ms.
    async fn workspace(&self, words: &[&str]) -> Result<(String, f64), String> {
        let mut command = Command::new(&self.plan.pyro);
        command.arg("workspace").args(words).stdin(Stdio::null()).kill_on_drop(true);
        let begin = Instant::now();
        let ended = tokio::time::timeout(DEADLINE, command.output()).await;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        let output = ended
            .map_err(|_| format!("it did not end within {} s", DEADLINE.as_secs()))?
            .map_err(|error| format!("{}: {error}", self.plan.pyro.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let why = said.lines().rfind(|line| line.starts_with("[error]")).unwrap_or("no reason given");
            return Err(format!("{}: {why}", words.join(" ")));
        }
        Ok((String::from_utf8_lossy(&output.stdout).trim().to_owned(), took))
    }

    async fn new_workspace(&self) -> Result<(Kept, f64), String> {
        let backend = self.factory.preference.name();
        let words =
            ["create", &self.plan.environment, "--backend", backend, "--ttl-seconds", "600", "--id-only"];
        let (id, took) = self.workspace(&words).await?;
        Ok((Kept { pyro: self.plan.pyro.clone(), id }, took))
    }

    /// A command in the workspace: how long all of it took, and the guest's part of that, ms.
    async fn exec(&self, kept: &Kept, words: &[&str]) -> Result<(f64, f64), String> {
        let all: Vec<&str> =
            ["exec", &kept.id, "--json", "--"].into_iter().chain(words.iter().copied()).collect();
        let (said, took) = self.workspace(&all).await?;
        let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        match (said["exit_code"].as_i64(), said["duration_ms"].as_f64()) {
            (Some(0), Some(guest)) => Ok((took, guest)),
            _ => Err(format!("{} failed in the guest: {}", words.join(" "), said["stderr"])),
        }
    }
}

pub(super) async fn figures(bench: &mut Bench<'_>) -> Vec<Row> {
    let [mut create, mut floor, mut exec, mut guest] = [const { Series::new() }; 4];
    let [mut snapshot, mut copied, mut reset, mut started] = [const { Series::new() }; 4];
    for _ in 0..bench.plan.amount.runs {
        bench.floor_sample(MEASURE, &mut floor, async |floor| floor.restore().await).await;
        let kept = match first_command(bench).await {
            Ok((kept, took)) => {
                bench.keep(MEASURE, &mut create, Ok(took));
                kept
            }
            Err(why) => {
                bench.keep(MEASURE, &mut create, Err(why));
                continue;
            }
        };
        // The second one: of the first nothing was translated yet.
        let (whole, part) = split(bench.exec(&kept, &["/bin/true"]).await);
        bench.keep(MEASURE, &mut exec, whole);
        bench.keep(MEASURE, &mut guest, part);
        let (ours, by_hand) = split(copies(bench, &kept).await);
        bench.keep(MEASURE, &mut snapshot, ours);
        bench.keep(MEASURE, &mut copied, by_hand);
        let (ours, by_hand) = split(resets(bench, &kept).await);
        bench.keep(MEASURE, &mut reset, ours);
        bench.keep(MEASURE, &mut started, by_hand);
    }
    let environment = &bench.plan.environment;
    let written = format!("of a workspace that wrote {WRITTEN_MIB} MiB");
    vec![
        Row::new(
            "workspace_create",
            "ms",
            format!("pyro workspace create {environment}, then exec -- /bin/true: first exec to last exit"),
            create,
        )
        .against("a restore of the bare VMM, spawn to first answer", floor),
        Row::new("workspace_exec", "ms", "pyro workspace exec ID -- /bin/true, exec to exit", exec)
            .against("the part of it in the guest: fork to reaped", guest),
        Row::new("workspace_snapshot", "ms", format!("pyro workspace snapshot create, {written}"), snapshot)
            .against("the same again by `sync` in its guest and `cp --sparse=always` of its disk", copied),
        Row::new("workspace_reset", "ms", format!("pyro workspace reset --snapshot, {written}"), reset)
            .against("pyro workspace create and that `cp`", started),
    ]
}

fn split<A, B>(both: Result<(A, B), String>) -> (Result<A, String>, Result<B, String>) {
    match both {
        Ok((a, b)) => (Ok(a), Ok(b)),
        Err(why) => (Err(why.clone()), Err(why)),
    }
}

async fn first_command(bench: &Bench<'_>) -> Result<(Kept, f64), String> {
    let (kept, made) = bench.new_workspace().await?;
    let (ran, _) = bench.exec(&kept, &["/bin/true"]).await?;
    Ok((kept, made + ran))
}

/// A snapshot of what was just written, and the same by hand of as much that was written anew.
async fn copies(bench: &Bench<'_>, kept: &Kept) -> Result<(f64, f64), String> {
    write(bench, kept).await?;
    let (_, ours) = bench.workspace(&["snapshot", "create", &kept.id, "bench"]).await?;
    write(bench, kept).await?;
    let (_, sync) = bench.exec(kept, &["/bin/sync"]).await?;
    Ok((ours, sync + copy(bench, kept).await?))
}

async fn write(bench: &Bench<'_>, kept: &Kept) -> Result<(), String> {
    let line = format!("head -c {} /dev/urandom > big", u64::from(WRITTEN_MIB) << 20);
    bench.exec(kept, &[&line]).await.map(drop)
}

/// A sparse copy of the workspace's disk, ms.
async fn copy(bench: &Bench<'_>, kept: &Kept) -> Result<f64, String> {
    let disk = bench.factory.config.workspaces_dir.join(&kept.id).join("disk.ext4");
    let to = bench.scratch.path().join("copy-of-disk");
    let mut cp = Command::new("cp");
    cp.arg("--sparse=always").arg(&disk).arg(&to).stdin(Stdio::null()).kill_on_drop(true);
    let begin = Instant::now();
    let status = cp.status().await.map_err(|error| format!("cp: {error}"))?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let _ = std::fs::remove_file(&to);
    if status.success() { Ok(took) } else { Err(format!("cp of {}: {status}", disk.display())) }
}

/// A reset to that snapshot, and what a start of a new workspace and such a copy take.
async fn resets(bench: &Bench<'_>, kept: &Kept) -> Result<(f64, f64), String> {
    let (_, ours) = bench.workspace(&["reset", &kept.id, "--snapshot", "bench"]).await?;
    let (_other, made) = bench.new_workspace().await?;
    Ok((ours, made + copy(bench, kept).await?))
}
